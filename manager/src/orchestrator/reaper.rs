//! Removes tasks that are over.
//!
//! A task goes when it is to be removed and has ended; when it was stopped before a node got it; and when it ended
//! and its slot has more ended tasks than the history limit, the oldest first. The last task of a slot stays: it
//! is what tells that the slot has ended for good. A task whose node was removed, or has been down for a day, is
//! declared orphaned: nobody will ever say how it ended, and its addresses must come free some day.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proto::model::{NodeId, NodeState, ServiceId, Slot, Task, TaskId, TaskState};
use raft_store::{Change, Object, Tables, Transaction};

use super::restart::retained;
use crate::reconcile::{Plan, Planned, Scope};

/// Until the tasks of a node that is down are given up.
const NODE_LOST: Duration = Duration::from_secs(24 * 3600);

pub struct Reaper;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Service(ServiceId),
    Node(NodeId),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Remove(TaskId),
    Orphan(TaskId),
}

impl Plan for Reaper {
    const NAME: &'static str = "reaper";
    type Key = Key;
    type Action = Action;

    fn keys(&self, change: &Change, _: &Tables) -> Vec<Key> {
        match (change.object(), &change.after) {
            (Object::Task(_), None) => Vec::new(),
            (Object::Task(task), Some(_)) if is_over(task) => vec![Key::Service(task.service.clone())],
            (Object::Node(node), after) if after.is_none() || node.status.state == NodeState::Down => {
                vec![Key::Node(node.id.clone())]
            }
            _ => Vec::new(),
        }
    }

    fn plan(&self, view: &Tables, scope: &Scope<Key>, now: SystemTime) -> Planned<Key, Action> {
        let keys = match scope {
            Scope::Keys(keys) => keys.clone(),
            Scope::All => all(view),
        };
        let mut planned = Planned::default();
        for key in keys {
            match &key {
                Key::Service(id) => planned.actions.extend(reap(view, id)),
                Key::Node(id) => match given_up(view, id) {
                    Some(at) if at > now => planned.wakes.push((at, key)),
                    Some(_) => {
                        let unfinished =
                            view.tasks_by_node(id).filter(|task| !task.status.state.is_terminal());
                        planned.actions.extend(unfinished.map(|task| Action::Orphan(task.id.clone())));
                    }
                    None => {}
                },
            }
        }
        planned
    }

    fn commit(&self, action: &Action, now: SystemTime, tx: &mut Transaction) {
        match action {
            Action::Remove(id) => {
                if tx.task(id).is_some_and(|task| is_over(task)) {
                    tx.remove(id);
                }
            }
            Action::Orphan(id) => {
                let unfinished = |task: &&Arc<Task>| !task.status.state.is_terminal();
                let Some(mut task) = tx.task(id).filter(unfinished).map(|task| Task::clone(task)) else {
                    return;
                };
                let back = task.node.as_ref().and_then(|id| tx.node(id));
                if back.is_some_and(|node| node.status.state != NodeState::Down) {
                    return;
                }
                task.status.state = TaskState::Orphaned;
                task.status.message = "its node is gone".into();
                task.status.timestamp = now;
                tx.update(task);
            }
        }
    }
}

fn all(view: &Tables) -> BTreeSet<Key> {
    let services: BTreeSet<&ServiceId> = view.tasks().map(|task| &task.service).collect();
    let nodes: BTreeSet<&NodeId> = view.tasks().filter_map(|task| task.node.as_ref()).collect();
    let services = services.into_iter().cloned().map(Key::Service);
    services.chain(nodes.into_iter().cloned().map(Key::Node)).collect()
}

/// Since when, or from when on, nothing more is expected of the node.
fn given_up(view: &Tables, id: &NodeId) -> Option<SystemTime> {
    match view.node(id) {
        None => Some(SystemTime::UNIX_EPOCH),
        Some(node) if node.status.state == NodeState::Down => Some(node.meta.updated_at + NODE_LOST),
        Some(_) => None,
    }
}

/// The task does not run and never will. Not the same as terminal: it may have been stopped before it had a node.
fn is_over(task: &Task) -> bool {
    task.status.state.is_terminal()
        || (task.desired > TaskState::Running && task.status.state < TaskState::Assigned)
}

fn reap(view: &Tables, service: &ServiceId) -> Vec<Action> {
    let limit = view.cluster().map_or(0, |cluster| cluster.spec.orchestration.task_history_retention_limit);
    let mut places: BTreeMap<(Slot, Option<&NodeId>), Vec<&Task>> = BTreeMap::new();
    for task in view.tasks_by_service(service) {
        let node = task.node.as_ref().filter(|_| task.slot == Slot(0));
        places.entry((task.slot, node)).or_default().push(task);
    }
    let actions = places.into_values().flat_map(|tasks| of_place(tasks, limit));
    actions.map(|task| Action::Remove(task.id.clone())).collect()
}

fn of_place(mut tasks: Vec<&Task>, limit: u64) -> Vec<&Task> {
    tasks.sort_by(|a, b| (b.meta.created_at, &b.id).cmp(&(a.meta.created_at, &a.id)));
    let last = tasks.iter().find(|task| task.desired < TaskState::Remove).map(|task| task.id.clone());
    let keep = tasks.first().map_or(limit, |newest| limit.max(retained(&newest.spec.restart)));
    let mut kept = 0;
    let mut goes = |task: &&Task| {
        let ended = task.status.state.is_terminal();
        if task.desired == TaskState::Remove || !ended {
            return is_over(task);
        }
        kept += 1;
        // What has just ended is still desired to run: the orchestrator has not seen to it yet.
        kept > keep && task.desired > TaskState::Running && Some(&task.id) != last.as_ref()
    };
    tasks.into_iter().filter(|task| goes(task)).collect()
}
