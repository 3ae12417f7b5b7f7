//! The life of a task, from assignment to the last trace.

use netdriver::{PeerKey, SandboxKey};
use proto::wire::TaskState;
use worker::runtime::Error;
use worker::runtime::fake::{Call, Fault};

use super::lab::{self, Node, container, desired, endpoint, holds, task};
use super::manager::Manager;

#[tokio::test]
async fn from_assignment_to_the_last_trace() {
    let (node, manager) = (Node::new(), Manager::start("m1").await);
    manager.endpoints(vec![endpoint("t1", "n1", "192.0.2.1", 3), endpoint("t9", "n2", "192.0.2.2", 4)]);
    manager.assign(vec![task("t1", 3)]);
    let worker = node.start(&[&manager]);
    let running = manager.reported("t1", TaskState::Running).await;
    assert_eq!((running.message.as_str(), running.err.as_str()), ("started", ""));
    assert!(manager.states("t1").is_sorted(), "{:?}", manager.states("t1"));
    assert_eq!(worker.stats().tasks_running, 1);

    let config = node.runtime.config("t1").unwrap();
    assert_eq!(config.netns.to_str().unwrap(), "/netns/s-t1");
    assert_eq!(config.hosts[0].names, ["t1"]);
    let world = node.kernel.world();
    let overlay = world.networks.values().next().unwrap();
    assert_eq!(overlay.vni, 4097);
    assert_eq!(overlay.local.to_string(), "127.0.0.1", "from where the manager is reached");
    assert_eq!(overlay.peers.keys().collect::<Vec<_>>(), [&PeerKey::new("t9")], "not its own");
    let sandbox = &world.sandboxes[&SandboxKey::new("t1")];
    assert!(sandbox.outbound);
    assert_eq!(sandbox.attachments[0].mac.to_string(), "02:42:0a:00:09:03");

    node.runtime.exit("t1", 0);
    manager.reported("t1", TaskState::Complete).await;
    node.runtime.called(Call::Remove, "t1").await;
    node.kernel.until("network gone", |world| world.networks.is_empty() && world.sandboxes.is_empty()).await;
    assert_eq!(worker.stats().tasks, 1, "its end is remembered until the managers forget it");
    manager.assign(vec![]);
    holds("forgotten", || worker.stats().tasks == 0).await;
    worker.stop().await;
}

#[tokio::test]
async fn its_end_is_told_only_after_its_network_is_gone() {
    let (node, manager) = (Node::new(), Manager::start("m1").await);
    manager.assign(vec![task("t1", 3), task("t2", 4)]);
    let worker = node.start(&[&manager]);
    manager.reported("t1", TaskState::Running).await;
    manager.reported("t2", TaskState::Running).await;
    node.kernel.blocked.send_replace(true);
    let before = node.kernel.passes.borrow().len();
    node.runtime.exit("t1", 3);
    lab::seen(&node.kernel.passes, "pass that removes", |passes| (passes.len() > before).then_some(())).await;
    // Others are not held up by it in what they tell.
    node.runtime.exit("t2", 0);
    assert_eq!(manager.states("t1").last(), Some(&TaskState::Running));
    assert!(node.kernel.world().sandboxes.contains_key(&SandboxKey::new("t1")));
    node.kernel.blocked.send_replace(false);
    let failed = manager.reported("t1", TaskState::Failed).await;
    assert_eq!(failed.err, "task: non-zero exit (3)");
    assert!(!node.kernel.world().sandboxes.contains_key(&SandboxKey::new("t1")));
    worker.stop().await;
}

#[tokio::test]
async fn it_waits_until_it_shall_run_and_stops_when_it_shall_not() {
    let (node, manager) = (Node::new(), Manager::start("m1").await);
    manager.assign(vec![desired(task("t1", 3), TaskState::Ready)]);
    let worker = node.start(&[&manager]);
    manager.reported("t1", TaskState::Ready).await;
    assert!(node.runtime.calls().iter().all(|(call, _)| *call != Call::Start));
    manager.assign(vec![task("t1", 3)]);
    manager.reported("t1", TaskState::Running).await;
    manager.assign(vec![desired(task("t1", 3), TaskState::Shutdown)]);
    manager.reported("t1", TaskState::Shutdown).await;
    node.runtime.called(Call::Stop, "t1").await;
    assert!(node.kernel.world().sandboxes.is_empty());
    worker.stop().await;
}

#[tokio::test]
async fn what_cannot_be_had_is_rejected_with_the_reason() {
    let (node, manager) = (Node::new(), Manager::start("m1").await);
    let gone = Error::NoSuchImage { image: "nginx".into() };
    node.runtime.fail(Call::Pull, Fault::Error(gone));
    manager.assign(vec![task("t1", 3)]);
    let worker = node.start(&[&manager]);
    assert_eq!(manager.reported("t1", TaskState::Rejected).await.err, "No such image: nginx");

    let (mut asks, mut damaged) = (task("t2", 4), task("t3", 5));
    container(&mut asks).tty = true;
    container(&mut asks).open_stdin = true;
    damaged.networks[0].network.as_mut().unwrap().driver_state = None;
    manager.assign(vec![asks, damaged]);
    let asked = manager.reported("t2", TaskState::Rejected).await;
    assert_eq!(asked.err, "open_stdin is not supported by this version");
    let damaged = manager.reported("t3", TaskState::Rejected).await;
    assert_eq!(damaged.err, "networks[0].network.driver_state is missing");
    node.kernel.until("nothing left", |world| world.sandboxes.is_empty() && world.networks.is_empty()).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_lost_answer_starts_nothing_twice() {
    let (node, manager) = (Node::new(), Manager::start("m1").await);
    let lost = || Fault::Lost(Error::Unavailable { reason: "gone for a moment".into() });
    node.runtime.fail(Call::Create, lost());
    node.runtime.fail(Call::Start, lost());
    node.runtime.fail(Call::Wait, Fault::Error(Error::Unavailable { reason: "again".into() }));
    manager.assign(vec![task("t1", 3)]);
    let worker = node.start(&[&manager]);
    manager.reported("t1", TaskState::Running).await;
    node.runtime.exit("t1", 0);
    manager.reported("t1", TaskState::Complete).await;
    let starts = node.runtime.calls().into_iter().filter(|(call, _)| *call == Call::Start).count();
    assert_eq!(starts, 1);
    worker.stop().await;
}

#[tokio::test]
async fn a_pull_that_hangs_does_not_keep_a_task_from_ending() {
    let (node, manager) = (Node::new(), Manager::start("m1").await);
    node.runtime.fail(Call::Pull, Fault::Hang);
    manager.assign(vec![task("t1", 3)]);
    let worker = node.start(&[&manager]);
    node.runtime.called(Call::Pull, "nginx").await;
    manager.assign(vec![desired(task("t1", 3), TaskState::Remove)]);
    manager.reported("t1", TaskState::Shutdown).await;
    worker.stop().await;
}

#[tokio::test]
async fn leaving_ends_all_tells_it_and_leaves_nothing() {
    let (node, manager) = (Node::new(), Manager::start("m1").await);
    manager.assign(vec![task("t1", 3), task("t2", 4)]);
    let worker = node.start(&[&manager]);
    manager.reported("t1", TaskState::Running).await;
    manager.reported("t2", TaskState::Running).await;
    worker.shutdown().await.unwrap();
    for id in ["t1", "t2"] {
        assert_eq!(manager.states(id).last(), Some(&TaskState::Shutdown));
        assert!(node.runtime.config(id).is_none());
    }
    assert_eq!(node.kernel.world(), netdriver::Desired::default());
    let again = node.start(&[]);
    assert_eq!(again.stats().tasks, 0);
    again.stop().await;
}

#[tokio::test]
async fn many_tasks_at_once_cost_few_passes_over_the_kernel_and_few_reports() {
    const TASKS: usize = 100;
    let (node, manager) = (Node::new(), Manager::start("m1").await);
    let ids: Vec<String> = (0..TASKS).map(|i| format!("t{i}")).collect();
    let worker = node.start(&[&manager]);
    manager.sessions(1).await;
    let begun = std::time::Instant::now();
    manager.assign(ids.iter().zip(3..).map(|(id, host)| task(id, host)).collect());
    for id in &ids {
        manager.reported(id, TaskState::Running).await;
    }
    let (passes, calls) = (node.kernel.passes.borrow().len(), *manager.told.calls.borrow());
    println!("{TASKS} tasks in {:?}, {passes} passes, {calls} calls", begun.elapsed());
    assert!(passes < TASKS / 4, "{passes} passes");
    assert!(calls < TASKS / 2, "{calls} calls");
    worker.stop().await;
}
