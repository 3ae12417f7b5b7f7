//! A task's namespace: loopback, one interface for each attachment, and the outbound leg last.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};

use super::{gateway, overlay};
use crate::desired::{NetworkKey, Sandbox, SandboxKey};
use crate::error::Error;
use crate::mac::{Mac, mac_for};
use crate::model::{DefaultRoute, End, Kind, Link, Namespace, Place, World};
use crate::name;

/// What is known of the parts around a sandbox.
pub struct Surroundings<'a> {
    pub mtus: &'a BTreeMap<NetworkKey, u32>,
    pub gateway: &'a gateway::Gateway<'a>,
    /// The sandbox's address on the gateway bridge, if it has a leg.
    pub leg: Option<Ipv4Addr>,
}

/// The sandbox, its ports in the networks and its leg in the host's namespace.
pub fn wanted(key: &SandboxKey, sandbox: &Sandbox, around: &Surroundings<'_>) -> World {
    let own = Place::Sandbox(key.clone());
    let lo = Link { up: true, ..Link::bare(Kind::Loopback) };
    let mut inside =
        Namespace { links: BTreeMap::from([(name::LOOPBACK.to_owned(), lo)]), ..Namespace::default() };
    let mut world = World::from([(Place::Host, Namespace::default())]);
    for (position, attachment) in sandbox.attachments.iter().enumerate() {
        let place = Place::Network(attachment.network.clone());
        let Some(mtu) = around.mtus.get(&attachment.network).copied() else { continue };
        let interface = name::interface(position);
        let near = End { place: place.clone(), name: name::port(key) };
        let addresses = attachment.addresses.iter().copied().collect();
        let routes = attachment.subnets.iter().map(IpNet::trunc).collect();
        let eth = Link { routes, ..eth(near, attachment.mac, Some(mtu), addresses) };
        inside.links.insert(interface.clone(), eth);
        let port = overlay::port(attachment, key, interface, mtu);
        world.entry(place).or_default().links.insert(name::port(key), port);
    }
    if let Some(address) = around.leg {
        let interface = name::interface(sandbox.attachments.len());
        let near = End { place: Place::Host, name: name::leg(key) };
        let net = Ipv4Net::new_assert(address, around.gateway.subnet.prefix_len());
        let link = eth(near, mac_for(address), None, BTreeSet::from([IpNet::V4(net)]));
        inside.links.insert(interface.clone(), link);
        inside.default_route = Some(DefaultRoute { via: around.gateway.address(), link: interface.clone() });
        let leg = around.gateway.leg(key, address, interface);
        world.entry(Place::Host).or_default().links.insert(name::leg(key), leg);
    }
    world.insert(own, inside);
    world
}

fn eth(near: End, mac: Mac, mtu: Option<u32>, addresses: BTreeSet<IpNet>) -> Link {
    Link { mac: Some(mac), mtu, quiet: true, up: true, addresses, ..Link::bare(Kind::Veth(Some(near))) }
}

pub fn validate(sandbox: &Sandbox) -> Result<(), Error> {
    let mut networks = BTreeSet::new();
    for attachment in &sandbox.attachments {
        if !networks.insert(&attachment.network) {
            return Err(Error::Invalid {
                field: "attachment",
                value: attachment.network.to_string(),
                allowed: "a sandbox attaches to a network once",
            });
        }
    }
    Ok(())
}
