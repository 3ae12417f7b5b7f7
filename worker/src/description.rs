//! What this node tells the managers of itself. Schedulers place tasks by it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proto::model::{EngineDescription, NodeDescription, NodeId, OVERLAY_DRIVER, Platform, VTEP_LABEL};

/// This node as its own tasks may see it, and as managers do.
#[derive(Debug, Clone)]
pub struct Facts {
    pub node_id: NodeId,
    pub description: NodeDescription,
    /// Differs after each start of the machine.
    pub boot_id: String,
}

impl Facts {
    pub fn new(node_id: NodeId, description: NodeDescription) -> Self {
        // Always there in Linux; without it a container that waits to be started counts as one of an earlier boot.
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self { node_id, description, boot_id: boot_id.trim().to_owned() }
    }
}

/// Describes this machine. A `data_path_addr` is told to the managers as the address of this node's tunnels.
pub fn describe(
    hostname: &str,
    mut labels: BTreeMap<String, String>,
    data_path_addr: Option<IpAddr>,
) -> NodeDescription {
    if let Some(addr) = data_path_addr {
        labels.insert(VTEP_LABEL.into(), addr.to_string());
    }
    let plugin = |kind: &str, name: &str| (kind.to_owned(), name.to_owned());
    NodeDescription {
        hostname: hostname.to_owned(),
        platform: Platform { architecture: std::env::consts::ARCH.into(), os: std::env::consts::OS.into() },
        nano_cpus: cpus() * 1_000_000_000,
        memory_bytes: memory_bytes(),
        engine: EngineDescription {
            version: env!("CARGO_PKG_VERSION").into(),
            labels,
            plugins: vec![
                plugin("Log", "json-file"),
                plugin("Network", OVERLAY_DRIVER),
                plugin("Volume", "local"),
            ],
        },
    }
}

fn cpus() -> u64 {
    std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64)
}

/// 0 if the kernel does not tell: then nothing that reserves memory is placed here.
fn memory_bytes() -> u64 {
    nix::sys::sysinfo::sysinfo().map_or(0, |info| info.ram_total())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_tunnel_address_only_if_there_is_one_of_its_own() {
        let plain = describe("h1", BTreeMap::new(), None);
        assert!(plain.engine.labels.is_empty());
        assert!(plain.nano_cpus >= 1_000_000_000 && plain.memory_bytes > 0);
        let other = describe("h1", BTreeMap::new(), Some("10.1.1.1".parse().unwrap()));
        assert_eq!(other.engine.labels[VTEP_LABEL], "10.1.1.1");
    }
}
