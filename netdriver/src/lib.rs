//! Everything that touches kernel networking on one node.
//!
//! Declarative: [`Netdriver::ensure`] reads the kernel, plans the difference to a [`Desired`], applies it and reports
//! all errors. Running it twice changes nothing. What is owned is told by its name, so a process killed at any
//! instant leaves nothing that the next `ensure` does not mend or remove. Swarms are not known here.

mod desired;
mod error;
mod mac;
mod plan;
mod report;

use std::path::PathBuf;

pub use desired::{
    Attachment, Desired, NetworkKey, Overlay, Peer, PeerKey, Sandbox, SandboxKey, Scope, Subnet,
};
pub use error::Error;
pub use mac::{Mac, mac_for};
pub use plan::Action;
pub use report::{Report, Subject};

use ipnet::Ipv4Net;

#[derive(Debug, Clone)]
pub struct Config {
    /// Where namespaces are kept as bind mounts, `<exec-root>/netns`. Owned whole: made, and mounted on itself.
    pub netns_dir: PathBuf,
    /// Addresses of tasks on the NAT bridge; the bridge has the first.
    pub gateway_subnet: Ipv4Net,
    /// Name of the NAT bridge, at most 15 bytes.
    pub gateway_bridge: String,
    /// The namespace that is the host: where the underlay and the NAT bridge live. `None` is the process's own.
    pub host_netns: Option<PathBuf>,
}

impl Config {
    /// The defaults: subnet 172.18.0.0/16 on `swarm_gwbridge`, in the process's own namespace.
    pub fn new(netns_dir: impl Into<PathBuf>) -> Self {
        Self {
            netns_dir: netns_dir.into(),
            gateway_subnet: Ipv4Net::new_assert([172, 18, 0, 0].into(), 16),
            gateway_bridge: "swarm_gwbridge".to_owned(),
            host_netns: None,
        }
    }
}

/// The kernel networking of one node. Cheap to share behind an `Arc`; all methods may be called at once.
#[derive(Debug)]
pub struct Netdriver {
    config: Config,
}

impl Netdriver {
    /// Prepares the directory of namespaces and reads what exists. Changes no network.
    pub async fn open(config: Config) -> Result<Self, Error> {
        Ok(Self { config })
    }

    /// Brings what `scope` covers to what `desired` says.
    ///
    /// Calls may overlap. Each network and each sandbox is worked on by one call at a time; of two calls that cover
    /// the same one with different wishes, the later to start on it wins, so the caller orders those.
    pub async fn ensure(&self, _desired: &Desired, _scope: Scope) -> Report {
        Report::default()
    }

    /// The namespace of a sandbox, for the OCI spec. It exists once `ensure` has brought the sandbox about.
    pub fn sandbox_path(&self, key: &SandboxKey) -> PathBuf {
        self.config.netns_dir.join(format!("s-{key}"))
    }
}
