//! Sessions come and go; tasks do not notice.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto::wire::TaskState;
use proto::wire::{LogSelector, SubscriptionMessage};
use tokio::time::Instant;
use tonic::transport::Channel;
use worker::runtime::fake::Call;
use worker::{Config, Dial, Worker};

use super::lab::{self, Node, holds, task};
use super::manager::Manager;

#[tokio::test]
async fn another_manager_takes_over_without_touching_tasks() {
    let node = Node::new();
    let (first, second) = (Manager::start("m1").await, Manager::start("m2").await);
    for manager in [&first, &second] {
        manager.assign(vec![task("t1", 3)]);
        manager.name_managers(&[&first, &second]);
    }
    let worker = node.start(&[&first]);
    first.reported("t1", TaskState::Running).await;
    let mut session = worker.session();
    assert_eq!(session.borrow().managers.len(), 2);
    assert_eq!(session.borrow().root_ca, b"root");
    assert_eq!(session.borrow().node.as_ref().unwrap().id.as_str(), "n1");

    drop(first);
    second.sessions(1).await;
    let addr = second.addr.to_string();
    session.wait_for(|view| view.connected_to.as_ref() == Some(&addr)).await.unwrap();
    node.runtime.exit("t1", 0);
    second.reported("t1", TaskState::Complete).await;
    assert!(node.runtime.calls().iter().all(|(call, _)| *call != Call::Stop));
    worker.stop().await;
}

#[tokio::test]
async fn the_next_manager_is_told_how_much_the_node_knows() {
    let node = Node::new();
    let (first, second) = (Manager::start("m1").await, Manager::start("m2").await);
    for (manager, index) in [(&first, 7), (&second, 5)] {
        manager.told.index.store(index, Ordering::Relaxed);
        manager.assign(vec![task("t1", 3)]);
        manager.name_managers(&[&first, &second]);
    }
    let worker = node.start(&[&first]);
    first.reported("t1", TaskState::Running).await;
    assert_eq!(*first.told.known.borrow(), [0]);
    drop(first);
    lab::seen(&second.told.known, "directory stream", |known| (known[..] == [7]).then_some(())).await;
    worker.stop().await;
}

#[tokio::test]
async fn only_all_managers_together_can_tell_a_node_that_it_was_removed() {
    let node = Node::new();
    let (first, second) = (Manager::start("m1").await, Manager::start("m2").await);
    for manager in [&first, &second] {
        manager.name_managers(&[&first, &second]);
    }
    // One of them lags behind.
    first.told.dismisses.store(true, Ordering::Relaxed);
    let worker = node.start(&[&first, &second]);
    let mut session = worker.session();
    session.wait_for(|view| view.connected_to == Some(second.addr.to_string())).await.unwrap();
    assert!(!session.borrow().removed);
    worker.stop().await;

    second.told.dismisses.store(true, Ordering::Relaxed);
    let (of_first, of_second) = (*first.told.sessions.borrow(), *second.told.sessions.borrow());
    let worker = node.start(&[&first, &second]);
    let mut session = worker.session();
    session.wait_for(|view| view.removed).await.unwrap();
    assert!(*first.told.sessions.borrow() > of_first && *second.told.sessions.borrow() > of_second);
    worker.stop().await;
}

#[tokio::test]
async fn managers_are_remembered_over_a_restart() {
    let node = Node::new();
    let (first, second) = (Manager::start("m1").await, Manager::start("m2").await);
    first.name_managers(&[&first, &second]);
    let worker = node.start(&[&first]);
    let mut session = worker.session();
    session.wait_for(|view| view.managers.len() == 2).await.unwrap();
    // The list is written beside the session: only then is it known for the next start.
    let managers = || std::fs::read(node.database()).unwrap();
    let addr = second.addr.to_string();
    holds("the list is written", || managers().windows(addr.len()).any(|w| w == addr.as_bytes())).await;
    worker.stop().await;
    drop(first);
    let worker = node.start(&[]);
    second.sessions(1).await;
    worker.stop().await;
}

#[tokio::test]
async fn what_a_manager_did_not_acknowledge_is_told_to_the_next() {
    let node = Node::new();
    let (first, second) = (Manager::start("m1").await, Manager::start("m2").await);
    first.told.refuses_reports.store(true, Ordering::Relaxed);
    first.assign(vec![task("t1", 3)]);
    second.assign(vec![task("t1", 3)]);
    let worker = node.start(&[&first, &second]);
    second.reported("t1", TaskState::Running).await;
    assert!(first.states("t1").is_empty());
    worker.stop().await;
}

#[tokio::test]
async fn a_silent_manager_is_left() {
    let node = Node::new();
    let (deaf, other) = (Manager::start("m1").await, Manager::start("m2").await);
    deaf.told.deaf.store(true, Ordering::Relaxed);
    deaf.name_managers(&[&deaf, &other]);
    let worker = node.start(&[&deaf]);
    deaf.sessions(1).await;
    other.sessions(1).await;
    holds("it beats as often as it was told", || other.told.beats.load(Ordering::Relaxed) > 3).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_difference_out_of_order_ends_the_session_and_not_the_task() {
    let (node, manager) = (Node::new(), Manager::start("m1").await);
    manager.assign(vec![task("t1", 3)]);
    manager.told.skip.store(true, Ordering::Relaxed);
    let worker = node.start(&[&manager]);
    manager.reported("t1", TaskState::Running).await;
    manager.told.skip.store(false, Ordering::Relaxed);
    manager.assign(vec![task("t1", 3), task("t2", 4)]);
    manager.reported("t2", TaskState::Running).await;
    assert_eq!(*manager.told.sessions.borrow(), 2);
    assert!(node.runtime.calls().iter().all(|(call, _)| *call != Call::Stop));
    worker.stop().await;
}

#[tokio::test]
async fn output_is_published_to_its_end() {
    let (node, manager) = (Node::new(), Manager::start("m1").await);
    manager.assign(vec![task("t1", 3)]);
    let worker = node.start(&[&manager]);
    manager.reported("t1", TaskState::Running).await;
    let selector = LogSelector { task_ids: vec!["t1".into()], ..Default::default() };
    manager.subscribe(SubscriptionMessage {
        id: "sub".into(),
        selector: Some(selector),
        ..Default::default()
    });
    lab::seen(&manager.told.published, "end of the subscription", |published| {
        published.iter().any(|message| message.subscription_id == "sub" && message.close).then_some(())
    })
    .await;
    worker.stop().await;
}

/// Notes when it was asked, and reaches nobody.
struct Nobody(Mutex<Vec<Instant>>);

impl Dial for Nobody {
    fn channel(&self, _: &str) -> Result<Channel, Box<dyn std::error::Error + Send + Sync>> {
        self.0.lock().unwrap().push(Instant::now());
        Err("nobody is there".into())
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_become_rarer_up_to_four_seconds() {
    let (node, dial) = (Node::new(), Arc::new(Nobody(Mutex::default())));
    let worker = Worker::start(Config {
        node_id: "n1".into(),
        hostname: "h1".into(),
        labels: Default::default(),
        dial: dial.clone(),
        managers: vec!["192.0.2.1:2377".into()],
        runtime: node.runtime.clone(),
        kernel: node.kernel.clone(),
        data_root: node.dir.path().to_owned(),
        data_path_addr: None,
        tls: tokio::sync::watch::channel(Default::default()).1,
        parallel_starts: 1,
    })
    .unwrap();
    // The thread of the local database keeps the paused clock from going on by itself.
    for _ in 0..6_000 {
        tokio::time::advance(Duration::from_millis(10)).await;
        tokio::task::yield_now().await;
    }
    let attempts = dial.0.lock().unwrap().clone();
    let delays: Vec<Duration> = attempts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!((16..30).contains(&attempts.len()), "{delays:?}");
    assert!(delays[0] <= Duration::from_millis(120), "{delays:?}");
    let slow = delays.last().unwrap();
    assert!((Duration::from_millis(1_900)..=Duration::from_millis(4_100)).contains(slow), "{delays:?}");
    let view = worker.session().borrow().clone();
    assert_eq!(view.error.as_deref(), Some("manager 192.0.2.1:2377: cannot dial: nobody is there"));
    worker.stop().await;
}
