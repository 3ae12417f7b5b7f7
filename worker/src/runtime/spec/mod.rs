//! Writes the OCI runtime specification of a container, with Docker's defaults.
//!
//! Pure but for one question to the file system: whether a bind source exists. The specification is JSON, and it
//! is written as such. Where files and volumes lie is settled before (`files`, `volumes`).

mod capabilities;
mod mounts;
mod process;
mod resources;
mod seccomp;
mod user;

use std::path::PathBuf;

use serde_json::{Map, Value, json};

pub(super) use mounts::Bound;
pub(super) use user::{Accounts, resolve as resolve_user};

use super::images::ImageConfig;
use super::{ContainerConfig, Error};
use user::User;

/// Docker shows and uses this much of an id as a host name.
const SHORT_ID: usize = 12;

/// Kernel files that tell about the machine: not to be seen.
const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Kernel files that change the machine: not to be written.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What of this machine the specification depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Node {
    pub cpus: u64,
    /// Whether the kernel counts swap by control group.
    pub swap_accounting: bool,
    /// Control groups version 2.
    pub unified: bool,
    /// How many open files this process may allow others.
    pub open_files: u64,
}

/// All that a specification is written from.
pub(super) struct Input<'a> {
    pub config: &'a ContainerConfig,
    pub image: &'a ImageConfig,
    pub user: User,
    pub volumes: Vec<Bound>,
    pub generated: Vec<Bound>,
    /// The init to run as process 1, if one was asked for.
    pub init: Option<PathBuf>,
    pub cgroup: String,
    pub node: Node,
}

pub(super) fn write(input: Input<'_>) -> Result<Value, Error> {
    let Input { config, image, user, node, .. } = input;
    let capabilities = capabilities::effective(&config.cap_add, &config.cap_drop)?;
    let mounts = mounts::all(&config.mounts, input.volumes, input.generated, input.init)?;
    Ok(json!({
        "ociVersion": "1.0.2",
        "process": process::process(config, image, &user, &capabilities, node.open_files)?,
        "root": {"path": "rootfs", "readonly": config.read_only},
        "hostname": hostname(config),
        "mounts": mounts,
        "linux": {
            "resources": resources::resources(&config.resources, &node)?,
            "cgroupsPath": input.cgroup,
            "namespaces": namespaces(config, &node),
            "sysctl": sysctls(config),
            "seccomp": seccomp::profile(&capabilities),
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        },
    }))
}

pub(super) fn hostname(config: &ContainerConfig) -> &str {
    match config.hostname.is_empty() {
        false => &config.hostname,
        true => config.id.get(..SHORT_ID).unwrap_or(&config.id),
    }
}

fn namespaces(config: &ContainerConfig, node: &Node) -> Vec<Value> {
    let mut namespaces: Vec<Value> =
        ["pid", "ipc", "uts", "mount"].map(|kind| json!({ "type": kind })).into();
    namespaces.push(json!({"type": "network", "path": config.netns}));
    if node.unified {
        namespaces.push(json!({"type": "cgroup"}));
    }
    namespaces
}

/// Low ports and ping for everyone, as in Docker: the network namespace is the container's own.
fn sysctls(config: &ContainerConfig) -> Map<String, Value> {
    let defaults =
        [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];
    let defaults = defaults.map(|(name, value)| (name.to_owned(), value.into()));
    let own = config.sysctls.iter().map(|(name, value)| (name.clone(), value.clone().into()));
    defaults.into_iter().chain(own).collect()
}
