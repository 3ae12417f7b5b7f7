//! What an encrypted network wants of the kernel: an association for each direction, peer and key, a policy for each
//! peer. And the shield, which drops in cleartext or by another network's keys what must be encrypted.
//!
//! The shield is an nftables table in the host's namespace. Outgoing packets of an encrypted network get its mark, which
//! leads them to its policies; whatever then still has no association is dropped, so nothing leaves in cleartext even
//! if there is no policy at all. What arrives must have come through an association of that very network. VNIs are read
//! from the packet (the 24 bits at byte 12 after the UDP header's start, RFC 7348): no other module is needed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use crate::esp::{self, Encryption};
use crate::name;
use crate::plan::Security;
use crate::xfrm::{Association, AssociationId, Policy, reqid};

/// The nftables table, of family `inet`.
pub const TABLE: &str = "swarmd_encryption";

/// VNI and UDP port of the networks that must be encrypted.
pub type Shielded = BTreeMap<u32, u16>;

pub fn wanted(vni: u32, port: u16, local: IpAddr, encryption: &Encryption) -> Security {
    let mut security = Security::default();
    let own = esp::End { vtep: local, incarnation: encryption.incarnation };
    // Tunnels of the other address family are left out: see `overlay::left_out`.
    let is_reached = |vtep: &IpAddr| *vtep != local && vtep.is_ipv4() == local.is_ipv4();
    for (vtep, peer) in encryption.peers.iter().filter(|(vtep, _)| is_reached(vtep)) {
        let peer = esp::End { vtep: *vtep, incarnation: peer.incarnation };
        for (generation, secret) in &encryption.keys {
            let (spi, material) = esp::derive(secret, vni, own, peer);
            let id = AssociationId { destination: *vtep, spi };
            let out = Association { id, source: local, vni, port: None, material: Some(material) };
            security.associations.insert(id, out);
            if *generation == encryption.sending {
                let policy = Policy { source: local, destination: *vtep, port, vni, spi };
                security.policies.insert(*vtep, policy);
            }
            let (spi, material) = esp::derive(secret, vni, peer, own);
            let id = AssociationId { destination: local, spi };
            let into = Association { id, source: *vtep, vni, port: Some(port), material: Some(material) };
            security.associations.insert(id, into);
        }
    }
    security
}

/// Replaces the table in one transaction. Its mark tells it from one that another release made.
pub fn rules(networks: &Shielded) -> String {
    let body = body(networks);
    let mark = mark(&body);
    format!("{}{}", no_rules(), body.replace("MARK", &mark))
}

/// Removes the table, also if it does not exist.
pub fn no_rules() -> String {
    format!("table inet {TABLE}\ndelete table inet {TABLE}\n")
}

/// Whether a table as `nft` lists it was made by [`rules`] for these networks.
pub fn has_mark(networks: &Shielded, listing: &str) -> bool {
    listing.contains(&mark(&body(networks)))
}

/// The networks of a table as `nft` lists it, told by the names of its chains.
pub fn shielded(listing: &str) -> Shielded {
    let chains = listing.lines().filter_map(|line| line.trim().strip_prefix("chain arrive_"));
    let networks = chains.filter_map(|rest| rest.trim_end_matches(" {").split_once('_'));
    networks.filter_map(|(vni, port)| Some((vni.parse().ok()?, port.parse().ok()?))).collect()
}

fn mark(body: &str) -> String {
    format!("swarmd {:016x}", name::fnv(body))
}

fn body(networks: &Shielded) -> String {
    let mut text = format!("table inet {TABLE} {{\n");
    for (vni, port) in networks {
        let reqid = reqid(*vni);
        let _ = write!(
            text,
            "    chain send_{vni}_{port} {{
        meta mark set {reqid}
    }}
    chain leave_{vni}_{port} {{
        rt ipsec missing counter drop comment \"in cleartext\"
    }}
    chain arrive_{vni}_{port} {{
        meta ipsec missing counter drop comment \"in cleartext\"
        ipsec in reqid {reqid} accept
        counter drop comment \"of another network\"
    }}
"
        );
    }
    let hooks = [
        ("output", "type route hook output priority mangle", "send"),
        ("postrouting", "type filter hook postrouting priority raw", "leave"),
        ("input", "type filter hook input priority raw", "arrive"),
    ];
    let mut ports: Vec<String> = networks.values().map(ToString::to_string).collect();
    ports.sort();
    ports.dedup();
    let ports = ports.join(", ");
    for (chain, hook, verdict) in hooks {
        let elements = networks.iter().map(|(vni, port)| format!("{vni} : jump {verdict}_{vni}_{port}"));
        let elements = elements.collect::<Vec<_>>().join(", ");
        let _ = write!(
            text,
            "    chain {chain} {{
        {hook}; policy accept;
        udp dport {{ {ports} }} @th,96,24 vmap {{ {elements} }} comment \"MARK\"
    }}
"
        );
    }
    text.push_str("}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_told_by_the_names_of_chains() {
        let networks = Shielded::from([(4097, 4789), (16_777_215, 4790)]);
        let script = rules(&networks);
        assert_eq!(shielded(&script), networks);
        assert!(has_mark(&networks, &script) && !has_mark(&Shielded::from([(4097, 4789)]), &script));
        assert!(shielded("table ip other {\n chain arrive_now {\n").is_empty());
    }
}
