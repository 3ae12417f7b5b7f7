//! A task ends without losing what others have just sent it.

use std::collections::{BTreeMap, BTreeSet};

use proto::network::Endpoint;
use proto::wire::task_status::RuntimeStatus;
use proto::wire::{TaskState, TaskStatus};
use worker::runtime::fake::Call;

use super::lab::{self, Node, desired, endpoint, task};
use super::manager::Manager;

fn stops(node: &Node) -> usize {
    node.runtime.calls().iter().filter(|(call, _)| *call == Call::Stop).count()
}

#[tokio::test]
async fn a_task_stops_when_its_manager_knows_that_nobody_calls_it_any_more() {
    let (node, manager) = (Node::new(), Manager::start("m1").await);
    manager.assign(vec![task("t1", 3)]);
    let worker = node.start(&[&manager]);
    manager.reported("t1", TaskState::Running).await;
    manager.told.holds_drains.send_replace(true);
    manager.assign(vec![desired(task("t1", 3), TaskState::Shutdown)]);
    lab::seen(&manager.told.drains, "question", |drains| (drains == &["t1"]).then_some(())).await;
    assert_eq!(stops(&node), 0);
    manager.told.holds_drains.send_replace(false);
    manager.reported("t1", TaskState::Shutdown).await;
    assert_eq!(stops(&node), 1);
    worker.stop().await;
}

#[tokio::test]
async fn the_next_manager_is_asked_when_one_is_lost() {
    let node = Node::new();
    let (first, second) = (Manager::start("m1").await, Manager::start("m2").await);
    first.name_managers(&[&first, &second]);
    first.assign(vec![task("t1", 3)]);
    second.assign(vec![desired(task("t1", 3), TaskState::Shutdown)]);
    let worker = node.start(&[&first]);
    first.reported("t1", TaskState::Running).await;
    first.told.holds_drains.send_replace(true);
    first.assign(vec![desired(task("t1", 3), TaskState::Shutdown)]);
    lab::seen(&first.told.drains, "question", |drains| (drains == &["t1"]).then_some(())).await;
    drop(first);
    second.reported("t1", TaskState::Shutdown).await;
    assert_eq!(*second.told.drains.borrow(), ["t1"]);
    worker.stop().await;
}

#[tokio::test]
async fn a_process_that_has_died_is_told_before_its_network_is_gone() {
    let (node, manager) = (Node::new(), Manager::start("m1").await);
    manager.assign(vec![task("t1", 3)]);
    let worker = node.start(&[&manager]);
    manager.reported("t1", TaskState::Running).await;
    node.kernel.blocked.send_replace(true);
    node.runtime.exit("t1", 3);
    let died = |reports: &BTreeMap<String, Vec<TaskStatus>>| {
        let last = reports.get("t1")?.last()?;
        let Some(RuntimeStatus::Container(container)) = &last.runtime_status else { return None };
        (last.state() == TaskState::Running && container.pid == 0).then_some(container.exit_code)
    };
    assert_eq!(lab::seen(&manager.told.reports, "death", died).await, 3);
    node.kernel.blocked.send_replace(false);
    manager.reported("t1", TaskState::Failed).await;
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_without_an_answer_stops_all_the_same_after_a_while() {
    let drains = worker::agent::drains::Drains::default();
    let start = tokio::time::Instant::now();
    drains.wait(&"t1".into()).await;
    assert_eq!(start.elapsed().as_secs(), 6);
    drains.give_up();
    drains.wait(&"t2".into()).await;
    assert_eq!(start.elapsed().as_secs(), 6, "a node that leaves waits for nobody");
}

#[tokio::test]
async fn what_the_kernel_works_by_is_confirmed_when_a_manager_asks() {
    let (node, manager) = (Node::new(), Manager::start("m1").await);
    manager.assign(vec![task("t1", 3)]);
    let worker = node.start(&[&manager]);
    manager.reported("t1", TaskState::Running).await;
    assert!(manager.told.confirmed.borrow().is_empty());
    let leaving = Endpoint { ready: false, ..endpoint("t9", "n2", "192.0.2.2", 9) };
    manager.endpoints(vec![leaving]);
    let confirmed = |confirmed: &Vec<_>| {
        let networks: BTreeSet<_> =
            confirmed.iter().map(|c: &proto::network::Confirmed| c.network_id.clone()).collect();
        (networks == BTreeSet::from(["net1".to_owned()])).then_some(())
    };
    lab::seen(&manager.told.confirmed, "confirmation", confirmed).await;
    let world = node.kernel.world();
    assert!(world.networks.values().any(|overlay| overlay.peers.keys().any(|key| key.to_string() == "t9")));
    worker.stop().await;
}
