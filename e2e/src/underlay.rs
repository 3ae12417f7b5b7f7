//! A VXLAN between two hosts made by hand with `ip`: what our overlay's throughput is measured against.
//!
//! Built as an overlay is (namespace, bridge, veth, VXLAN device with fixed entries), so that the difference is what
//! we do, not what we have.

use std::net::Ipv4Addr;

use crate::host::Host;

/// One end: the network namespace of a "container" and its address.
#[derive(Debug)]
pub struct End {
    pub netns: String,
    pub address: Ipv4Addr,
}

/// Joins two hosts; everything goes with the hosts' namespaces.
pub fn by_hand(hosts: [&Host; 2]) -> [End; 2] {
    let [one, two] = hosts;
    [end(one, two, 1), end(two, one, 2)]
}

fn end(own: &Host, peer: &Host, number: u8) -> End {
    let address = Ipv4Addr::new(172, 31, 99, number);
    let name = format!("{}-hand", own.netns().trim_start_matches("/run/netns/"));
    // Bridge and VXLAN live in the host's namespace, the "container" in one of its own.
    let script = format!(
        "ip netns add {name}
         ip link add hand0 type vxlan id 4999 dstport 4790 local {} dev eth0 nolearning
         bridge fdb append 00:00:00:00:00:00 dev hand0 dst {}
         ip link add handbr type bridge
         ip link add hand1 type veth peer name eth0 netns {name}
         ip link set hand0 master handbr up mtu 1450
         ip link set hand1 master handbr up mtu 1450
         ip link set handbr up mtu 1450
         nsenter --net=/run/netns/{name} sh -ec 'ip link set lo up
             ip address add {address}/24 dev eth0; ip link set eth0 mtu 1450 up'",
        own.addr(),
        peer.addr(),
    );
    own.sh(&script).ok();
    End { netns: format!("/run/netns/{name}"), address }
}
