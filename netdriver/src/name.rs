//! Names of what exists in the kernel and on disk. Ownership is told by them, so they follow from keys alone.
//!
//! In `netns_dir`: `n-<network>` and `s-<sandbox>`. In a network's namespace: `br0`, `vx0` and a port `v<hash>` for
//! each sandbox. In a sandbox: `eth0`, `eth1`, … In the host's namespace: the gateway bridge and a leg `swg<hash>` for
//! each sandbox. A hash is 48 bits of the sandbox's key, as 12 hex digits, since a device name has at most 15 bytes.

use crate::desired::SandboxKey;

pub const BRIDGE: &str = "br0";
pub const VXLAN: &str = "vx0";
pub const LOOPBACK: &str = "lo";

/// IFNAMSIZ less the terminating zero.
pub const DEVICE_NAME_MAX: usize = 15;

const LEG_PREFIX: &str = "swg";

/// The end of a sandbox's cable in a network's namespace.
pub fn port(sandbox: &SandboxKey) -> String {
    format!("v{}", hash(sandbox.as_str()))
}

/// The end of a sandbox's outbound cable in the host's namespace.
pub fn leg(sandbox: &SandboxKey) -> String {
    format!("{LEG_PREFIX}{}", hash(sandbox.as_str()))
}

pub fn is_leg(device: &str) -> bool {
    device.strip_prefix(LEG_PREFIX).is_some_and(is_hash)
}

pub fn interface(position: usize) -> String {
    format!("eth{position}")
}

pub fn is_interface(device: &str) -> bool {
    device.strip_prefix("eth").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// Fit to be a file name after `n-` or `s-`.
pub fn is_key(key: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=64).contains(&key.len()) && !key.starts_with('.') && key.bytes().all(plain)
}

/// Fit to be a device name.
pub fn is_device(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'"' | b'%');
    (1..=DEVICE_NAME_MAX).contains(&name.len()) && name.bytes().all(plain) && name != "." && name != ".."
}

fn is_hash(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn hash(key: &str) -> String {
    format!("{:012x}", fnv(key) >> 16)
}

/// FNV-1a, 64 bits: written out since names must stay the same across releases of any library.
pub fn fnv(text: &str) -> u64 {
    fnv_bytes(text.as_bytes())
}

pub fn fnv_bytes(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| step(hash, *byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_fit_and_are_recognised() {
        let key = SandboxKey::new("a".repeat(64));
        assert!(port(&key).len() <= DEVICE_NAME_MAX && leg(&key).len() <= DEVICE_NAME_MAX);
        assert!(is_leg(&leg(&key)) && !is_leg("swarm_gwbridge") && !is_leg("swg"));
        assert!(is_interface("eth12") && !is_interface("eth") && !is_interface("eth0a"));
    }

    #[test]
    fn hashes_never_change() {
        assert_eq!(fnv(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv("a"), 0xaf63_dc4c_8601_ec8c);
    }

    #[test]
    fn keys_cannot_leave_the_directory() {
        for good in ["a", "1n3vz.xm-2_9"] {
            assert!(is_key(good), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "é", &"x".repeat(65)] {
            assert!(!is_key(bad), "{bad}");
        }
    }
}
