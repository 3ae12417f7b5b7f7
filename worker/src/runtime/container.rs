//! What a container is made of: plain settings, nothing of the wire protocol and nothing of OCI.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{HealthSettings, Signal};

/// Settings of one container. An empty or absent field means the image's value, else Docker's default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ContainerConfig {
    /// The task's id: the container's name for ever.
    pub id: String,
    /// A reference as [`ResolvedImage::reference`](super::ResolvedImage) has it; shorter names work too.
    pub image: String,
    /// Replaces the image's entrypoint, and then the image's command counts no more.
    pub command: Vec<String>,
    /// Replaces the image's command.
    pub args: Vec<String>,
    /// `NAME=value`; `NAME` alone takes the variable away.
    pub env: Vec<String>,
    pub dir: String,
    /// `user`, `uid`, `user:group` or `uid:gid`.
    pub user: String,
    /// Supplementary groups, by name or number.
    pub groups: Vec<String>,
    /// The id's first 12 characters if empty.
    pub hostname: String,
    pub labels: BTreeMap<String, String>,
    pub read_only: bool,
    /// Runs a small init as process 1 that forwards signals and reaps orphans.
    pub init: bool,
    pub tty: bool,
    pub mounts: Vec<Mount>,
    pub stop_signal: Option<Signal>,
    pub stop_grace: Option<Duration>,
    pub health: HealthSettings,
    pub resources: Resources,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub sysctls: BTreeMap<String, String>,
    pub ulimits: Vec<Ulimit>,
    pub oom_score_adj: Option<i32>,
    /// Lines of `/etc/hosts` in addition to those for localhost.
    pub hosts: Vec<HostEntry>,
    pub dns: Dns,
    /// The network namespace that the container starts in.
    pub netns: PathBuf,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Mount {
    /// Absolute, inside the container.
    pub target: PathBuf,
    pub read_only: bool,
    pub kind: MountKind,
}

#[derive(Debug, Clone, PartialEq)]
pub enum MountKind {
    /// `source` must exist on this node.
    Bind {
        source: PathBuf,
        propagation: Propagation,
        recursive: bool,
    },
    /// A local volume, made when first used. Without a name it belongs to the container and goes with it.
    /// `copy`: an empty volume gets what the image has at the target.
    Volume {
        name: Option<String>,
        copy: bool,
    },
    Tmpfs(TmpfsOptions),
}

/// Docker's default is `rprivate`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Propagation {
    #[default]
    RPrivate,
    Private,
    RShared,
    Shared,
    RSlave,
    Slave,
}

impl Propagation {
    /// The name that mount options have for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RPrivate => "rprivate",
            Self::Private => "private",
            Self::RShared => "rshared",
            Self::Shared => "shared",
            Self::RSlave => "rslave",
            Self::Slave => "slave",
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TmpfsOptions {
    /// Half of the machine's memory if absent.
    pub size_bytes: Option<u64>,
    /// Docker's default is 1777 (octal).
    pub mode: Option<u32>,
    /// Further mount options, such as `exec`.
    pub options: Vec<String>,
}

/// Limits and reservations; absent means none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Billionths of a CPU.
    pub nano_cpus: Option<u64>,
    pub memory_bytes: Option<u64>,
    pub pids: Option<u64>,
    /// Billionths of a CPU: the container's weight when CPUs are short.
    pub reserved_nano_cpus: Option<u64>,
    /// What the kernel leaves to the container when memory is short.
    pub reserved_memory_bytes: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ulimit {
    /// `nofile`, `nproc`, …: as in `setrlimit`, without the prefix and in lower case.
    pub name: String,
    /// -1 is unlimited.
    pub soft: i64,
    pub hard: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostEntry {
    pub address: IpAddr,
    pub names: Vec<String>,
}

/// `/etc/resolv.conf`, beside the name server, which is always ours. What is empty is taken from the node's file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    /// `.` alone: none.
    pub search: Vec<String>,
    pub options: Vec<String>,
}
