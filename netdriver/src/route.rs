//! Routes: of a sandbox, the IPv4 default route and those to the other subnets of its networks; all others follow from
//! addresses. Of the host, which destinations it has routes to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::RouteMessageBuilder;

/// A unicast route of the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    pub destination: IpNet,
    pub via: Option<IpAddr>,
    /// Of the device; none for a route with several.
    pub index: Option<u32>,
}

/// Of both families.
pub fn dump() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetRoute(RouteMessage::default())
}

/// Asks for the way to one address.
pub fn get(to: IpAddr) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.destination_prefix_length = if to.is_ipv4() { 32 } else { 128 };
    message.attributes.push(RouteAttribute::Destination(to.into()));
    RouteNetlinkMessage::GetRoute(message)
}

/// The way to one address, as the kernel answers it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Way {
    pub index: Option<u32>,
    pub via: Option<IpAddr>,
    /// The address that packets are sent from.
    pub source: Option<IpAddr>,
    /// Of the route, where it is less than the device's.
    pub mtu: Option<u32>,
    /// The address is the host's own.
    pub local: bool,
}

/// None for a destination that the kernel refuses to reach.
pub fn parse_way(message: &RouteMessage) -> Option<Way> {
    let local = message.header.kind == RouteType::Local;
    if !local && message.header.kind != RouteType::Unicast {
        return None;
    }
    let mut way = Way { local, ..Way::default() };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => way.index = Some(*index),
            RouteAttribute::Gateway(address) => way.via = ip(address),
            RouteAttribute::PrefSource(address) => way.source = ip(address),
            RouteAttribute::Metrics(metrics) => {
                way.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some(way)
}

pub fn add_default(index: u32, via: Ipv4Addr) -> RouteNetlinkMessage {
    let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(via).output_interface(index);
    RouteNetlinkMessage::NewRoute(route.build())
}

/// A route without a gateway.
pub fn add_direct(index: u32, destination: IpNet) -> RouteNetlinkMessage {
    RouteNetlinkMessage::NewRoute(match destination {
        IpNet::V4(net) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(net.network(), net.prefix_len())
            .output_interface(index)
            .scope(RouteScope::Link)
            .build(),
        IpNet::V6(net) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(net.network(), net.prefix_len())
            .output_interface(index)
            .build(),
    })
}

pub fn parse(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    let length = header.destination_prefix_length;
    let (mut destination, mut via, mut index, mut table) = (None, None, None, u32::from(header.table));
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address),
            RouteAttribute::Gateway(address) => via = ip(address),
            RouteAttribute::Oif(oif) => index = Some(*oif),
            RouteAttribute::Table(number) => table = *number,
            _ => {}
        }
    }
    if table != u32::from(RouteHeader::RT_TABLE_MAIN) || header.kind != RouteType::Unicast {
        return None;
    }
    let destination = match header.address_family {
        AddressFamily::Inet => destination.unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
        AddressFamily::Inet6 => destination.unwrap_or(Ipv6Addr::UNSPECIFIED.into()),
        _ => return None,
    };
    Some(Route { destination: IpNet::new(destination, length).ok()?, via, index })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

impl Route {
    /// Its gateway (0.0.0.0 stands for none), if it is an IPv4 default route.
    pub fn default_via(&self) -> Option<Ipv4Addr> {
        match (self.destination, self.via) {
            (IpNet::V4(net), via) if net == Ipv4Net::default() => match via {
                Some(IpAddr::V4(via)) => Some(via),
                _ => Some(Ipv4Addr::UNSPECIFIED),
            },
            _ => None,
        }
    }

    /// A part of the address space that is in use: no default route, nothing that every machine has.
    pub fn is_telling(&self) -> bool {
        match self.destination {
            IpNet::V4(net) => {
                net != Ipv4Net::default() && !net.addr().is_loopback() && !net.addr().is_link_local()
            }
            IpNet::V6(net) => {
                let every = net.addr().is_loopback() || net.addr().is_unicast_link_local();
                net != Ipv6Net::default() && !every && !net.addr().is_multicast()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(message: RouteNetlinkMessage) -> Route {
        let RouteNetlinkMessage::NewRoute(message) = message else { panic!("no route: {message:?}") };
        parse(&message).unwrap()
    }

    #[test]
    fn reads_what_it_writes() {
        for text in ["10.0.9.0/24", "fd00:9::/64"] {
            let destination: IpNet = text.parse().unwrap();
            let route = Route { destination, via: None, index: Some(7) };
            assert_eq!(sent(add_direct(7, destination)), route);
            assert!(route.is_telling() && route.default_via().is_none());
        }
        let default = sent(add_default(7, Ipv4Addr::new(172, 18, 0, 1)));
        assert_eq!(default.default_via(), Some(Ipv4Addr::new(172, 18, 0, 1)));
        assert!(!default.is_telling());
    }

    #[test]
    fn what_every_machine_has_tells_nothing() {
        for text in ["127.0.0.0/8", "169.254.0.0/16", "fe80::/64", "::1/128", "::/0", "ff00::/8"] {
            let route = Route { destination: text.parse().unwrap(), via: None, index: Some(1) };
            assert!(!route.is_telling(), "{text}");
        }
    }
}
