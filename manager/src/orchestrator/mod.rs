//! Decides which tasks shall exist and what is desired of them.
//!
//! One loop, and one plan a service, so that scaling, restarts and updates never disagree about a slot. Which
//! places (slots or nodes) a service has is up to `replicated` and `global`; when a task that ended is followed by
//! another, to `restart`; in which order tasks of an old spec are replaced, to `update`. `reaper`, a loop of
//! its own, removes what is over. Addresses and nodes are left to the allocator and the scheduler.
//!
//! A desired state is only ever raised. Nothing is kept but the objects themselves: delays and counts are derived
//! from the tasks of a slot, so a new leader goes on where the old one stopped.

mod cell;
mod global;
mod plan;
mod reaper;
mod replicated;
mod restart;
mod update;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use proto::model::{
    Annotations, Meta, Mode, Node, NodeId, Service, ServiceId, Slot, Task, TaskId, TaskState, TaskStatus,
    UpdateStatus,
};
use raft_store::{Change, Object, Tables, Transaction};

pub use self::reaper::Reaper;
use crate::reconcile::{Plan, Planned, Scope};

/// Where a task stands in its service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Of a replicated service.
    Slot(Slot),
    /// Of a global service.
    Node(NodeId),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// A new task of the service's spec. `desired` is `Ready` if it has to wait for another one, or for a delay.
    Create {
        service: ServiceId,
        spec_version: u64,
        place: Place,
        desired: TaskState,
    },
    Desire {
        task: TaskId,
        desired: TaskState,
    },
    Report {
        service: ServiceId,
        spec_version: u64,
        status: UpdateStatus,
    },
}

pub struct Orchestrator;

impl Plan for Orchestrator {
    const NAME: &'static str = "orchestrator";
    type Key = ServiceId;
    type Action = Action;

    fn keys(&self, change: &Change, view: &Tables) -> Vec<ServiceId> {
        let (before, after) = (change.before.as_ref(), change.after.as_ref());
        match change.object() {
            Object::Service(service) => {
                let matters =
                    service_matters(before.and_then(Object::as_service), after.and_then(Object::as_service));
                matters.then(|| service.id.clone()).into_iter().collect()
            }
            Object::Task(task) => {
                let matters = task_matters(before.and_then(Object::as_task), after.and_then(Object::as_task));
                matters.then(|| task.service.clone()).into_iter().collect()
            }
            Object::Node(node)
                if node_matters(before.and_then(Object::as_node), after.and_then(Object::as_node)) =>
            {
                concerned(node, view)
            }
            Object::Node(_) | Object::Network(_) | Object::Cluster(_) | Object::Keyring(_) => Vec::new(),
        }
    }

    fn plan(&self, view: &Tables, scope: &Scope<ServiceId>, now: SystemTime) -> Planned<ServiceId, Action> {
        let services: BTreeSet<&ServiceId> = match scope {
            Scope::All => {
                let of_tasks = view.tasks().map(|task| &task.service);
                view.services().map(|service| &service.id).chain(of_tasks).collect()
            }
            Scope::Keys(keys) => keys.iter().collect(),
        };
        let mut planned = Planned::default();
        for service in services {
            let plan = plan::service(view, service, now);
            planned.actions.extend(plan.actions);
            planned.wakes.extend(plan.wake.map(|at| (at, service.clone())));
        }
        planned
    }

    fn commit(&self, action: &Action, now: SystemTime, tx: &mut Transaction) {
        match action {
            Action::Create { service, spec_version, place, desired } => {
                let Some(service) = tx.service(service).filter(|s| s.spec_version == *spec_version).cloned()
                else {
                    return;
                };
                if !is_filled(tx, &service, place) {
                    let task = new_task(tx, &service, place, *desired, now);
                    tx.create(task);
                }
            }
            Action::Desire { task, desired } => {
                let Some(mut task) =
                    tx.task(task).filter(|task| task.desired < *desired).map(|t| Task::clone(t))
                else {
                    return;
                };
                task.desired = *desired;
                tx.update(task);
            }
            Action::Report { service, spec_version, status } => {
                let same = |service: &&Arc<Service>| service.spec_version == *spec_version;
                let Some(mut service) = tx.service(service).filter(same).map(|s| Service::clone(s)) else {
                    return;
                };
                service.update_status = Some(status.clone());
                tx.update(service);
            }
        }
    }
}

/// Somebody has created a task of this spec for the place meanwhile.
fn is_filled(tables: &Tables, service: &Service, place: &Place) -> bool {
    let same = |task: &Arc<Task>| {
        task.service == service.id
            && task.spec_version == service.spec_version
            && task.desired <= TaskState::Running
            && !task.status.state.is_terminal()
    };
    match place {
        Place::Slot(slot) => tables.tasks_by_slot(&service.id, *slot).any(same),
        // A node that is gone gets nothing either.
        Place::Node(node) => tables.node(node).is_none() || tables.tasks_by_node(node).any(same),
    }
}

fn new_task(tables: &Tables, service: &Service, place: &Place, desired: TaskState, now: SystemTime) -> Task {
    let id = TaskId::from_random(rand::random());
    let (slot, node, middle) = match place {
        Place::Slot(slot) => (*slot, None, slot.0.to_string()),
        Place::Node(node) => (Slot(0), Some(node.clone()), node.to_string()),
    };
    let default_log_driver = || tables.cluster().and_then(|cluster| cluster.spec.default_log_driver.clone());
    Task {
        annotations: Annotations {
            name: format!("{}.{middle}.{id}", service.name()),
            ..Annotations::default()
        },
        id,
        meta: Meta::default(),
        spec: service.spec.task.clone(),
        spec_version: service.spec_version,
        service: service.id.clone(),
        slot,
        node,
        service_annotations: service.spec.annotations.clone(),
        status: TaskStatus::new(TaskState::New, "created", now),
        desired,
        attachments: Vec::new(),
        endpoint: None,
        log_driver: service.spec.task.log_driver.clone().or_else(default_log_driver),
    }
}

fn service_matters(before: Option<&Arc<Service>>, after: Option<&Arc<Service>>) -> bool {
    let (Some(before), Some(after)) = (before, after) else { return true };
    before.spec_version != after.spec_version || before.update_status != after.update_status
}

/// On its way to running, a task decides nothing.
fn task_matters(before: Option<&Arc<Task>>, after: Option<&Arc<Task>>) -> bool {
    let (Some(before), Some(after)) = (before, after) else { return true };
    before.desired != after.desired
        || (before.status.state != after.status.state && after.status.state >= TaskState::Running)
}

fn node_matters(before: Option<&Arc<Node>>, after: Option<&Arc<Node>>) -> bool {
    let (Some(before), Some(after)) = (before, after) else { return true };
    before.status != after.status
        || before.spec != after.spec
        || before.role != after.role
        || before.description != after.description
}

/// Services with a task on the node, and those that may want one there.
fn concerned(node: &Node, view: &Tables) -> Vec<ServiceId> {
    let global =
        view.services().filter(|service| service.spec.mode == Mode::Global).map(|service| &service.id);
    let there = view.tasks_by_node(&node.id).map(|task| &task.service);
    let services: BTreeSet<&ServiceId> = global.chain(there).collect();
    services.into_iter().cloned().collect()
}
