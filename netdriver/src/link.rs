//! Devices: `RTM_NEWLINK`, `RTM_DELLINK`, `RTM_GETLINK`.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoVeth,
    InfoVxlan, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::{LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVxlan};

use crate::mac::Mac;
use crate::model::{Kind, Link, Port, Vxlan};

/// The device group (`IFLA_GROUP`) of everything that is made here: "swrm" in ASCII.
const GROUP: u32 = 0x7377_726d;

/// A device as a message tells it; names of other devices are still indices.
#[derive(Debug)]
pub struct Seen {
    pub index: u32,
    pub name: String,
    /// Index of the cable's other end, in that end's namespace.
    pub peer: Option<u32>,
    pub master: Option<u32>,
    /// Made here: it is in our group.
    pub ours: bool,
    pub link: Link,
}

/// Where a new device, or the far end of a new cable, is put.
pub struct Target<'a> {
    pub name: &'a str,
    pub link: &'a Link,
    pub namespace: BorrowedFd<'a>,
}

/// Asks for one device.
pub fn get(name: &str) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(name.to_owned()), without_statistics()];
    RouteNetlinkMessage::GetLink(message)
}

pub fn get_index(index: u32) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = vec![without_statistics()];
    RouteNetlinkMessage::GetLink(message)
}

pub fn dump() -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![without_statistics()];
    RouteNetlinkMessage::GetLink(message)
}

/// They are the larger part of each answer.
fn without_statistics() -> LinkAttribute {
    LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])
}

pub fn delete(index: u32) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    RouteNetlinkMessage::DelLink(message)
}

/// Deletes all devices of ours in a namespace at once. Each deletion on its own makes the kernel wait for a grace
/// period, some 15 ms; together they wait once.
pub fn delete_ours() -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::Group(GROUP)];
    RouteNetlinkMessage::DelLink(message)
}

pub fn bridge(name: &str, link: &Link) -> RouteNetlinkMessage {
    // Without a querier, snooping would keep neighbour solicitations (multicast) from those they are meant for.
    new(attributes(LinkBridge::new(name).mcast_snooping(false), link, None))
}

/// A VXLAN device in `namespace`, whose UDP socket stays where the request is made: in the host's.
pub fn vxlan(
    name: &str,
    link: &Link,
    vxlan: &Vxlan,
    master: Option<u32>,
    namespace: BorrowedFd<'_>,
) -> RouteNetlinkMessage {
    let builder = LinkVxlan::new(name, vxlan.vni)
        .port(vxlan.port)
        .learning(vxlan.learning)
        .proxy(vxlan.proxy)
        // Over IPv4 the outer checksum is zero (RFC 7348 section 5): inner packets have their own, and it costs about
        // 5 % of the throughput. Over IPv6 it stays (RFC 8200 section 8.1), whatever is said here.
        .udp_csum(false)
        .setns_by_fd(namespace.as_raw_fd());
    let builder = match vxlan.local {
        Some(IpAddr::V4(local)) => builder.local(local),
        Some(IpAddr::V6(local)) => builder.local6(local),
        None => builder,
    };
    new(attributes(builder, link, master))
}

/// A cable: this end where the request is made, the other where `far` says.
pub fn veth(name: &str, link: &Link, master: Option<u32>, far: &Target<'_>) -> RouteNetlinkMessage {
    let peer = LinkMessageBuilder::<LinkUnspec>::new().name(far.name).setns_by_fd(far.namespace.as_raw_fd());
    let peer = attributes(peer, far.link, None);
    let builder = LinkVeth::new(name, far.name).set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
    new(attributes(builder, link, master))
}

fn attributes<T>(mut builder: LinkMessageBuilder<T>, link: &Link, master: Option<u32>) -> LinkMessage {
    builder = builder.link_group(GROUP);
    if let Some(Mac(octets)) = link.mac {
        builder = builder.address(octets.to_vec());
    }
    if let Some(mtu) = link.mtu {
        builder = builder.mtu(mtu);
    }
    if let Some(master) = master {
        builder = builder.controller(master);
    }
    builder.build()
}

fn new(message: LinkMessage) -> RouteNetlinkMessage {
    RouteNetlinkMessage::NewLink(message)
}

fn with(index: u32) -> LinkMessageBuilder<LinkUnspec> {
    LinkUnspec::new_with_index(index)
}

pub fn up(index: u32) -> RouteNetlinkMessage {
    new(with(index).up().build())
}

pub fn set_master(index: u32, master: u32) -> RouteNetlinkMessage {
    new(with(index).controller(master).build())
}

pub fn set_mac(index: u32, mac: Mac) -> RouteNetlinkMessage {
    new(with(index).address(mac.0.to_vec()).build())
}

pub fn set_mtu(index: u32, mtu: u32) -> RouteNetlinkMessage {
    new(with(index).mtu(mtu).build())
}

pub fn set_alias(index: u32, alias: &str) -> RouteNetlinkMessage {
    new(with(index).alias(alias).build())
}

pub fn set_port(index: u32, port: Port) -> RouteNetlinkMessage {
    let builder = LinkBridgePort::new(index)
        .append_info_data(InfoBridgePort::Learning(port.learning))
        .append_info_data(InfoBridgePort::UnicastFlood(port.flood))
        .append_info_data(InfoBridgePort::Isolated(port.isolated));
    new(builder.build())
}

pub fn quieten(index: u32) -> RouteNetlinkMessage {
    let mode = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    new(with(index).append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![mode])).build())
}

/// Reads a device; `None` for a message without a name.
pub fn parse(message: &LinkMessage) -> Option<Seen> {
    let mut link = Link::bare(Kind::Other(String::new()));
    link.up = message.header.flags.contains(LinkFlags::Up);
    // A kernel without IPv6 says nothing of it, and is quiet.
    link.quiet = true;
    let index = message.header.index;
    let mut seen = Seen { index, name: String::new(), peer: None, master: None, ours: false, link };
    if message.header.flags.contains(LinkFlags::Loopback) {
        seen.link.kind = Kind::Loopback;
    }
    for attribute in &message.attributes {
        read(attribute, &mut seen);
    }
    (!seen.name.is_empty()).then_some(seen)
}

fn read(attribute: &LinkAttribute, seen: &mut Seen) {
    match attribute {
        LinkAttribute::IfName(name) => seen.name.clone_from(name),
        LinkAttribute::Link(index) => seen.peer = Some(*index),
        LinkAttribute::Controller(index) => seen.master = Some(*index),
        LinkAttribute::Group(group) => seen.ours = *group == GROUP,
        LinkAttribute::Mtu(mtu) => seen.link.mtu = Some(*mtu),
        LinkAttribute::IfAlias(alias) => seen.link.alias = Some(alias.clone()),
        LinkAttribute::Address(octets) => seen.link.mac = octets.as_slice().try_into().ok().map(Mac),
        LinkAttribute::LinkInfo(infos) => infos.iter().for_each(|info| read_info(info, &mut seen.link)),
        LinkAttribute::AfSpecUnspec(specs) => {
            let mode = specs.iter().find_map(generation);
            seen.link.quiet = mode.is_none_or(|mode| mode == In6AddrGenMode::None);
        }
        _ => {}
    }
}

fn generation(spec: &AfSpecUnspec) -> Option<In6AddrGenMode> {
    let AfSpecUnspec::Inet6(attributes) = spec else { return None };
    attributes.iter().find_map(|attribute| match attribute {
        AfSpecInet6::AddrGenMode(mode) => Some(*mode),
        _ => None,
    })
}

fn read_info(info: &LinkInfo, link: &mut Link) {
    match info {
        LinkInfo::Kind(InfoKind::Bridge) => link.kind = Kind::Bridge,
        LinkInfo::Kind(InfoKind::Veth) => link.kind = Kind::Veth(None),
        LinkInfo::Kind(kind) => link.kind = Kind::Other(kind.to_string()),
        LinkInfo::Data(InfoData::Vxlan(data)) => link.kind = Kind::Vxlan(read_vxlan(data)),
        LinkInfo::PortData(InfoPortData::BridgePort(data)) => link.port = Some(read_port(data)),
        _ => {}
    }
}

fn read_vxlan(data: &[InfoVxlan]) -> Vxlan {
    let mut vxlan = Vxlan { vni: 0, port: 0, local: None, learning: false, proxy: false };
    for info in data {
        match info {
            InfoVxlan::Id(vni) => vxlan.vni = *vni,
            InfoVxlan::Port(port) => vxlan.port = *port,
            InfoVxlan::Local(local) => vxlan.local = Some((*local).into()),
            InfoVxlan::Local6(local) => vxlan.local = Some((*local).into()),
            InfoVxlan::Learning(on) => vxlan.learning = *on,
            InfoVxlan::Proxy(on) => vxlan.proxy = *on,
            _ => {}
        }
    }
    vxlan
}

fn read_port(data: &[InfoBridgePort]) -> Port {
    let mut port = Port::FRESH;
    for info in data {
        match info {
            InfoBridgePort::Learning(on) => port.learning = *on,
            InfoBridgePort::UnicastFlood(on) => port.flood = *on,
            InfoBridgePort::Isolated(on) => port.isolated = *on,
            _ => {}
        }
    }
    port
}
