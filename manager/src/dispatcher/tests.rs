//! Assignments: differences, and only what concerns the node; reports: only forward, only one's own.

use std::collections::BTreeMap;

use proto::health::{Health, Probe};
use proto::model::{Task, TaskState};
use proto::wire::assignment::Item;
use proto::wire::assignment_change::AssignmentAction;
use proto::wire::assignments_message::Type;
use proto::wire::update_task_status_request::TaskStatusUpdate;
use proto::wire::{self, AssignmentsMessage};
use raft_store::Store;

use super::assignments::{Assigned, Marks};
use super::status;
use crate::error::Error;
use crate::fanout::Marks as _;
use crate::fixtures::{in_state, network, node, node_id, put, remove, service, store, task, task_id};

struct Follower {
    assigned: Assigned,
    marks: Marks,
    watch: raft_store::Watch,
}

impl Follower {
    fn new(store: &Store) -> (Self, AssignmentsMessage) {
        let mut follower =
            Self { assigned: Assigned::new(node_id(1)), marks: Marks::default(), watch: store.watch() };
        let complete = follower.assigned.complete(&store.view());
        (follower, complete)
    }

    fn difference(&mut self, store: &Store) -> Option<AssignmentsMessage> {
        while let Some(commit) = self.watch.try_next().unwrap() {
            if let Some(touched) = Marks::touched(&commit) {
                self.marks.mark(&node_id(1), &touched);
            }
        }
        self.assigned.difference(&store.view(), std::mem::take(&mut self.marks))
    }
}

/// Task ids and whether they are updated or removed.
fn changes(message: &AssignmentsMessage) -> BTreeMap<&str, AssignmentAction> {
    let changes = message.changes.iter().map(|change| (assigned(change).id.as_str(), change.action()));
    changes.collect()
}

fn assigned(change: &wire::AssignmentChange) -> &wire::Task {
    let Some(Item::Task(task)) = &change.assignment.as_ref().unwrap().item else { panic!("a task") };
    task
}

async fn three_tasks() -> Store {
    let store = store().await;
    put(&store, [node(1), node(2)]).await;
    put(&store, [network(1)]).await;
    let web = service(1, &[1]);
    put(&store, [web.clone()]).await;
    let tasks =
        [task(1, &web, 1, &[1]), task(2, &web, 2, &[1]), in_state(task(3, &web, 1, &[1]), TaskState::New)];
    put(&store, tasks).await;
    store
}

#[tokio::test]
async fn a_node_is_told_its_own_tasks_with_their_networks() {
    let store = three_tasks().await;
    let (_, complete) = Follower::new(&store);
    assert_eq!(complete.r#type(), Type::Complete);
    assert_eq!(changes(&complete).keys().copied().collect::<Vec<_>>(), ["task1"]);
    let task = assigned(&complete.changes[0]);
    let network = task.networks[0].network.as_ref().unwrap();
    let driver = network.driver_state.as_ref().unwrap();
    assert_eq!(driver.options["com.docker.network.driver.overlay.vxlanid_list"], "4097");
    assert_eq!(network.ipam.as_ref().unwrap().configs[0].gateway, "10.0.1.1");
    assert_eq!(task.networks[0].addresses, ["10.0.1.3/24"]);
}

#[tokio::test]
async fn differences_follow_each_other() {
    let store = three_tasks().await;
    let web = service(1, &[1]);
    let (mut follower, complete) = Follower::new(&store);
    assert!(follower.difference(&store).is_none());

    put(&store, [in_state(task(3, &web, 1, &[1]), TaskState::Assigned)]).await;
    let second = follower.difference(&store).unwrap();
    assert_eq!(second.r#type(), Type::Incremental);
    assert_eq!(second.applies_to, complete.results_in);
    assert_eq!(changes(&second), BTreeMap::from([("task3", AssignmentAction::Update)]));

    let stop = Task { desired: TaskState::Shutdown, ..in_state(task(3, &web, 1, &[1]), TaskState::Assigned) };
    put(&store, [stop]).await;
    remove(&store, task_id(1)).await;
    let third = follower.difference(&store).unwrap();
    assert_eq!(third.applies_to, second.results_in);
    let expected = [("task1", AssignmentAction::Remove), ("task3", AssignmentAction::Update)];
    assert_eq!(changes(&third), BTreeMap::from(expected));
}

#[tokio::test]
async fn what_the_node_itself_reported_is_not_told_back() {
    let store = three_tasks().await;
    let web = service(1, &[1]);
    let (mut follower, _) = Follower::new(&store);
    put(&store, [in_state(task(1, &web, 1, &[1]), TaskState::Running)]).await;
    // Nor what happens elsewhere.
    put(&store, [in_state(task(2, &web, 2, &[1]), TaskState::Running)]).await;
    assert!(follower.difference(&store).is_none());
    // An ended task stays until it is removed: its output is still there.
    put(&store, [in_state(task(1, &web, 1, &[1]), TaskState::Failed)]).await;
    assert!(follower.difference(&store).is_none());
}

#[tokio::test]
async fn a_change_of_the_network_reaches_its_tasks() {
    let store = three_tasks().await;
    let (mut follower, _) = Follower::new(&store);
    let mut changed = network(1);
    changed.spec.annotations.labels.insert("a".into(), "b".into());
    put(&store, [changed]).await;
    assert_eq!(changes(&follower.difference(&store).unwrap()).len(), 1);
}

#[tokio::test]
async fn after_a_gap_only_what_differs_is_told() {
    let store = three_tasks().await;
    let (mut follower, _) = Follower::new(&store);
    remove(&store, task_id(1)).await;
    follower.watch = store.watch();
    follower.marks.mark_all();
    let difference = follower.difference(&store).unwrap();
    assert_eq!(changes(&difference), BTreeMap::from([("task1", AssignmentAction::Remove)]));
}

fn report(task: &str, state: wire::TaskState) -> TaskStatusUpdate {
    let status = wire::TaskStatus { state: state.into(), message: "m".into(), ..Default::default() };
    TaskStatusUpdate { task_id: task.into(), status: Some(status) }
}

#[tokio::test]
async fn a_node_reports_of_its_own_tasks() {
    let store = three_tasks().await;
    let view = store.view();
    let read = |updates| status::read(&view, &node_id(1), updates);
    let denied = read(vec![report("task2", wire::TaskState::Running)]).unwrap_err();
    assert_eq!(denied, Error::Denied("task task2 is not a task of node node1".into()));
    // A task that is no more is nobody's.
    let known =
        read(vec![report("gone", wire::TaskState::Running), report("task1", wire::TaskState::Running)]);
    assert_eq!(known.unwrap().len(), 1);
}

#[tokio::test]
async fn a_node_reports_what_a_node_can_see() {
    let store = three_tasks().await;
    let read = |update| status::read(&store.view(), &node_id(1), vec![update]).unwrap_err().to_string();
    let orphaned = read(report("task1", wire::TaskState::Orphaned));
    assert!(orphaned.starts_with("updates[0].status.state has the value \"orphaned\""), "{orphaned}");
    let missing = TaskStatusUpdate { task_id: "task1".into(), status: None };
    assert_eq!(read(missing), "updates[0].status is missing");
    let foreign = wire::TaskStatus { state: 77, ..Default::default() };
    let foreign = read(TaskStatusUpdate { task_id: "task1".into(), status: Some(foreign) });
    assert!(foreign.starts_with("updates[0].status.state has the value \"77\""), "{foreign}");
}

#[tokio::test]
async fn states_only_move_forward() {
    let store = three_tasks().await;
    let (reports, writer) = status::channel(store.clone());
    let state = || store.view().task(&task_id(1)).unwrap().status.state;
    let write = async |update| {
        let updates = status::read(&store.view(), &node_id(1), vec![update]).unwrap();
        reports.write(node_id(1), updates).await.unwrap();
    };
    let story = async {
        write(report("task1", wire::TaskState::Running)).await;
        assert_eq!(state(), TaskState::Running);
        write(report("task1", wire::TaskState::Preparing)).await;
        assert_eq!(state(), TaskState::Running);
        write(report("task1", wire::TaskState::Failed)).await;
        assert_eq!(state(), TaskState::Failed);
        let written = store.view().task(&task_id(1)).unwrap().status.clone();
        assert_eq!(written.applied_by, "node1");
        assert!(written.applied_at.is_some());
        // The same again is no news, and costs no entry.
        let index = store.view().index();
        write(report("task1", wire::TaskState::Failed)).await;
        assert_eq!(store.view().index(), index);
    };
    tokio::select! {
        () = writer.run() => panic!("the writer runs as long as there are reporters"),
        () = story => {}
    }
}

#[tokio::test]
async fn what_is_told_of_health_is_bounded_and_keeps_the_time_of_the_state() {
    let store = three_tasks().await;
    let (reports, writer) = status::channel(store.clone());
    let write = async |probes: usize| {
        let probe = Probe { output: "ä".repeat(5000), ..Probe::default() };
        let health = Some(Health { probes: vec![probe; probes], ..Health::default() });
        let container = wire::ContainerStatus { health, ..Default::default() };
        let mut told = report("task1", wire::TaskState::Starting);
        told.status.as_mut().unwrap().runtime_status =
            Some(wire::task_status::RuntimeStatus::Container(container));
        let updates = status::read(&store.view(), &node_id(1), vec![told]).unwrap();
        reports.write(node_id(1), updates).await.unwrap();
        store.view().task(&task_id(1)).unwrap().status.clone()
    };
    let story = async {
        let first = write(1).await;
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        let second = write(9).await;
        assert_eq!(second.applied_at, first.applied_at);
        let probes = &second.health().unwrap().probes;
        assert_eq!((probes.len(), probes[0].output.len()), (5, 1024));
    };
    tokio::select! {
        () = writer.run() => panic!("the writer runs as long as there are reporters"),
        () = story => {}
    }
}

#[tokio::test]
async fn many_reports_share_an_entry() {
    let store = three_tasks().await;
    let (reports, writer) = status::channel(store.clone());
    let before = store.view().index();
    let one = |number: u8, node: u8| {
        let update = report(task_id(number).as_str(), wire::TaskState::Running);
        let updates = status::read(&store.view(), &node_id(node), vec![update]).unwrap();
        reports.write(node_id(node), updates)
    };
    let (first, second) = (one(1, 1), one(2, 2));
    tokio::select! {
        biased;
        (first, second) = async { tokio::join!(first, second) } => {
            first.unwrap();
            second.unwrap();
        }
        () = writer.run() => panic!("the writer runs as long as there are reporters"),
    }
    assert_eq!(store.view().index(), before + 1);
}
