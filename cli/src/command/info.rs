//! `info`: what this node is, in lines for people or as JSON.

use anyhow::Result;
use clap::Args;
use proto::local::info_response::State;
use proto::local::{InfoRequest, InfoResponse};
use proto::model::RaftConfig;
use serde_json::{Value, json};

use crate::client::{Answer as _, Client};
use crate::format::LinesFormat;
use crate::resolve;
use crate::units;

#[derive(Debug, Args)]
pub struct Info {
    #[command(flatten)]
    format: LinesFormat,
}

impl Info {
    pub async fn run(self, client: &Client) -> Result<()> {
        let info = client.node().info(InfoRequest {}).await.answer()?;
        // What can be told is told, also while the manager cannot answer.
        let cluster = if info.control_available { resolve::cluster(client).await.ok() } else { None };
        let raft = cluster.map(|cluster| cluster.spec.raft);
        self.format.print(&lines(&info, raft), &as_json(&info, raft))
    }
}

fn state(info: &InfoResponse) -> &'static str {
    match info.state() {
        State::Inactive => "inactive",
        State::Pending => "pending",
        State::Active => "active",
        State::Error => "error",
        State::Locked => "locked",
    }
}

fn as_json(info: &InfoResponse, raft: Option<RaftConfig>) -> Value {
    let mut cluster = json!({ "ID": info.cluster_id });
    if let Some(raft) = raft {
        cluster["Spec"]["Raft"] = json!({
            "SnapshotInterval": raft.snapshot_interval,
            "KeepOldSnapshots": raft.keep_old_snapshots,
            "LogEntriesForSlowFollowers": raft.log_entries_for_slow_followers,
        });
    }
    let managers: Vec<Value> = info.manager_addrs.iter().map(|addr| json!({ "Addr": addr })).collect();
    json!({
        "Name": info.hostname,
        "ServerVersion": info.version,
        "ContainerdVersion": info.containerd_version,
        "KernelVersion": info.kernel_version,
        "OSType": info.os,
        "Architecture": info.architecture,
        "NCPU": info.nano_cpus / 1_000_000_000,
        "MemTotal": info.memory_bytes,
        "DataRoot": info.data_root,
        "TasksRunning": info.tasks_running,
        "NetworkMended": info.network_mended,
        "Warnings": info.warnings,
        "Swarm": {
            "LocalNodeState": state(info),
            "Error": info.error,
            "NodeID": info.node_id,
            "NodeAddr": info.node_addr,
            "ControlAvailable": info.control_available,
            "RemoteManagers": managers,
            "Managers": info.managers,
            "Nodes": info.nodes,
            "Cluster": cluster,
        },
    })
}

fn lines(info: &InfoResponse, raft: Option<RaftConfig>) -> Vec<String> {
    let mut lines = vec![
        format!("Name: {}", info.hostname),
        format!("Version: {}", info.version),
        format!("containerd: {}", info.containerd_version),
        format!("Kernel: {} ({} {})", info.kernel_version, info.os, info.architecture),
        format!("CPUs: {}", info.nano_cpus / 1_000_000_000),
        format!("Memory: {}", units::size(u64::try_from(info.memory_bytes).unwrap_or_default())),
        format!("Data root: {}", info.data_root),
        format!("Tasks running: {}", info.tasks_running),
        format!("Swarm: {}", state(info)),
    ];
    if !info.error.is_empty() {
        lines.push(format!(" Error: {}", info.error));
    }
    if info.state() == State::Active {
        lines.push(format!(" Node id: {}", info.node_id));
        lines.push(format!(" Node address: {}", info.node_addr));
        lines.push(format!(" Is manager: {}", info.control_available));
        if info.control_available {
            lines.push(format!(" Cluster id: {}", info.cluster_id));
            lines.push(format!(" Managers: {}", info.managers));
            lines.push(format!(" Nodes: {}", info.nodes));
        }
        if let Some(raft) = raft {
            lines.push(" Raft:".into());
            lines.push(format!("  Snapshot interval: {}", raft.snapshot_interval));
            lines.push(format!("  Old snapshots kept: {}", raft.keep_old_snapshots));
            lines.push(format!("  Log entries for slow followers: {}", raft.log_entries_for_slow_followers));
        }
        lines.push(" Manager addresses:".into());
        lines.extend(info.manager_addrs.iter().map(|addr| format!("  {addr}")));
    }
    lines.extend(info.warnings.iter().map(|warning| format!("WARNING: {warning}")));
    lines
}
