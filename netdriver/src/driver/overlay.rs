//! A VXLAN network: what its namespace holds.
//!
//! A bridge, a VXLAN device and one port for each local sandbox. Nothing learns and nothing that is unknown leaves the
//! node. Of the bridge: each local MAC is a static entry of its port, ports do not learn (a task cannot pose as
//! another, and no stale entry sends a MAC that moved to the wrong port), and frames to any other MAC go to the VXLAN
//! device alone. Of the VXLAN device: it answers ARP and neighbour solicitations from permanent neighbours, sends to
//! MACs it was told, and drops the rest, since it has no default entry.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::desired::{Attachment, Overlay, Peer, PeerKey, SandboxKey, Subnet};
use crate::error::Error;
use crate::esp;
use crate::mac::mac_for;
use crate::model::{End, Kind, Link, Namespace, Place, Port, Vxlan};
use crate::name;

/// Bytes around an inner packet: its Ethernet header, then those of RFC 7348 section 5, without the outer Ethernet's.
const ETHERNET: u32 = 14;
const VXLAN: u32 = 8;
const UDP: u32 = 8;
const IPV4: u32 = 20;
const IPV6: u32 = 40;

/// RFC 791 demands 68 of IPv4, RFC 8200 1280 of IPv6.
const MTU_MIN: u16 = 68;

/// The namespace without its ports.
pub fn frame(overlay: &Overlay, mtu: u32, offload: bool) -> Namespace {
    let mut frame = devices(overlay, mtu, offload);
    if let Some(vxlan) = frame.links.get_mut(name::VXLAN) {
        let remote = || overlay.peers.values().filter(|peer| is_remote(overlay.local, peer));
        vxlan.tunnels = remote().map(|peer| (peer.mac, peer.vtep)).collect();
        let neighbours = |peer: &Peer| peer.addresses.iter().map(|address| (*address, peer.mac)).collect();
        vxlan.neighbours = remote().flat_map(|peer| -> Vec<_> { neighbours(peer) }).collect();
    }
    frame
}

/// The same without the entries for peers, of which there may be many.
pub fn devices(overlay: &Overlay, mtu: u32, offload: bool) -> Namespace {
    let vxlan = Link { offload: Some(offload), ..vxlan(overlay, mtu) };
    let links = [(name::BRIDGE.to_owned(), bridge(overlay, mtu)), (name::VXLAN.to_owned(), vxlan)];
    Namespace { links: BTreeMap::from(links), ..Namespace::default() }
}

fn bridge(overlay: &Overlay, mtu: u32) -> Link {
    let gateways = |subnet: &Subnet| IpNet::new(subnet.gateway, subnet.net.prefix_len()).ok();
    Link {
        mac: overlay.subnets.first().map(|subnet| mac_for(subnet.gateway)),
        mtu: Some(mtu),
        quiet: true,
        up: true,
        addresses: match overlay.internal {
            true => BTreeSet::new(),
            false => overlay.subnets.iter().filter_map(gateways).collect(),
        },
        ..Link::bare(Kind::Bridge)
    }
}

fn vxlan(overlay: &Overlay, mtu: u32) -> Link {
    let device = Vxlan {
        vni: overlay.vni,
        port: overlay.port,
        local: Some(overlay.local),
        learning: false,
        proxy: true,
    };
    Link {
        mtu: Some(mtu),
        master: Some(name::BRIDGE.to_owned()),
        port: Some(Port { learning: false, flood: true, isolated: false }),
        quiet: true,
        up: true,
        ..Link::bare(Kind::Vxlan(device))
    }
}

/// The network's end of a sandbox's cable.
pub fn port(attachment: &Attachment, sandbox: &SandboxKey, interface: String, mtu: u32) -> Link {
    let far = End { place: Place::Sandbox(sandbox.clone()), name: interface };
    Link {
        mtu: Some(mtu),
        alias: Some(sandbox.to_string()),
        master: Some(name::BRIDGE.to_owned()),
        port: Some(Port { learning: false, flood: false, isolated: false }),
        quiet: true,
        up: true,
        stations: BTreeSet::from([attachment.mac]),
        ..Link::bare(Kind::Veth(Some(far)))
    }
}

/// Bytes of an inner packet over a device with this MTU.
pub fn inner_mtu(underlay: u32, local: IpAddr, encrypted: bool) -> u32 {
    let ip_header = if local.is_ipv4() { IPV4 } else { IPV6 };
    let room = underlay.saturating_sub(ip_header);
    let payload = if encrypted { esp::largest_payload(room) } else { room };
    payload.saturating_sub(UDP + VXLAN + ETHERNET)
}

pub fn validate(overlay: &Overlay) -> Result<(), Error> {
    let refuse = |field, value: String, allowed| Err(Error::Invalid { field, value, allowed });
    if !(1..1 << 24).contains(&overlay.vni) {
        return refuse("vni", overlay.vni.to_string(), "1 to 16777215 is allowed");
    }
    if overlay.port == 0 {
        return refuse("port", overlay.port.to_string(), "1 to 65535 is allowed");
    }
    if overlay.local.is_unspecified() || overlay.local.is_multicast() {
        return refuse("local", overlay.local.to_string(), "give an address of this host");
    }
    if let Some(mtu) = overlay.mtu.filter(|mtu| *mtu < MTU_MIN) {
        return refuse("mtu", mtu.to_string(), "68 to 65535 is allowed");
    }
    if let Some(subnet) = overlay.subnets.iter().find(|subnet| !subnet.net.contains(&subnet.gateway)) {
        return refuse("gateway", subnet.gateway.to_string(), "give an address of the subnet");
    }
    if let Some(encryption) = &overlay.encryption
        && !encryption.keys.contains_key(&encryption.sending)
    {
        return refuse("sending", encryption.sending.to_string(), "it must be one of the keys");
    }
    Ok(())
}

/// Has entries in the tables: is not on this node and can be reached.
pub fn is_remote(local: IpAddr, peer: &Peer) -> bool {
    peer.vtep != local && !is_foreign(local, peer)
}

/// A VXLAN device sends by one address family.
pub fn is_foreign(local: IpAddr, peer: &Peer) -> bool {
    peer.vtep.is_ipv4() != local.is_ipv4()
}

/// Peers that are left out, with their VTEPs: one must not cost the network all the others.
pub fn left_out(overlay: &Overlay) -> impl Iterator<Item = (&PeerKey, IpAddr)> {
    let foreign = overlay.peers.iter().filter(|(_, peer)| is_foreign(overlay.local, peer));
    foreign.map(|(key, peer)| (key, peer.vtep))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inner_mtu_is_what_the_headers_leave() {
        let [v4, v6]: [IpAddr; 2] = ["192.0.2.1", "2001:db8::1"].map(|addr| addr.parse().unwrap());
        let mtu = |local, encrypted| inner_mtu(1500, local, encrypted);
        assert_eq!([mtu(v4, false), mtu(v6, false), mtu(v4, true), mtu(v6, true)], [1450, 1430, 1416, 1396]);
        assert_eq!(inner_mtu(60, v6, true), 0);
    }
}
