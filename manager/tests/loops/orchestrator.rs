//! Which tasks exist: replicated and global services, and the end of tasks.

use std::time::Duration;

use manager::allocator::Allocator;
use manager::orchestrator::{Orchestrator, Reaper};
use manager::scheduler::Scheduler;
use proto::model::*;

use crate::support::*;

fn slots(world: &World, service: &str) -> Vec<u64> {
    world.live(service).iter().map(|task| task.slot.0).collect()
}

/// Makes every live task run on the node that it is given.
pub async fn run_all(world: &World, service: &str) {
    world.settle(&Allocator).await;
    world.settle(&Scheduler).await;
    for task in world.live(service) {
        world.observe(&task.id, TaskState::Running).await;
    }
}

async fn running(nodes: usize, service: Service) -> World {
    let world = World::with_nodes(nodes).await;
    let name = service.name().to_owned();
    world.put(service).await;
    world.settle(&Orchestrator).await;
    run_all(&world, &name).await;
    world
}

fn global(name: &str) -> Service {
    let mut service = service(name, 0);
    spec_of(&mut service).mode = Mode::Global;
    service
}

fn nodes(world: &World, service: &str) -> Vec<String> {
    world.live(service).iter().filter_map(|task| task.node.as_ref().map(ToString::to_string)).collect()
}

#[tokio::test(start_paused = true)]
async fn scaling_fills_and_empties_slots() {
    let world = running(2, service("web", 3)).await;
    assert_eq!(slots(&world, "web"), [1, 2, 3]);
    let task = &world.live("web")[0];
    assert_eq!(task.annotations.name, format!("web.1.{}", task.id));
    assert_eq!(task.desired, TaskState::Running);
    world.scale("web", 1).await;
    assert_eq!(world.settle(&Orchestrator).await, 2);
    assert_eq!(slots(&world, "web").len(), 1);
    assert_eq!(world.tasks("web").iter().filter(|t| t.desired == TaskState::Remove).count(), 2);
    world.scale("web", 4).await;
    world.settle(&Orchestrator).await;
    assert_eq!(slots(&world, "web"), [1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn surplus_slots_are_those_that_do_not_run_then_those_on_crowded_nodes() {
    let world = running(2, service("web", 6)).await;
    let tasks = world.live("web");
    let quiet = tasks[1].clone();
    world.observe(&quiet.id, TaskState::Failed).await;
    world.settle(&Orchestrator).await;
    world.scale("web", 5).await;
    world.settle(&Orchestrator).await;
    assert!(!slots(&world, "web").contains(&quiet.slot.0));
    world.scale("web", 2).await;
    world.settle(&Orchestrator).await;
    let mut left = nodes(&world, "web");
    left.sort();
    assert_eq!(left, ["n1", "n2"]);
}

#[tokio::test(start_paused = true)]
async fn tasks_of_a_removed_service_are_removed_once_they_have_ended() {
    let world = running(1, service("web", 2)).await;
    world.write(|tx| tx.remove(ServiceId::from("web"))).await;
    assert_eq!(world.settle(&Orchestrator).await, 2);
    assert_eq!(world.settle(&Reaper).await, 0);
    let task = world.tasks("web")[0].clone();
    world.observe(&task.id, TaskState::Shutdown).await;
    assert_eq!(world.settle(&Reaper).await, 1);
    assert_eq!(world.tasks("web").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_change_of_labels_replaces_nothing() {
    let world = running(1, service("web", 2)).await;
    world
        .change_spec("web", |spec| {
            spec.annotations.labels.insert("team".into(), "a".into());
        })
        .await;
    assert!(world.actions(&Orchestrator).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_global_service_runs_once_on_every_node_that_fits() {
    let mut agent = global("agent");
    task_spec_of(&mut agent).placement.constraints = vec!["node.hostname!=n2".into()];
    let world = running(3, agent).await;
    assert_eq!(nodes(&world, "agent"), ["n1", "n3"]);
    world.put(node("n4")).await;
    world.settle(&Orchestrator).await;
    assert_eq!(nodes(&world, "agent"), ["n1", "n3", "n4"]);
    // A paused node keeps what it has and gets no more.
    world.change_node("n1", |node| node.spec.availability = Availability::Pause).await;
    assert_eq!(world.settle(&Orchestrator).await, 0);
    world.observe(&world.live("agent")[0].id, TaskState::Failed).await;
    world.settle(&Orchestrator).await;
    assert_eq!(nodes(&world, "agent"), ["n3", "n4"]);
    world.change_node("n1", |node| node.spec.availability = Availability::Active).await;
    world.change_node("n4", |node| node.spec.availability = Availability::Drain).await;
    world.settle(&Orchestrator).await;
    assert_eq!(nodes(&world, "agent"), ["n1", "n3"]);
}

#[tokio::test(start_paused = true)]
async fn a_global_task_comes_back_with_its_node() {
    let world = running(2, global("agent")).await;
    let old = world.live("agent")[0].clone();
    world.change_node("n1", |node| node.status.state = NodeState::Down).await;
    world.settle(&Orchestrator).await;
    assert_eq!(nodes(&world, "agent"), ["n2"]);
    world.change_node("n1", |node| node.status.state = NodeState::Ready).await;
    world.settle(&Orchestrator).await;
    assert_eq!(nodes(&world, "agent"), ["n1", "n2"]);
    assert_eq!(world.live("agent")[0].desired, TaskState::Ready, "the old task may still run");
    world.observe(&old.id, TaskState::Shutdown).await;
    world.settle(&Orchestrator).await;
    assert_eq!(world.live("agent")[0].desired, TaskState::Running);
}

#[tokio::test(start_paused = true)]
async fn tasks_of_a_removed_node_are_orphaned_and_removed() {
    let world = running(2, global("agent")).await;
    world.write(|tx| tx.remove(NodeId::from("n1"))).await;
    world.settle(&Orchestrator).await;
    assert_eq!(nodes(&world, "agent"), ["n2"]);
    let now = world.now();
    let orphan = world.actions(&Reaper);
    world
        .write(|tx| {
            use manager::reconcile::Plan;
            orphan.iter().for_each(|action| Reaper.commit(action, now, tx));
        })
        .await;
    assert!(world.tasks("agent").iter().any(|task| task.status.state == TaskState::Orphaned));
    world.settle(&Reaper).await;
    assert_eq!(world.tasks("agent").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn tasks_of_a_node_that_is_down_are_given_up_after_a_day() {
    let world = running(1, service("web", 1)).await;
    world.change_node("n1", |node| node.status.state = NodeState::Down).await;
    world.settle(&Orchestrator).await;
    let old = world.tasks("web").into_iter().find(|task| task.node.is_some()).unwrap();
    tokio::time::advance(Duration::from_secs(24 * 3600 - 1)).await;
    assert_eq!(world.settle(&Reaper).await, 0);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(world.settle(&Reaper).await, 1);
    assert_eq!(world.store.view().task(&old.id).unwrap().status.state, TaskState::Orphaned);
}

#[tokio::test(start_paused = true)]
async fn history_is_limited_and_stopped_tasks_without_a_node_are_no_history() {
    let mut web = service("web", 1);
    task_spec_of(&mut web).restart.delay = Duration::ZERO;
    let world = running(1, web).await;
    for _ in 0..8 {
        let task = &world.live("web")[0];
        world.observe(&task.id, TaskState::Complete).await;
        world.settle(&Orchestrator).await;
        world.settle(&Reaper).await;
        run_all(&world, "web").await;
    }
    assert_eq!(world.tasks("web").len(), 1 + 5);
    // Never had a node: nothing that happened.
    world.scale("web", 2).await;
    world.settle(&Orchestrator).await;
    world.scale("web", 1).await;
    world.settle(&Orchestrator).await;
    world.settle(&Reaper).await;
    assert!(world.tasks("web").iter().all(|task| task.slot.0 == 1));
}
