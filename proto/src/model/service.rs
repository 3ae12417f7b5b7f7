//! Services: what shall run, and how tasks are made of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;

use super::{Annotations, Driver, Meta, NetworkId, Platform, ServiceId};
use crate::wire;

#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    pub id: ServiceId,
    pub meta: Meta,
    pub spec: Arc<ServiceSpec>,
    /// Grows with every change of the spec. Tasks carry the one they were made from.
    pub spec_version: u64,
    pub previous_spec: Option<Arc<ServiceSpec>>,
    pub endpoint: Endpoint,
    pub update_status: Option<UpdateStatus>,
    /// To be removed once its tasks have ended.
    pub pending_delete: bool,
}

impl Service {
    pub fn name(&self) -> &str {
        &self.spec.annotations.name
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct ServiceSpec {
    pub annotations: Annotations,
    pub task: Arc<TaskSpec>,
    pub mode: Mode,
    pub update: UpdateConfig,
    pub rollback: Option<UpdateConfig>,
    pub endpoint: EndpointMode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Replicated {
        replicas: u64,
    },
    /// One task on each node that fits.
    Global,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EndpointMode {
    /// A virtual address per network.
    #[default]
    Vip,
    /// Names resolve to the tasks' addresses.
    DnsRoundRobin,
}

/// What managers only carry and never decide upon (`container`) is kept as it came.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskSpec {
    pub container: wire::ContainerSpec,
    pub limits: Resources,
    pub reservations: Resources,
    pub restart: RestartPolicy,
    pub placement: Placement,
    pub networks: Vec<AttachmentConfig>,
    pub log_driver: Option<Driver>,
    /// A counter; raising it replaces the tasks though nothing else changed.
    pub force_update: u64,
}

/// 0 means: not limited, nothing reserved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Billionths of a CPU.
    pub nano_cpus: u64,
    pub memory_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartPolicy {
    pub condition: RestartCondition,
    pub delay: Duration,
    /// 0: no limit.
    pub max_attempts: u64,
    /// Time in which attempts are counted; zero: for ever.
    pub window: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            condition: RestartCondition::Any,
            delay: Duration::from_secs(5),
            max_attempts: 0,
            window: Duration::ZERO,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestartCondition {
    None,
    OnFailure,
    #[default]
    Any,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Expressions as users write them: `node.labels.zone==east`.
    pub constraints: Vec<String>,
    pub preferences: Vec<Preference>,
    pub platforms: Vec<Platform>,
    /// Most tasks of the service on one node, 0: no limit.
    pub max_replicas: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Preference {
    /// Spread evenly over the values of, say, `node.labels.zone`.
    Spread(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachmentConfig {
    pub network: NetworkId,
    pub aliases: Vec<String>,
    /// Addresses asked for, as users write them.
    pub addresses: Vec<String>,
    pub options: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct UpdateConfig {
    /// Slots updated at a time, 0: all.
    pub parallelism: u64,
    /// How long a new task must have run before the next slot follows.
    pub delay: Duration,
    pub failure_action: FailureAction,
    /// How long a new task is watched: one that ends sooner has failed.
    pub monitor: Duration,
    /// Part of the slots that may fail, 0 to 1.
    pub max_failure_ratio: f32,
    pub order: UpdateOrder,
}

impl Default for UpdateConfig {
    fn default() -> Self {
        Self {
            parallelism: 1,
            delay: Duration::ZERO,
            failure_action: FailureAction::Pause,
            monitor: Duration::from_secs(5),
            max_failure_ratio: 0.0,
            order: UpdateOrder::StopFirst,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailureAction {
    #[default]
    Pause,
    Continue,
    Rollback,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpdateOrder {
    #[default]
    StopFirst,
    StartFirst,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpdateStatus {
    pub state: UpdateState,
    pub started_at: Option<SystemTime>,
    pub completed_at: Option<SystemTime>,
    pub message: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpdateState {
    #[default]
    Unknown,
    Updating,
    Paused,
    Completed,
    RollbackStarted,
    RollbackPaused,
    RollbackCompleted,
}

/// What the allocator gave the service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// The mode for which it was allocated.
    pub mode: EndpointMode,
    pub virtual_ips: Vec<VirtualIp>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualIp {
    pub network: NetworkId,
    /// With the mask length of its subnet.
    pub addr: IpNet,
}
