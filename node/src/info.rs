//! What a node tells about itself and its machine.

use proto::local::InfoResponse;

use crate::membership::Status;

/// What does not change while the daemon runs.
#[derive(Clone, Debug)]
pub struct Machine {
    pub hostname: String,
    pub containerd_version: String,
    pub data_root: String,
    pub architecture: String,
    pub kernel: String,
    pub nano_cpus: u64,
    pub memory_bytes: u64,
    /// What does not work here, or not well; a line each.
    pub warnings: Vec<String>,
}

impl Machine {
    pub fn describe(&self, status: &Status) -> InfoResponse {
        let amount = |value| i64::try_from(value).unwrap_or(i64::MAX);
        InfoResponse {
            state: status.state.into(),
            error: status.error.clone(),
            node_id: status.node_id.as_ref().map(ToString::to_string).unwrap_or_default(),
            hostname: self.hostname.clone(),
            node_addr: status.advertise.map(|addr| addr.ip().to_string()).unwrap_or_default(),
            cluster_id: status.cluster_id.as_ref().map(ToString::to_string).unwrap_or_default(),
            cluster_created_at: status.cluster_created_at.map(Into::into),
            control_available: status.manager,
            manager_addrs: status.managers.clone(),
            managers: status.manager_count,
            nodes: status.node_count,
            version: env!("CARGO_PKG_VERSION").into(),
            containerd_version: self.containerd_version.clone(),
            data_root: self.data_root.clone(),
            architecture: self.architecture.clone(),
            os: "linux".into(),
            nano_cpus: amount(self.nano_cpus),
            memory_bytes: amount(self.memory_bytes),
            kernel_version: self.kernel.clone(),
            tasks_running: status.tasks_running,
            network_mended: status.network_mended,
            warnings: self.warnings.iter().chain(&status.warnings).cloned().collect(),
        }
    }
}
