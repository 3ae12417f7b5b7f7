//! Networks between two hosts made by hand with `ip`: what our overlay is measured against.

use std::net::Ipv4Addr;

use crate::host::Host;

/// What is built between the hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// As an overlay is: bridge and VXLAN device with fixed entries in a namespace of their own, and a cable to the
    /// namespace of the "container". So the difference is what we do, not what we have.
    Same { mtu: u32 },
    /// A VXLAN device in the host's own namespace.
    Bare { mtu: u32 },
}

/// One end: a network namespace and its address.
#[derive(Debug)]
pub struct End {
    pub netns: String,
    pub address: Ipv4Addr,
}

impl Layout {
    /// Joins two hosts; everything goes with the hosts' namespaces.
    pub fn between(self, [one, two]: [&Host; 2]) -> [End; 2] {
        [self.end(one, two, 1), self.end(two, one, 2)]
    }

    fn end(self, own: &Host, peer: &Host, number: u8) -> End {
        match self {
            Self::Same { mtu } => same(own, peer, number, mtu),
            Self::Bare { mtu } => bare(own, peer, number, mtu),
        }
    }
}

fn same(own: &Host, peer: &Host, number: u8, mtu: u32) -> End {
    let address = Ipv4Addr::new(172, 31, 99, number);
    let name = format!("{}-hand", own.netns().trim_start_matches("/run/netns/"));
    let script = format!(
        "ip netns add {name}
         ip netns add {name}-net
         {}
         ip link set hand0 netns {name}-net
         nsenter --net=/run/netns/{name}-net sh -ec '
             for call in /proc/sys/net/bridge/bridge-nf-call-*; do [ ! -e $call ] || echo 0 >$call; done
             ip link add handbr type bridge mcast_snooping 0
             ip link add hand1 type veth peer name eth0 netns {name}
             ip link set hand0 master handbr mtu {mtu} up
             ip link set hand1 master handbr mtu {mtu} up
             ip link set handbr mtu {mtu} up'
         nsenter --net=/run/netns/{name} sh -ec 'ip link set lo up
             ip address add {address}/24 dev eth0; ip link set eth0 mtu {mtu} up'",
        device("hand0", 4999, own, peer)
    );
    own.sh(&script).ok();
    End { netns: format!("/run/netns/{name}"), address }
}

fn bare(own: &Host, peer: &Host, number: u8, mtu: u32) -> End {
    let address = Ipv4Addr::new(172, 31, 98, number);
    let script = format!(
        "{}
         ip address add {address}/24 dev bare0; ip link set bare0 mtu {mtu} up",
        device("bare0", 4998, own, peer)
    );
    own.sh(&script).ok();
    End { netns: own.netns(), address }
}

/// The VXLAN device, which sends everything to the other host.
fn device(name: &str, vni: u32, own: &Host, peer: &Host) -> String {
    format!(
        "ip link add {name} type vxlan id {vni} dstport {PORT} local {} nolearning noudpcsum
         bridge fdb append 00:00:00:00:00:00 dev {name} dst {}",
        own.addr(),
        peer.addr()
    )
}

/// The UDP port of all of them.
pub const PORT: u16 = 4790;

/// A secret of no other use: 16 bytes of key and 3 of the 4 of salt (RFC 4106).
const KEY: &str = "0x00112233445566778899aabbccddeeff010203";

/// Encrypts what passes between the hosts' devices, with the algorithm and the window of our own associations.
pub fn encrypt([one, two]: [&Host; 2]) {
    for (own, peer) in [(one, two), (two, one)] {
        let (own_addr, peer_addr) = (own.addr(), peer.addr());
        let state = |from, to, number: u8| {
            format!(
                "ip xfrm state add src {from} dst {to} proto esp spi 0x{number:08x} reqid 1 mode transport \
                 aead 'rfc4106(gcm(aes))' {KEY}{number:02x} 128 replay-window 1024 flag esn"
            )
        };
        // Salts differ by direction, keys need not: nothing else is protected by them.
        let key_of = |from: Ipv4Addr| from.octets()[3];
        let script = format!(
            "{}
             {}
             ip xfrm policy add dir out src {own_addr} dst {peer_addr} proto udp dport {PORT} \
                 tmpl src {own_addr} dst {peer_addr} proto esp reqid 1 mode transport",
            state(own_addr, peer_addr, key_of(own_addr)),
            state(peer_addr, own_addr, key_of(peer_addr)),
        );
        own.sh(&script).ok();
    }
}
