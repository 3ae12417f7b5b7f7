//! Neighbours and forwarding entries, which share one message: `RTM_NEWNEIGH`, `RTM_DELNEIGH`, `RTM_GETNEIGH`.

use std::net::IpAddr;

use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::mac::Mac;

/// An entry of one of the three tables, with the index of its device.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry {
    /// Forwarding table of a VXLAN device.
    Tunnel { index: u32, mac: Mac, vtep: IpAddr },
    /// Static entry of a bridge's forwarding table.
    Station { index: u32, mac: Mac },
    /// Permanent neighbour.
    Neighbour { index: u32, address: IpAddr, mac: Mac },
}

pub fn dump(family: AddressFamily) -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetNeighbour(message(family, 0))
}

/// Asks the bridge for one entry; the answer says to which port it belongs.
pub fn get_station(index: u32, mac: Mac) -> RouteNetlinkMessage {
    let mut message = message(AddressFamily::Bridge, index);
    message.header.flags = NeighbourFlags::Controller;
    message.attributes.push(lladdr(mac));
    RouteNetlinkMessage::GetNeighbour(message)
}

pub fn put_station(index: u32, mac: Mac) -> RouteNetlinkMessage {
    RouteNetlinkMessage::NewNeighbour(station(index, mac))
}

pub fn remove_station(index: u32, mac: Mac) -> RouteNetlinkMessage {
    RouteNetlinkMessage::DelNeighbour(station(index, mac))
}

pub fn put_tunnel(index: u32, mac: Mac, vtep: IpAddr) -> RouteNetlinkMessage {
    RouteNetlinkMessage::NewNeighbour(tunnel(index, mac, vtep))
}

pub fn remove_tunnel(index: u32, mac: Mac, vtep: IpAddr) -> RouteNetlinkMessage {
    RouteNetlinkMessage::DelNeighbour(tunnel(index, mac, vtep))
}

pub fn put_neighbour(index: u32, address: IpAddr, mac: Mac) -> RouteNetlinkMessage {
    let mut message = neighbour(index, address);
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(lladdr(mac));
    RouteNetlinkMessage::NewNeighbour(message)
}

pub fn remove_neighbour(index: u32, address: IpAddr) -> RouteNetlinkMessage {
    RouteNetlinkMessage::DelNeighbour(neighbour(index, address))
}

fn station(index: u32, mac: Mac) -> NeighbourMessage {
    let mut message = message(AddressFamily::Bridge, index);
    message.header.flags = NeighbourFlags::Controller;
    // In a bridge, "permanent" is an address of the bridge itself, "no ARP" is static.
    message.header.state = NeighbourState::Noarp;
    message.attributes.push(lladdr(mac));
    message
}

fn tunnel(index: u32, mac: Mac, vtep: IpAddr) -> NeighbourMessage {
    let mut message = message(AddressFamily::Bridge, index);
    message.header.flags = NeighbourFlags::Own;
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(lladdr(mac));
    message.attributes.push(destination(vtep));
    message
}

fn neighbour(index: u32, address: IpAddr) -> NeighbourMessage {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let mut message = message(family, index);
    message.attributes.push(destination(address));
    message
}

fn message(family: AddressFamily, index: u32) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family;
    message.header.ifindex = index;
    message
}

fn lladdr(mac: Mac) -> NeighbourAttribute {
    NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())
}

fn destination(address: IpAddr) -> NeighbourAttribute {
    NeighbourAttribute::Destination(match address {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    })
}

/// Reads an entry of the kinds that we make; others (learned, a device's own) give `None`.
pub fn parse(message: &NeighbourMessage) -> Option<Entry> {
    let index = message.header.ifindex;
    let (mut mac, mut target, mut bridged) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(octets) => mac = octets.as_slice().try_into().ok().map(Mac),
            NeighbourAttribute::Destination(address) => target = read_address(address),
            NeighbourAttribute::Controller(_) => bridged = true,
            _ => {}
        }
    }
    let (mac, state) = (mac?, message.header.state);
    match message.header.family {
        AddressFamily::Bridge if !bridged => Some(Entry::Tunnel { index, mac, vtep: target? }),
        AddressFamily::Bridge if state == NeighbourState::Noarp => Some(Entry::Station { index, mac }),
        AddressFamily::Inet | AddressFamily::Inet6 if state == NeighbourState::Permanent => {
            Some(Entry::Neighbour { index, address: target?, mac })
        }
        _ => None,
    }
}

/// The message's family says how to read an address, except that of a VTEP, whose length says it.
fn read_address(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        NeighbourAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        NeighbourAddress::Other(octets) => match octets.len() {
            4 => <[u8; 4]>::try_from(octets.as_slice()).ok().map(IpAddr::from),
            _ => <[u8; 16]>::try_from(octets.as_slice()).ok().map(IpAddr::from),
        },
        _ => None,
    }
}
