//! Gives networks their identifier and subnets, services their virtual addresses, tasks their addresses.
//!
//! There is no allocator state: what is in use is an index over the objects themselves, and the store refuses an
//! address that is taken. A task that got all it asks for goes from NEW to PENDING. One that cannot says why, and is
//! looked at again when something that it may need is released.
//!
//! Precedence: a network comes before the services on it, a service's virtual addresses before its tasks, and tasks in
//! the order in which they were made. So a task waits for its service to have its virtual addresses: better a
//! service that says why it does not start than one that runs and cannot be reached by its name.

mod addresses;
mod networks;
mod plan;

use std::sync::Arc;
use std::time::SystemTime;

use ipnet::IpNet;
use proto::model::{
    Attachment, Endpoint, Network, NetworkId, NetworkState, Service, ServiceId, Task, TaskId, TaskState,
};
use raft_store::{Change, Object, Tables, Transaction};

use crate::reconcile::{Plan, Planned, Scope};
use crate::waiting;

/// The state from which tasks are taken on here.
const WAITING: TaskState = TaskState::New;

pub struct Allocator;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// The network, and whatever waits for something of it.
    Network(NetworkId),
    /// The service and its tasks.
    Service(ServiceId),
    Task(TaskId),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Network {
        network: NetworkId,
        state: NetworkState,
    },
    Service {
        service: ServiceId,
        spec_version: u64,
        endpoint: Endpoint,
    },
    Task {
        task: TaskId,
        attachments: Vec<Attachment>,
        endpoint: Endpoint,
    },
    /// The task goes on waiting, for another reason than it says.
    Explain {
        task: TaskId,
        err: String,
    },
}

impl Plan for Allocator {
    const NAME: &'static str = "allocator";
    type Key = Key;
    type Action = Action;

    fn keys(&self, change: &Change, view: &Tables) -> Vec<Key> {
        let (before, after) = (change.before.as_ref(), change.after.as_ref());
        match change.object() {
            Object::Network(network) if after.is_some() => vec![Key::Network(network.id.clone())],
            // A subnet and an identifier are free.
            Object::Network(_) => waiting_networks(view),
            Object::Service(_) => {
                of_service(before.and_then(Object::as_service), after.and_then(Object::as_service))
            }
            Object::Task(_) => of_task(before.and_then(Object::as_task), after.and_then(Object::as_task)),
            // Its address pools may have changed.
            Object::Cluster(_) => waiting_networks(view),
            Object::Keyring(_) => Vec::new(),
            // Its routes may have.
            Object::Node(_) => {
                let routes = |version: Option<&Object>| -> Vec<IpNet> {
                    version.and_then(Object::as_node).into_iter().flat_map(|node| node.routes()).collect()
                };
                if routes(before) == routes(after) { Vec::new() } else { waiting_networks(view) }
            }
        }
    }

    fn plan(&self, view: &Tables, scope: &Scope<Key>, _: SystemTime) -> Planned<Key, Action> {
        Planned { actions: plan::plan(view, scope), wakes: Vec::new() }
    }

    fn commit(&self, action: &Action, now: SystemTime, tx: &mut Transaction) {
        match action {
            Action::Network { network, state } => {
                let stateless = tx.network(network).filter(|network| network.state.is_none());
                let Some(mut network) = stateless.map(|network| Network::clone(network)) else { return };
                network.state = Some(state.clone());
                tx.update(network);
            }
            Action::Service { service, spec_version, endpoint } => {
                let same = tx.service(service).filter(|service| service.spec_version == *spec_version);
                let Some(mut service) = same.map(|service| Service::clone(service)) else { return };
                service.endpoint = endpoint.clone();
                tx.update(service);
            }
            Action::Task { task, attachments, endpoint } => {
                let Some(mut task) = waiting::find(tx, task, WAITING) else { return };
                task.attachments.clone_from(attachments);
                task.endpoint = Some(endpoint.clone());
                task.status.state = TaskState::Pending;
                task.status.message = "pending task scheduling".into();
                task.status.err.clear();
                task.status.timestamp = now;
                tx.update(task);
            }
            Action::Explain { task, err } => waiting::explain(tx, task, WAITING, err),
        }
    }
}

/// The task is still to be given its addresses.
fn waits(task: &Task) -> bool {
    waiting::waits(task, WAITING)
}

fn waiting_networks(view: &Tables) -> Vec<Key> {
    view.networks()
        .filter(|network| network.state.is_none() && !network.spec.is_config_only())
        .map(|network| Key::Network(network.id.clone()))
        .collect()
}

type Versions<'a, T> = Option<&'a Arc<T>>;

fn of_service(before: Versions<'_, Service>, after: Versions<'_, Service>) -> Vec<Key> {
    let kept = |network: &NetworkId, addr: &IpNet| {
        after.is_some_and(|s| {
            s.endpoint.virtual_ips.iter().any(|vip| vip.network == *network && vip.addr == *addr)
        })
    };
    let held = before.into_iter().flat_map(|service| &service.endpoint.virtual_ips);
    let released =
        held.filter(|vip| !kept(&vip.network, &vip.addr)).map(|vip| Key::Network(vip.network.clone()));
    let unchanged = |after: &&Arc<Service>| {
        before.is_some_and(|b| b.spec_version == after.spec_version && b.endpoint == after.endpoint)
    };
    let changed = after.filter(|after| !unchanged(after)).map(|service| Key::Service(service.id.clone()));
    released.chain(changed).collect()
}

fn of_task(before: Versions<'_, Task>, after: Versions<'_, Task>) -> Vec<Key> {
    if let (None, Some(task)) = (before, after) {
        return if waits(task) { vec![Key::Task(task.id.clone())] } else { Vec::new() };
    }
    let holds = |task: &&Arc<Task>| !task.status.state.is_terminal();
    match (before.filter(holds), after.filter(holds)) {
        (Some(held), None) => held.attachments.iter().map(|a| Key::Network(a.network.clone())).collect(),
        _ => Vec::new(),
    }
}
