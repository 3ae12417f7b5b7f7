//! Tasks: one run of one container, on one node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::IpNet;

use super::{
    Annotations, Driver, Endpoint, Health, Meta, NetworkId, NodeId, ServiceId, TaskId, TaskSpec, TaskState,
};

/// Never changes its node; a replacement is another task in the same slot.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    pub id: TaskId,
    pub meta: Meta,
    pub spec: Arc<TaskSpec>,
    /// `Service::spec_version` from which it was made.
    pub spec_version: u64,
    pub service: ServiceId,
    pub slot: Slot,
    /// Set by the scheduler, or at once for a task of a global service.
    pub node: Option<NodeId>,
    /// The name is `service.slot.id`, or `service.node.id` for global services.
    pub annotations: Annotations,
    pub service_annotations: Annotations,
    pub status: TaskStatus,
    pub desired: TaskState,
    pub attachments: Vec<Attachment>,
    /// The service's endpoint at the time of allocation.
    pub endpoint: Option<Endpoint>,
    pub log_driver: Option<Driver>,
}

impl Task {
    /// Has a node, which may need the task's networks for it, and has not ended.
    pub fn is_placed(&self) -> bool {
        self.status.state >= TaskState::Assigned && !self.status.state.is_terminal()
    }
}

/// Numbers replicas from 1. Tasks of global services have 0 and are told apart by node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u64);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskStatus {
    pub timestamp: SystemTime,
    pub state: TaskState,
    pub message: String,
    /// Why it failed or waits; empty if it does neither.
    pub err: String,
    pub container: Option<ContainerStatus>,
    /// Id of the node that reported it.
    pub applied_by: String,
    pub applied_at: Option<SystemTime>,
}

impl TaskStatus {
    pub fn new(state: TaskState, message: &str, timestamp: SystemTime) -> Self {
        Self {
            timestamp,
            state,
            message: message.into(),
            err: String::new(),
            container: None,
            applied_by: String::new(),
            applied_at: None,
        }
    }

    /// Its process has ended, although it counts as running until its network is gone.
    pub fn has_died(&self) -> bool {
        self.container.as_ref().is_some_and(|container| container.pid == 0)
    }

    /// What its health check says; none if it has none.
    pub fn health(&self) -> Option<&Health> {
        self.container.as_ref()?.health.as_ref()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerStatus {
    pub container_id: String,
    /// 0: no process runs.
    pub pid: i32,
    pub exit_code: i32,
    /// None if it has no health check.
    pub health: Option<Health>,
}

/// The task's place on a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub network: NetworkId,
    /// One a subnet, with its mask length.
    pub addresses: Vec<IpNet>,
    pub aliases: Vec<String>,
    pub options: BTreeMap<String, String>,
}
