//! What this node tells the managers of itself. Schedulers place tasks by it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use proto::model::{
    ENCRYPTION_LABEL, EngineDescription, NodeDescription, NodeId, OVERLAY_DRIVER, Platform, ROUTES_LABEL,
    VTEP_LABEL,
};

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

/// Describes this machine. A `data_path_addr` is told to the managers as the address of this node's tunnels, and what the
/// kernel lacks for encrypted networks, so that no task is placed here that needs it.
pub fn describe(
    hostname: &str,
    mut labels: BTreeMap<String, String>,
    data_path_addr: Option<IpAddr>,
    lacks_for_encryption: String,
) -> NodeDescription {
    labels.insert(ENCRYPTION_LABEL.into(), lacks_for_encryption);
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
        tls: None,
    }
}

/// Routes that a manager is told of: wider ones say where the node's traffic goes, not what is in use.
const WIDEST_V4: u8 = 8;
const WIDEST_V6: u8 = 16;
/// As many as managers take, the widest first.
const MOST_ROUTES: usize = 64;

/// The node as it is described to managers, with the destinations of its own `routes`: networks then get subnets that it
/// does not need itself. A route tells no more than its destination.
pub fn with_routes(mut description: NodeDescription, routes: &BTreeSet<IpNet>) -> NodeDescription {
    let narrow = |net: &&IpNet| net.prefix_len() >= if net.addr().is_ipv4() { WIDEST_V4 } else { WIDEST_V6 };
    let mut routes = IpNet::aggregate(&routes.iter().filter(narrow).copied().collect());
    routes.sort_unstable_by_key(|net| (net.prefix_len(), *net));
    let telling = routes.iter().take(MOST_ROUTES).map(ToString::to_string);
    let label = telling.collect::<Vec<_>>().join(",");
    if !label.is_empty() {
        description.engine.labels.insert(ROUTES_LABEL.into(), label);
    }
    description
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
        let plain = describe("h1", BTreeMap::new(), None, String::new());
        assert_eq!(plain.engine.labels, BTreeMap::from([(ENCRYPTION_LABEL.to_owned(), String::new())]));
        assert!(plain.nano_cpus >= 1_000_000_000 && plain.memory_bytes > 0);
        let other = describe("h1", BTreeMap::new(), Some("10.1.1.1".parse().unwrap()), "ESP".into());
        assert_eq!(other.engine.labels[ENCRYPTION_LABEL], "ESP");
        assert_eq!(other.engine.labels[VTEP_LABEL], "10.1.1.1");
    }

    fn told(routes: &[String]) -> Option<String> {
        let routes = routes.iter().map(|route| route.parse().unwrap()).collect();
        let described = with_routes(NodeDescription::default(), &routes);
        described.engine.labels.get(ROUTES_LABEL).cloned()
    }

    #[test]
    fn tells_of_routes_in_few_words() {
        assert_eq!(told(&[]), None);
        let some = ["192.168.77.0/24", "10.0.4.0/25", "10.0.4.128/25", "10.0.4.7/32", "fd77::/64"];
        let some = told(&some.map(String::from)).unwrap();
        assert_eq!(some.split(',').collect::<std::collections::BTreeSet<_>>().len(), 3, "{some}");
        assert!(some.contains("10.0.4.0/24") && some.contains("fd77::/64"), "{some}");
        // A way out in two halves is a default route.
        assert_eq!(told(&["0.0.0.0/1".into(), "128.0.0.0/1".into(), "2000::/3".into()]), None);
    }

    #[test]
    fn tells_of_no_more_routes_than_are_read() {
        let many: Vec<String> =
            (0..200).map(|n| format!("10.1.{n}.1/32")).chain(["10.2.0.0/16".into()]).collect();
        let told = told(&many).unwrap();
        assert_eq!(told.split(',').count(), MOST_ROUTES);
        assert!(told.starts_with("10.2.0.0/16,"), "{told}");
    }
}
