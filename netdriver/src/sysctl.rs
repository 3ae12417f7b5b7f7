//! Kernel parameters of a network namespace: those of the thread that reads or writes them.

use std::fs;
use std::io;
use std::path::Path;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sysctl {
    /// Below `/proc/sys/net`.
    path: &'static str,
    value: &'static str,
    /// Part of something a kernel may be without, such as IPv6.
    optional: bool,
}

const fn must(path: &'static str, value: &'static str) -> Sysctl {
    Sysctl { path, value, optional: false }
}

const fn may(path: &'static str, value: &'static str) -> Sysctl {
    Sysctl { path, value, optional: true }
}

pub const FORWARDING: Sysctl = must("ipv4/ip_forward", "1");

/// Of every namespace we make. It is no router, though a new one inherits the host's setting: a task on two networks
/// would join them. Addresses are ours to give: none is made up, asked for or tried out, so that a device is silent
/// until its task speaks.
const COMMON: [Sysctl; 6] = [
    must("ipv4/ip_forward", "0"),
    may("ipv6/conf/all/accept_ra", "0"),
    may("ipv6/conf/default/accept_ra", "0"),
    may("ipv6/conf/default/autoconf", "0"),
    may("ipv6/conf/default/accept_dad", "0"),
    may("ipv6/conf/default/addr_gen_mode", "1"),
];

/// As Docker sets them: any port and `ping` without privileges.
const SANDBOX: [Sysctl; 2] =
    [must("ipv4/ip_unprivileged_port_start", "0"), must("ipv4/ping_group_range", "0 2147483647")];

/// Frames that are bridged are not shown to the packet filter.
const NETWORK: [Sysctl; 3] = [
    may("bridge/bridge-nf-call-iptables", "0"),
    may("bridge/bridge-nf-call-ip6tables", "0"),
    may("bridge/bridge-nf-call-arptables", "0"),
];

pub fn of_sandbox() -> Vec<Sysctl> {
    [&COMMON[..], &SANDBOX].concat()
}

pub fn of_network() -> Vec<Sysctl> {
    [&COMMON[..], &NETWORK].concat()
}

impl Sysctl {
    pub fn is_set(self) -> io::Result<bool> {
        Ok(fs::read_to_string(self.file())?.trim() == self.value)
    }

    pub fn write(self) -> io::Result<()> {
        match fs::write(self.file(), self.value) {
            Err(error) if self.optional && error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(io::Error::new(error.kind(), format!("sysctl net/{}: {error}", self.path))),
            Ok(()) => Ok(()),
        }
    }

    fn file(self) -> std::path::PathBuf {
        Path::new("/proc/sys/net").join(self.path)
    }
}
