//! The settings that `swarm init` and `swarm update` share.

use std::time::Duration;

use clap::Args;
use proto::wire::{
    CaConfig, ClusterSpec, DispatcherConfig, EncryptionConfig, OrchestrationConfig, RaftConfig,
};

use crate::units;

#[derive(Debug, Default, Args)]
pub struct Settings {
    /// Ended tasks kept per slot [default: 5]
    #[arg(long, value_name = "N")]
    task_history_limit: Option<u32>,
    /// How often a node reports [default: 5s]
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    dispatcher_heartbeat: Option<Duration>,
    /// Validity of node certificates [default: 2160h]
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    cert_expiry: Option<Duration>,
    /// Managers that were restarted serve nothing until they are unlocked
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    autolock: Option<bool>,
    /// Log entries between Raft snapshots [default: 10000]
    #[arg(long, value_name = "N")]
    snapshot_interval: Option<u64>,
    /// Older Raft snapshots to keep [default: 0]
    #[arg(long, value_name = "N")]
    max_snapshots: Option<u64>,
    /// Log entries kept behind a Raft snapshot, for managers that were away [default: 500]
    #[arg(long, value_name = "N")]
    log_entries_for_slow_followers: Option<u64>,
}

impl Settings {
    pub const fn is_empty(&self) -> bool {
        self.task_history_limit.is_none()
            && self.dispatcher_heartbeat.is_none()
            && self.cert_expiry.is_none()
            && self.autolock.is_none()
            && self.snapshot_interval.is_none()
            && self.max_snapshots.is_none()
            && self.log_entries_for_slow_followers.is_none()
    }

    /// Writes what was given into `spec` and leaves the rest.
    pub fn apply(&self, spec: &mut ClusterSpec) {
        if let Some(limit) = self.task_history_limit {
            spec.orchestration = Some(OrchestrationConfig { task_history_retention_limit: limit.into() });
        }
        if let Some(period) = self.dispatcher_heartbeat {
            spec.dispatcher = Some(DispatcherConfig { heartbeat_period: period.try_into().ok() });
        }
        if let Some(expiry) = self.cert_expiry {
            let config = spec.ca_config.take().unwrap_or_default();
            spec.ca_config = Some(CaConfig { node_cert_expiry: expiry.try_into().ok(), ..config });
        }
        if let Some(auto_lock_managers) = self.autolock {
            spec.encryption_config = Some(EncryptionConfig { auto_lock_managers });
        }
        let mut raft = spec.raft.unwrap_or_else(|| RaftConfig::from(proto::model::RaftConfig::default()));
        raft.snapshot_interval = self.snapshot_interval.unwrap_or(raft.snapshot_interval);
        raft.keep_old_snapshots = self.max_snapshots.unwrap_or(raft.keep_old_snapshots);
        raft.log_entries_for_slow_followers =
            self.log_entries_for_slow_followers.unwrap_or(raft.log_entries_for_slow_followers);
        spec.raft = Some(raft);
    }
}
