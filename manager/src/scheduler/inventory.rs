//! What the nodes have left, while a plan hands it out.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use proto::model::{Node, NodeId, Resources, ServiceId, Task, TaskState};
use raft_store::Tables;

/// Failures older than this no longer speak against a node.
const FAILURES_COUNT_FOR: Duration = Duration::from_secs(5 * 60);

pub struct Inventory<'a> {
    nodes: Vec<Stock<'a>>,
    by_id: HashMap<&'a NodeId, usize>,
    /// Of the services that wait, by node.
    services: HashMap<&'a ServiceId, Vec<Count>>,
}

pub struct Stock<'a> {
    pub node: &'a Node,
    /// Neither reserved nor promised.
    pub free: Resources,
    /// Tasks of all services that run or shall run.
    pub active: u64,
}

/// Tasks of one service on one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub active: u64,
    pub failures: u64,
}

impl<'a> Inventory<'a> {
    /// Counts per service are taken of `services` only.
    pub fn new(view: &'a Tables, services: &HashSet<&'a ServiceId>, now: SystemTime) -> Self {
        let nodes: Vec<Stock<'a>> = view.nodes().map(|node| Stock::of(node)).collect();
        let by_id = nodes.iter().enumerate().map(|(at, stock)| (&stock.node.id, at)).collect();
        let services = services.iter().map(|id| (*id, vec![Count::default(); nodes.len()])).collect();
        let mut inventory = Self { nodes, by_id, services };
        for task in view.tasks() {
            inventory.count(task, now);
        }
        inventory
    }

    fn count(&mut self, task: &Task, now: SystemTime) {
        let Some(at) = task.node.as_ref().and_then(|node| self.position(node)) else { return };
        if occupies(task) {
            self.nodes[at].reserve(&task.spec.reservations);
        }
        let count = self.services.get_mut(&task.service).map(|counts| &mut counts[at]);
        if occupies(task) && task.desired <= TaskState::Running {
            self.nodes[at].active += 1;
            if let Some(count) = count {
                count.active += 1;
            }
        } else if failed_lately(task, now)
            && let Some(count) = count
        {
            count.failures += 1;
        }
    }

    /// Hands out the place that `task` was given.
    pub fn take(&mut self, at: usize, task: &Task) {
        self.nodes[at].reserve(&task.spec.reservations);
        self.nodes[at].active += 1;
        if let Some(counts) = self.services.get_mut(&task.service) {
            counts[at].active += 1;
        }
    }

    pub fn position(&self, node: &NodeId) -> Option<usize> {
        self.by_id.get(node).copied()
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn stock(&self, at: usize) -> &Stock<'a> {
        &self.nodes[at]
    }

    pub fn count_of(&self, service: &ServiceId, at: usize) -> Count {
        self.services.get(service).map_or(Count::default(), |counts| counts[at])
    }
}

impl<'a> Stock<'a> {
    fn of(node: &'a Node) -> Self {
        let free = node.description.as_ref().map_or(Resources::default(), |description| Resources {
            nano_cpus: description.nano_cpus,
            memory_bytes: description.memory_bytes,
        });
        Self { node, free, active: 0 }
    }

    fn reserve(&mut self, reserved: &Resources) {
        self.free.nano_cpus = self.free.nano_cpus.saturating_sub(reserved.nano_cpus);
        self.free.memory_bytes = self.free.memory_bytes.saturating_sub(reserved.memory_bytes);
    }
}

/// The task has a place on its node until it has ended there, whatever is desired of it.
fn occupies(task: &Task) -> bool {
    (TaskState::Assigned..=TaskState::Running).contains(&task.status.state)
}

fn failed_lately(task: &Task, now: SystemTime) -> bool {
    let failed = matches!(task.status.state, TaskState::Failed | TaskState::Rejected);
    let ended = task.status.applied_at.unwrap_or(task.status.timestamp);
    failed && now.duration_since(ended).unwrap_or_default() <= FAILURES_COUNT_FOR
}
