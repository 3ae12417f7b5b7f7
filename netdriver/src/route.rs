//! Routes: only the IPv4 default route of a sandbox; all others follow from addresses.

use std::net::Ipv4Addr;

use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::RouteMessageBuilder;

pub fn dump() -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    RouteNetlinkMessage::GetRoute(message)
}

pub fn add_default(index: u32, via: Ipv4Addr) -> RouteNetlinkMessage {
    let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(via).output_interface(index);
    RouteNetlinkMessage::NewRoute(route.build())
}

/// Gateway and device index of a default route of the main table; a gateway of 0.0.0.0 stands for none.
pub fn parse_default(message: &RouteMessage) -> Option<(Ipv4Addr, u32)> {
    let header = &message.header;
    let main = header.table == RouteHeader::RT_TABLE_MAIN && header.kind == RouteType::Unicast;
    if !main || header.destination_prefix_length != 0 || header.address_family != AddressFamily::Inet {
        return None;
    }
    let (mut via, mut index) = (Ipv4Addr::UNSPECIFIED, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => via = *address,
            RouteAttribute::Oif(oif) => index = Some(*oif),
            _ => {}
        }
    }
    Some((via, index?))
}
