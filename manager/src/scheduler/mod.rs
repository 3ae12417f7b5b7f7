//! Chooses a node for every task that waits for one.
//!
//! `plan` is pure. Which nodes fit is up to `filter`, which of them is best to `rank`. Tasks of global services come
//! with their node: for them only the filters are asked. A task that fits nowhere stays where it is and says
//! why; it is looked at again when a node, a task or the resources in use change, never by polling.
//!
//! Invariant: what is placed in one plan counts for the rest of it, so that no node is promised more than it has.

pub mod constraint;
mod filter;
mod inventory;
mod plan;
pub mod platform;
mod rank;

use std::sync::Arc;
use std::time::SystemTime;

use proto::model::{Availability, Node, NodeState, Task, TaskState};
use raft_store::{Change, Object, Tables, Transaction};

pub use self::filter::is_eligible;
pub use self::plan::{Action, plan};
use crate::reconcile::{Plan, Planned, Scope};
use crate::waiting;

/// The state from which tasks are taken on here.
const WAITING: TaskState = TaskState::Pending;

/// The loop: whatever changes, all that waits is planned together, since it competes for the same nodes.
pub struct Scheduler;

impl Plan for Scheduler {
    const NAME: &'static str = "scheduler";
    type Key = ();
    type Action = Action;

    fn keys(&self, change: &Change, _: &Tables) -> Vec<()> {
        let (before, after) = (change.before.as_ref(), change.after.as_ref());
        let matters = match change.object() {
            Object::Node(_) => {
                node_matters(before.and_then(Object::as_node), after.and_then(Object::as_node))
            }
            Object::Task(_) => {
                task_matters(before.and_then(Object::as_task), after.and_then(Object::as_task))
            }
            Object::Service(_) | Object::Network(_) | Object::Cluster(_) | Object::Keyring(_) => false,
        };
        if matters { vec![()] } else { Vec::new() }
    }

    fn plan(&self, view: &Tables, _: &Scope<()>, now: SystemTime) -> Planned<(), Action> {
        Planned { actions: plan(view, now), wakes: Vec::new() }
    }

    fn commit(&self, action: &Action, now: SystemTime, tx: &mut Transaction) {
        match action {
            Action::Assign { task, node } => {
                let there = tx.node(node).is_some_and(|node| filter::takes_tasks(node));
                let Some(mut task) = waiting::find(tx, task, WAITING).filter(|_| there) else { return };
                task.node = Some(node.clone());
                task.status.state = TaskState::Assigned;
                task.status.message = "scheduler assigned task to node".into();
                task.status.err.clear();
                task.status.timestamp = now;
                tx.update(task);
            }
            Action::Explain { task, err } => waiting::explain(tx, task, WAITING, err),
        }
    }
}

/// The task is ready to be given a node.
fn waits(task: &Task) -> bool {
    waiting::waits(task, WAITING)
}

/// Whether a node may now take tasks that it could not take before.
fn node_matters(before: Option<&Arc<Node>>, after: Option<&Arc<Node>>) -> bool {
    let Some(after) = after else { return false };
    let Some(before) = before else { return true };
    let seen = |node: &Arc<Node>| {
        (node.status.state == NodeState::Ready, node.spec.availability == Availability::Active)
    };
    seen(before) != seen(after)
        || before.spec != after.spec
        || before.role != after.role
        || before.description != after.description
        || before.status.addr != after.status.addr
}

/// Whether a task now waits, or leaves room for one that does.
fn task_matters(before: Option<&Arc<Task>>, after: Option<&Arc<Task>>) -> bool {
    let occupies = |task: &Arc<Task>| task.node.is_some() && !task.status.state.is_terminal();
    let active = |task: &Arc<Task>| task.desired <= TaskState::Running;
    match (before, after) {
        (before, Some(after)) if waits(after) => !before.is_some_and(|before| waits(before)),
        (Some(before), Some(after)) => {
            (occupies(before) && !occupies(after)) || (active(before) && !active(after))
        }
        (Some(before), None) => occupies(before) || active(before),
        (None, _) => false,
    }
}
