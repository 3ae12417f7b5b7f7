//! A task with a health check: when it is told to run, and what becomes of one that is unhealthy.

use std::time::{Duration, SystemTime};

use proto::health::health::State;
use proto::wire::{self, TaskState};
use worker::runtime::Error;
use worker::runtime::fake::{Call, Fault};

use super::lab::{self, Node, container, desired, holds, task};
use super::manager::Manager;

const INTERVAL: Duration = Duration::from_millis(20);

fn checked(id: &str, host: u8, start_period: Duration) -> wire::Task {
    let mut task = task(id, host);
    container(&mut task).healthcheck = Some(wire::HealthConfig {
        test: vec!["CMD".into(), "check".into()],
        interval: INTERVAL.try_into().ok(),
        start_period: start_period.try_into().ok(),
        start_interval: INTERVAL.try_into().ok(),
        ..Default::default()
    });
    task
}

fn times(node: &Node, call: Call, id: &str) -> usize {
    node.runtime.calls().iter().filter(|(made, about)| *made == call && about == id).count()
}

fn health(status: &wire::TaskStatus) -> &proto::health::Health {
    let Some(wire::task_status::RuntimeStatus::Container(container)) = &status.runtime_status else {
        panic!("no container in {status:?}");
    };
    container.health.as_ref().unwrap()
}

#[tokio::test]
async fn it_runs_for_others_once_its_check_has_succeeded() {
    let (node, manager) = (Node::new(), Manager::start("m1").await);
    node.runtime.set_health("t1", 1, "connecting\nrefused");
    manager.assign(vec![checked("t1", 3, Duration::from_secs(600)), task("t2", 4)]);
    let worker = node.start(&[&manager]);
    manager.reported("t2", TaskState::Running).await;
    holds("probed", || times(&node, Call::Probe, "t1") > 5).await;
    let told = lab::seen(&manager.told.reports, "a failing check", |reports| {
        reports.get("t1")?.iter().find(|status| !status.err.is_empty()).cloned()
    })
    .await;
    assert_eq!((told.state(), told.err.as_str()), (TaskState::Starting, "health check: refused"));
    assert_eq!((health(&told).state(), health(&told).failing_streak), (State::Starting, 0));
    assert_eq!(manager.states("t1").iter().filter(|state| **state == TaskState::Starting).count(), 2);

    node.runtime.set_health("t1", 0, "fine");
    let running = manager.reported("t1", TaskState::Running).await;
    assert_eq!((running.err.as_str(), health(&running).state()), ("", State::Healthy));
    assert_eq!(health(&running).probes.last().unwrap().output, "fine");
    assert_eq!(times(&node, Call::Probe, "t2"), 0, "what has no check costs nothing");
    worker.stop().await;
}

#[tokio::test]
async fn an_unhealthy_task_is_stopped_when_nobody_calls_it_any_more_and_has_failed() {
    let (node, manager) = (Node::new(), Manager::start("m1").await);
    manager.assign(vec![checked("t1", 3, Duration::ZERO)]);
    let worker = node.start(&[&manager]);
    let since = manager.reported("t1", TaskState::Running).await.timestamp;
    manager.told.holds_drains.send_replace(true);
    node.runtime.set_health("t1", 3, "it is broken");
    lab::seen(&manager.told.drains, "question", |drains| (drains == &["t1"]).then_some(())).await;
    // Heard before the question, so that the answer is no guess.
    let told = manager.told.reports.borrow()["t1"].last().unwrap().clone();
    assert_eq!((told.state(), told.err.as_str()), (TaskState::Running, "unhealthy container: it is broken"));
    assert_eq!((health(&told).state(), health(&told).failing_streak), (State::Unhealthy, 3));
    assert_eq!(told.timestamp, since, "it runs since then");
    assert_eq!(times(&node, Call::Stop, "t1"), 0);

    manager.told.holds_drains.send_replace(false);
    let failed = manager.reported("t1", TaskState::Failed).await;
    assert_eq!(
        (failed.message.as_str(), failed.err.as_str()),
        ("started", "unhealthy container: it is broken")
    );
    assert!(health(&failed).succeeded);
    assert_eq!(times(&node, Call::Stop, "t1"), 1);
    worker.stop().await;
}

#[tokio::test]
async fn one_that_never_becomes_healthy_fails_and_asks_nobody() {
    let (node, manager) = (Node::new(), Manager::start("m1").await);
    node.runtime.set_health("t1", 1, "");
    manager.assign(vec![checked("t1", 3, Duration::ZERO)]);
    let worker = node.start(&[&manager]);
    let failed = manager.reported("t1", TaskState::Failed).await;
    assert_eq!(failed.err, "unhealthy container: its check exits with 1");
    assert!(!health(&failed).succeeded && !manager.states("t1").contains(&TaskState::Running));
    assert!(manager.told.drains.borrow().is_empty());
    assert_eq!(times(&node, Call::Probe, "t1"), 3);

    // Nor does one that shall stop before it was healthy.
    node.runtime.set_health("t2", 1, "");
    let unready = checked("t2", 4, Duration::from_secs(600));
    manager.assign(vec![unready.clone()]);
    holds("probed", || times(&node, Call::Probe, "t2") > 0).await;
    manager.assign(vec![desired(unready, TaskState::Shutdown)]);
    manager.reported("t2", TaskState::Shutdown).await;
    assert!(manager.told.drains.borrow().is_empty());
    worker.stop().await;
}

#[tokio::test]
async fn what_tells_nothing_counts_for_nothing() {
    let (node, manager) = (Node::new(), Manager::start("m1").await);
    for _ in 0..5 {
        let away = Error::Unavailable { reason: "containerd is away".into() };
        node.runtime.fail(Call::Probe, Fault::Error(away));
    }
    manager.assign(vec![checked("t1", 3, Duration::ZERO)]);
    let worker = node.start(&[&manager]);
    manager.reported("t1", TaskState::Running).await;
    assert_eq!(times(&node, Call::Probe, "t1"), 6);
    // One that hangs keeps nobody from ending.
    node.runtime.fail(Call::Probe, Fault::Hang);
    holds("probed", || times(&node, Call::Probe, "t1") > 6).await;
    manager.assign(vec![desired(checked("t1", 3, Duration::ZERO), TaskState::Shutdown)]);
    manager.reported("t1", TaskState::Shutdown).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_node_that_starts_again_goes_on_checking() {
    let (node, manager) = (Node::new(), Manager::start("m1").await);
    let healthy = checked("healthy", 3, Duration::ZERO);
    let unready = checked("unready", 4, Duration::from_secs(600));
    node.runtime.set_health("unready", 1, "");
    manager.assign(vec![healthy.clone(), unready.clone()]);
    let worker = node.start(&[&manager]);
    manager.reported("healthy", TaskState::Running).await;
    holds("probed", || times(&node, Call::Probe, "unready") > 0).await;
    worker.stop().await;
    drop(manager);

    // While it is away and as long as its check has not said otherwise, a task runs that was healthy.
    let manager = Manager::start("m1").await;
    manager.assign(vec![healthy, unready]);
    node.runtime.set_health("healthy", 1, "broken");
    let before = times(&node, Call::Probe, "healthy");
    let worker = node.start(&[&manager]);
    let running = manager.reported("healthy", TaskState::Running).await;
    assert_eq!(health(&running).state(), State::Healthy);
    let failed = manager.reported("healthy", TaskState::Failed).await;
    assert_eq!(failed.err, "unhealthy container: broken");
    assert_eq!(times(&node, Call::Probe, "healthy"), before + 3);
    node.runtime.set_health("unready", 0, "");
    let running = manager.reported("unready", TaskState::Running).await;
    assert!(SystemTime::try_from(running.timestamp.unwrap()).unwrap() <= SystemTime::now());
    for id in ["healthy", "unready"] {
        assert_eq!(times(&node, Call::Start, id), 1);
    }
    worker.stop().await;
}
