//! The one object about the swarm itself: its settings, its root CA, its address pools.

use std::time::Duration;

use ipnet::IpNet;

use super::{Annotations, ClusterId, Driver, Meta, Sensitive};

#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    pub id: ClusterId,
    pub meta: Meta,
    pub spec: ClusterSpec,
    pub root_ca: RootCa,
    /// Seals what managers keep on disk, if they are locked.
    pub unlock_key: Option<Sensitive<Vec<u8>>>,
    /// Pools for networks without a subnet of their own.
    pub default_address_pools: Vec<IpNet>,
    /// Mask length of the subnets taken from the pools.
    pub subnet_size: u8,
    /// UDP port for VXLAN (RFC 7348: 4789).
    pub vxlan_port: u16,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterSpec {
    pub annotations: Annotations,
    pub orchestration: OrchestrationConfig,
    pub raft: RaftConfig,
    pub dispatcher: DispatcherConfig,
    pub ca: CaConfig,
    pub default_log_driver: Option<Driver>,
    pub auto_lock_managers: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrchestrationConfig {
    /// Ended tasks kept per slot.
    pub task_history_retention_limit: u64,
}

impl Default for OrchestrationConfig {
    fn default() -> Self {
        Self { task_history_retention_limit: 5 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaftConfig {
    /// Log entries between snapshots.
    pub snapshot_interval: u64,
    /// Beside the newest one.
    pub keep_old_snapshots: u64,
    /// Log entries kept behind the newest snapshot.
    pub log_entries_for_slow_followers: u64,
    /// Kept and shown; managers have a timing of their own.
    pub heartbeat_tick: u32,
    /// As above.
    pub election_tick: u32,
}

impl Default for RaftConfig {
    fn default() -> Self {
        Self {
            snapshot_interval: 10_000,
            keep_old_snapshots: 0,
            log_entries_for_slow_followers: 500,
            heartbeat_tick: 1,
            election_tick: 10,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DispatcherConfig {
    /// A node that is silent for three periods is down.
    pub heartbeat_period: Duration,
}

impl Default for DispatcherConfig {
    fn default() -> Self {
        Self { heartbeat_period: Duration::from_secs(5) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaConfig {
    /// Life of a node's certificate. Where an external CA signs, that decides.
    pub node_cert_expiry: Duration,
    /// Who signs instead of the managers, asked in turn.
    pub external: Vec<ExternalCa>,
    /// A counter; raised, the root changes to a new one.
    pub force_rotate: u64,
}

impl Default for CaConfig {
    fn default() -> Self {
        let node_cert_expiry = Duration::from_secs(90 * 24 * 3600);
        Self { node_cert_expiry, external: Vec::new(), force_rotate: 0 }
    }
}

/// Signs by the CFSSL API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExternalCa {
    pub url: String,
    /// PEM: the root in whose name it signs. Empty in a request: the one that the swarm has.
    pub root: Vec<u8>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RootCa {
    /// PEM. Known to managers only.
    pub key: Sensitive<Vec<u8>>,
    /// PEM.
    pub cert: Vec<u8>,
    /// SHA-256 of the certificate as join tokens carry it.
    pub cert_digest: String,
    pub join_tokens: JoinTokens,
    /// While the root is being replaced.
    pub rotation: Option<RootRotation>,
    /// The counter of the settings when it was acted upon last.
    pub last_forced_rotation: u64,
}

/// The root that takes the place of the one so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RootRotation {
    /// PEM.
    pub cert: Vec<u8>,
    /// PEM. Known to managers only.
    pub key: Sensitive<Vec<u8>>,
    /// PEM: the next root, signed by the one so far.
    pub cross_signed: Vec<u8>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JoinTokens {
    pub worker: Sensitive<String>,
    pub manager: Sensitive<String>,
}
