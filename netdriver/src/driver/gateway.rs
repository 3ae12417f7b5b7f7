//! The way out of a node: a NAT bridge in the host's namespace, with a leg into each sandbox that may leave.
//!
//! Tasks do not meet on it: its ports are isolated from each other, and the host forwards neither from leg to leg nor
//! anything inwards that was not asked for. A leg's address is recorded in the kernel as the MAC of its host end, set
//! in the same instant in which the leg appears; so which addresses are taken needs no file and survives any crash.
//!
//! The host's other packet filters come first: where their forward chain drops, ours cannot accept again.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};

use crate::Config;
use crate::desired::SandboxKey;
use crate::error::Error;
use crate::mac::{Mac, mac_for};
use crate::model::{End, Kind, Link, Namespace, Place, Port};
use crate::name;

/// The nftables table, of family `ip`.
pub const TABLE: &str = "swarmd_gateway";

#[derive(Debug, Clone, Copy)]
pub struct Gateway<'a> {
    pub bridge: &'a str,
    pub subnet: Ipv4Net,
}

impl<'a> Gateway<'a> {
    pub fn of(config: &'a Config) -> Self {
        Self { bridge: &config.gateway_bridge, subnet: config.gateway_subnet }
    }

    /// The bridge's own: the first of the subnet.
    pub fn address(&self) -> Ipv4Addr {
        self.subnet.hosts().next().unwrap_or(self.subnet.addr())
    }

    /// The lowest address that is free.
    pub fn vacant(&self, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
        self.subnet.hosts().skip(1).find(|address| !taken.contains(address))
    }

    /// The host's namespace, without legs.
    pub fn wanted(&self) -> Namespace {
        let address = Ipv4Net::new_assert(self.address(), self.subnet.prefix_len());
        let bridge = Link {
            mac: Some(mac_for(self.address())),
            quiet: true,
            up: true,
            addresses: BTreeSet::from([IpNet::V4(address)]),
            ..Link::bare(Kind::Bridge)
        };
        Namespace {
            links: [(self.bridge.to_owned(), bridge)].into(),
            rules: Some(self.rules()),
            forwarding: Some(true),
            ..Namespace::default()
        }
    }

    /// The host's end of a sandbox's leg.
    pub fn leg(&self, sandbox: &SandboxKey, address: Ipv4Addr, interface: String) -> Link {
        let far = End { place: Place::Sandbox(sandbox.clone()), name: interface };
        Link {
            mac: Some(record(address)),
            alias: Some(sandbox.to_string()),
            master: Some(self.bridge.to_owned()),
            port: Some(Port { learning: true, flood: true, isolated: true }),
            quiet: true,
            up: true,
            ..Link::bare(Kind::Veth(Some(far)))
        }
    }

    /// Replaces the table in one transaction. Its mark tells it from one that another release made.
    fn rules(&self) -> String {
        let body = self.body();
        let mark = mark(&body);
        format!("{}{}", no_rules(), body.replace("MARK", &mark))
    }

    fn body(&self) -> String {
        let Self { bridge, subnet } = self;
        format!(
            r#"table ip {TABLE} {{
    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifname "{bridge}" oifname "{bridge}" drop comment "MARK"
        iifname "{bridge}" ip saddr != {subnet} drop
        oifname "{bridge}" ct state established,related accept
        oifname "{bridge}" drop
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {subnet} oifname != "{bridge}" masquerade
    }}
}}
"#,
            subnet = subnet.trunc()
        )
    }

    /// Whether a table as `nft` lists it was made by [`Self::rules`].
    pub fn has_mark(&self, listing: &str) -> bool {
        listing.contains(&mark(&self.body()))
    }
}

/// Removes the table, also if it does not exist.
pub fn no_rules() -> String {
    format!("table ip {TABLE}\ndelete table ip {TABLE}\n")
}

fn mark(body: &str) -> String {
    format!("swarmd {:016x}", name::fnv(body))
}

/// A leg's address as the MAC of its host end: `02:43:` and its octets.
fn record(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    Mac([0x02, 0x43, a, b, c, d])
}

/// The address that a leg's host end records.
pub fn recorded(mac: Mac) -> Option<Ipv4Addr> {
    match mac.0 {
        [0x02, 0x43, a, b, c, d] => Some(Ipv4Addr::new(a, b, c, d)),
        _ => None,
    }
}

pub fn validate(config: &Config) -> Result<(), Error> {
    let refuse = |field, value: String, allowed| Err(Error::Invalid { field, value, allowed });
    if !name::is_device(&config.gateway_bridge) {
        return refuse(
            "gateway bridge",
            config.gateway_bridge.clone(),
            "a device name of 1 to 15 bytes is allowed",
        );
    }
    if config.gateway_subnet.prefix_len() > 29 {
        return refuse(
            "gateway subnet",
            config.gateway_subnet.to_string(),
            "a prefix of up to 29 bits is allowed",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway(subnet: &str) -> Gateway<'static> {
        Gateway { bridge: "gw", subnet: subnet.parse().unwrap() }
    }

    #[test]
    fn hands_out_each_address_once_and_then_none() {
        let gateway = gateway("172.18.0.0/29");
        let mut taken = BTreeSet::new();
        while let Some(address) = gateway.vacant(&taken) {
            assert!(taken.insert(address), "{address} twice");
        }
        assert_eq!(taken.len(), 5, "eight less network, broadcast and the bridge's own");
        assert!(!taken.contains(&gateway.address()));
    }

    #[test]
    fn a_leg_records_its_address() {
        let address = Ipv4Addr::new(172, 18, 3, 4);
        assert_eq!(recorded(record(address)), Some(address));
        assert_eq!(recorded(mac_for(address)), None);
    }

    #[test]
    fn the_mark_follows_the_rules() {
        let (one, other) = (gateway("172.18.0.0/16"), gateway("172.19.0.0/16"));
        assert!(one.has_mark(&one.rules()) && !other.has_mark(&one.rules()));
    }
}
