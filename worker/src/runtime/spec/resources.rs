//! What a container may use: limits of memory, CPU and processes, and devices.

use serde_json::{Map, Value, json};

use super::Node;
use crate::runtime::{Error, Resources};

/// 100 ms, the kernel's default, and Docker's.
const CPU_PERIOD_US: u64 = 100_000;
/// The kernel takes no quota under 1 ms a period.
const MIN_NANO_CPUS: u64 = 10_000_000;
const NANO: u64 = 1_000_000_000;
/// Docker's least memory limit: less than this starts nothing.
const MIN_MEMORY_BYTES: u64 = 6 << 20;
/// Weight of one whole CPU, and the kernel's bounds.
const SHARES_PER_CPU: u64 = 1024;
const SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;

pub(super) fn resources(given: &Resources, node: &Node) -> Result<Value, Error> {
    let mut resources = Map::new();
    resources.insert("devices".into(), devices());
    resources.insert("memory".into(), memory(given, node)?);
    resources.insert("cpu".into(), cpu(given, node)?);
    if let Some(limit) = given.pids.filter(|limit| *limit > 0) {
        resources.insert("pids".into(), json!({"limit": limit}));
    }
    Ok(resources.into())
}

fn memory(given: &Resources, node: &Node) -> Result<Value, Error> {
    let mut memory = Map::new();
    if let Some(limit) = given.memory_bytes.filter(|bytes| *bytes > 0) {
        if limit < MIN_MEMORY_BYTES {
            return Err(Error::config(
                "memory limit",
                format!("{limit} bytes is too little; use 6 MiB or more"),
            ));
        }
        memory.insert("limit".into(), limit.into());
        // As much swap as memory, where the kernel counts swap.
        if node.swap_accounting {
            memory.insert("swap".into(), limit.saturating_mul(2).into());
        }
    }
    if let Some(bytes) = given.reserved_memory_bytes.filter(|bytes| *bytes > 0) {
        memory.insert("reservation".into(), bytes.into());
    }
    Ok(memory.into())
}

fn cpu(given: &Resources, node: &Node) -> Result<Value, Error> {
    let mut cpu = Map::new();
    if let Some(nano) = given.nano_cpus.filter(|nano| *nano > 0) {
        let most = node.cpus * NANO;
        if !(MIN_NANO_CPUS..=most).contains(&nano) {
            let reason =
                format!("{:.2} is not between 0.01 and the {} CPUs here", nano as f64 / 1e9, node.cpus);
            return Err(Error::config("CPU limit", reason));
        }
        cpu.insert("period".into(), CPU_PERIOD_US.into());
        cpu.insert("quota".into(), (nano * CPU_PERIOD_US / NANO).into());
    }
    if let Some(nano) = given.reserved_nano_cpus.filter(|nano| *nano > 0) {
        let shares = nano.saturating_mul(SHARES_PER_CPU) / NANO;
        cpu.insert("shares".into(), shares.clamp(*SHARES.start(), *SHARES.end()).into());
    }
    Ok(cpu.into())
}

/// Everything is denied but the devices that a container has in its `/dev`; the OCI runtime adds the terminals.
fn devices() -> Value {
    let allowed = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)];
    let mut rules = vec![json!({"allow": false, "access": "rwm"})];
    // Making a node is harmless: opening it is what counts.
    rules.extend(["c", "b"].map(|kind| json!({"allow": true, "type": kind, "access": "m"})));
    rules.extend(allowed.map(
        |(major, minor)| json!({"allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm"}),
    ));
    rules.push(json!({"allow": true, "type": "c", "major": 136, "access": "rwm"}));
    rules.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: Node = Node { cpus: 2, swap_accounting: true, unified: false, open_files: 1 };

    #[test]
    fn limits_in_the_kernels_units() {
        let given = Resources {
            nano_cpus: Some(500_000_000),
            memory_bytes: Some(64 << 20),
            pids: Some(100),
            reserved_nano_cpus: Some(250_000_000),
            reserved_memory_bytes: Some(32 << 20),
        };
        let spec = resources(&given, &NODE).unwrap();
        assert_eq!(spec["cpu"], json!({"period": 100_000, "quota": 50_000, "shares": 256}));
        assert_eq!(spec["memory"], json!({"limit": 64 << 20, "swap": 128 << 20, "reservation": 32 << 20}));
        assert_eq!(spec["pids"], json!({"limit": 100}));
    }

    #[test]
    fn senseless_limits_are_refused() {
        for given in [
            Resources { nano_cpus: Some(1), ..Resources::default() },
            Resources { nano_cpus: Some(3 * NANO), ..Resources::default() },
            Resources { memory_bytes: Some(4096), ..Resources::default() },
        ] {
            assert!(resources(&given, &NODE).is_err(), "{given:?}");
        }
    }
}
