//! Forgets tracked connections to backends that are gone, so that their next packet is steered anew: one of UDP goes
//! to a backend that lives, one of TCP is answered by a reset and the client knows at once.
//!
//! The kernel keeps connections as long as it likes; nothing else is ever forgotten here.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use nix::errno::Errno;

use super::balanced::Balanced;
use super::read::address;
use crate::netlink::Refusal;
use crate::nfnetlink::{Attributes, CONNTRACK, Message, NfSocket, find};

/// Of linux/netfilter/nfnetlink_conntrack.h.
const GET: u16 = CONNTRACK | 1;
const DELETE: u16 = CONNTRACK | 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const TUPLE_IP: u16 = 1;
/// Within a tuple's addresses: of IPv4, of IPv6.
const SOURCES: [u16; 2] = [1, 3];
const DESTINATIONS: [u16; 2] = [2, 4];

/// Forgets connections to backends that `now` has not. With `before`, which such connections were pruned by, only of
/// addresses where there can be any. How many were forgotten.
pub fn prune(socket: &mut NfSocket, before: Option<&Balanced>, now: &Balanced) -> Result<usize, Refusal> {
    let left = before.map(|before| left(before, now));
    if left.as_ref().map_or(now.is_empty(), BTreeSet::is_empty) {
        return Ok(0);
    }
    let concerned = |address: &IpAddr| match &left {
        Some(left) => left.contains(address),
        None => now.get(address).is_some(),
    };
    let dump = Message { kind: GET, flags: NLM_F_DUMP, family: 0, attributes: Attributes::default() };
    let mut forgotten = 0;
    for flow in socket.ask(&dump)? {
        let destination = endpoint(&flow, TUPLE_ORIGINAL, DESTINATIONS);
        let backend = endpoint(&flow, TUPLE_REPLY, SOURCES);
        let (Some(destination), Some(backend)) = (destination, backend) else { continue };
        if concerned(&destination) && !may_go_on(now, &destination, &backend) {
            forgotten += usize::from(forget(socket, &destination, &flow)?);
        }
    }
    Ok(forgotten)
}

/// Addresses that had backends which they have no more.
fn left(before: &Balanced, now: &Balanced) -> BTreeSet<IpAddr> {
    let changes = now.since(before).into_iter();
    let left = changes.filter(|(address, (before, _))| {
        let mut backends = before.iter().flat_map(|before| before.backends.iter().chain(&before.leaving));
        backends.any(|backend| !may_go_on(now, address, backend))
    });
    left.map(|(address, _)| address).collect()
}

fn may_go_on(services: &Balanced, address: &IpAddr, backend: &IpAddr) -> bool {
    let service = services.get(address);
    service.is_some_and(|service| service.backends.contains(backend) || service.leaving.contains(backend))
}

fn endpoint(flow: &[u8], tuple: u16, kinds: [u16; 2]) -> Option<IpAddr> {
    kinds.iter().find_map(|kind| address(find(flow, &[tuple, TUPLE_IP, *kind])?))
}

/// False if it has ended meanwhile.
fn forget(socket: &mut NfSocket, destination: &IpAddr, flow: &[u8]) -> Result<bool, Refusal> {
    const NESTED: u16 = 1 << 15;
    let (Some(tuple), Some(id)) = (find(flow, &[TUPLE_ORIGINAL]), find(flow, &[ID])) else {
        return Ok(false);
    };
    let attributes = Attributes::default().bytes(TUPLE_ORIGINAL | NESTED, tuple).bytes(ID, id);
    let family = if destination.is_ipv4() { 2 } else { 10 };
    match socket.ask(&Message { kind: DELETE, flags: NLM_F_ACK, family, attributes }) {
        Ok(_) => Ok(true),
        Err(refusal) if refusal.errno() == Some(Errno::ENOENT) => Ok(false),
        Err(refusal) => Err(refusal),
    }
}
