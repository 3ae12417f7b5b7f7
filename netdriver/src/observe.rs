//! Reads namespaces into the model, as much of them as was asked for, leaving out what is not ours.

use std::collections::BTreeMap;

use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use crate::ethtool::Ethtool;
use crate::link::Seen;
use crate::mac::Mac;
use crate::model::{DefaultRoute, End, Kind, Link, Namespace, Place, World};
use crate::name;
use crate::netlink::Refusal;
use crate::site::{self, Site};
use crate::{address, neigh, netns, route};

/// How much of a namespace to read.
#[derive(Debug, Clone, Copy)]
pub enum Look<'a> {
    /// Every device of ours with all that is on it.
    Whole,
    /// These devices, with tunnels and neighbours.
    Devices(&'a [&'a str]),
    /// These devices, without tunnels and neighbours: a glance, however many those are.
    Frame(&'a [&'a str]),
    /// One port, without addresses, and whether the bridge has this static entry for it: a glance, whatever the size
    /// of the network.
    Port { name: &'a str, station: Option<Mac> },
}

/// A namespace as read, with the indices that cables are matched by.
#[derive(Debug)]
pub struct View {
    pub namespace: Namespace,
    /// Devices of the host that were asked for by name and that somebody else has made.
    pub strangers: Vec<String>,
    /// Index and peer's index of each device.
    cables: BTreeMap<String, (u32, Option<u32>)>,
}

pub async fn read(site: &Site, place: &Place, look: Look<'_>) -> Result<View, Refusal> {
    let mut seen = devices(site, place, look).await?;
    // Our own namespaces are ours whole.
    let strangers = seen.extract_if(.., |seen| *place == Place::Host && !seen.ours).map(|seen| seen.name);
    let strangers = strangers.collect();
    for seen in &mut seen {
        if let Some(master) = seen.master {
            seen.link.master = site.name(master).await?;
        }
    }
    match look {
        Look::Port { station, .. } => read_station(site, &mut seen, station).await?,
        Look::Frame(_) => read_addresses(site, &mut seen).await?,
        Look::Whole | Look::Devices(_) => {
            read_addresses(site, &mut seen).await?;
            if matches!(place, Place::Network(_)) {
                read_entries(site, &mut seen).await?;
            }
            // It never changes by itself, so not every look asks.
            if matches!((place, look), (Place::Network(_), Look::Whole)) {
                read_offload(site, &mut seen).await?;
            }
        }
    }
    let default_route = match place {
        Place::Sandbox(_) => read_routes(site, &mut seen).await?,
        Place::Host | Place::Network(_) => None,
    };
    let cables = seen.iter().map(|seen| (seen.name.clone(), (seen.index, seen.peer))).collect();
    let links = seen.into_iter().map(|seen| (seen.name, seen.link)).collect();
    Ok(View { namespace: Namespace { links, default_route, ..Namespace::default() }, strangers, cables })
}

async fn devices(site: &Site, place: &Place, look: Look<'_>) -> Result<Vec<Seen>, Refusal> {
    let mut found = Vec::new();
    match look {
        Look::Whole => {
            for message in site.netlink.dump(crate::link::dump()).await? {
                let Some(seen) = site::parse(&message) else { continue };
                site.remember(&seen);
                if is_ours(place, &seen) {
                    found.push(seen);
                }
            }
        }
        Look::Devices(names) | Look::Frame(names) => {
            for name in names {
                found.extend(site.link(name).await?);
            }
        }
        Look::Port { name, .. } => found.extend(site.link(name).await?),
    }
    Ok(found)
}

/// A task that may administer its network makes devices of its own, and the host's are the host's.
fn is_ours(place: &Place, seen: &Seen) -> bool {
    match place {
        Place::Host => name::is_leg(&seen.name),
        Place::Network(_) => seen.link.kind != Kind::Loopback,
        Place::Sandbox(_) => match seen.link.kind {
            Kind::Loopback => true,
            Kind::Veth(_) => name::is_interface(&seen.name),
            _ => false,
        },
    }
}

async fn read_addresses(site: &Site, seen: &mut [Seen]) -> Result<(), Refusal> {
    for message in site.netlink.dump(address::dump()).await? {
        let RouteNetlinkMessage::NewAddress(message) = message else { continue };
        let Some((index, address)) = address::parse(&message) else { continue };
        if let Some(link) = by_index(seen, index).filter(|link| link.kind != Kind::Loopback) {
            link.addresses.insert(address);
        }
    }
    Ok(())
}

/// A kernel that does not tell has nothing to switch.
async fn read_offload(site: &Site, seen: &mut [Seen]) -> Result<(), Refusal> {
    let is_tunnel = |seen: &&mut Seen| matches!(seen.link.kind, Kind::Vxlan(_));
    for seen in seen.iter_mut().filter(is_tunnel) {
        let device = seen.name.clone();
        let asked =
            netns::within(site.file.as_ref(), move || Ethtool::open()?.leaves_checksum(&device)).await?;
        seen.link.offload = asked.ok();
    }
    Ok(())
}

async fn read_entries(site: &Site, seen: &mut [Seen]) -> Result<(), Refusal> {
    for family in [AddressFamily::Bridge, AddressFamily::Unspec] {
        for message in site.netlink.dump(neigh::dump(family)).await? {
            let RouteNetlinkMessage::NewNeighbour(message) = message else { continue };
            match neigh::parse(&message) {
                Some(neigh::Entry::Tunnel { index, mac, vtep }) => {
                    by_index(seen, index).map(|link| link.tunnels.insert(mac, vtep));
                }
                Some(neigh::Entry::Station { index, mac }) => {
                    by_index(seen, index).map(|link| link.stations.insert(mac));
                }
                Some(neigh::Entry::Neighbour { index, address, mac }) => {
                    by_index(seen, index).map(|link| link.neighbours.insert(address, mac));
                }
                None => {}
            }
        }
    }
    Ok(())
}

async fn read_station(site: &Site, seen: &mut [Seen], station: Option<Mac>) -> Result<(), Refusal> {
    let (Some(port), Some(mac)) = (seen.first_mut(), station) else { return Ok(()) };
    let answers = match site.netlink.get(neigh::get_station(port.index, mac)).await {
        // The bridge does not know it; or the device is no port yet.
        Err(refusal) if matches!(refusal.errno(), Some(Errno::ENOENT | Errno::EINVAL)) => return Ok(()),
        answers => answers?,
    };
    let ours = neigh::Entry::Station { index: port.index, mac };
    let is_ours = |message: &RouteNetlinkMessage| match message {
        RouteNetlinkMessage::NewNeighbour(message) => neigh::parse(message).as_ref() == Some(&ours),
        _ => false,
    };
    if answers.iter().any(is_ours) {
        port.link.stations.insert(mac);
    }
    Ok(())
}

/// Puts routes without a gateway to their devices, and returns the default route.
async fn read_routes(site: &Site, seen: &mut [Seen]) -> Result<Option<DefaultRoute>, Refusal> {
    let mut default = None;
    for message in site.netlink.dump(route::dump()).await? {
        let RouteNetlinkMessage::NewRoute(message) = message else { continue };
        let Some(route) = route::parse(&message) else { continue };
        let Some(index) = route.index else { continue };
        if let Some(via) = route.default_via() {
            let link = site.name(index).await?.unwrap_or_default();
            default.get_or_insert(DefaultRoute { via, link });
        } else if route.via.is_none() {
            by_index(seen, index).map(|link| link.routes.insert(route.destination));
        }
    }
    Ok(default)
}

fn by_index(seen: &mut [Seen], index: u32) -> Option<&mut Link> {
    seen.iter_mut().find(|seen| seen.index == index).map(|seen| &mut seen.link)
}

/// Puts views together. A cable that is wanted is found if its ends name each other's index; the ends of any other
/// lead nowhere.
pub fn join(views: BTreeMap<Place, View>, wanted: &World) -> World {
    let mut connected: Vec<(End, End)> = Vec::new();
    for (place, namespace) in wanted {
        for (name, link) in &namespace.links {
            let Some(far) = link.far_end() else { continue };
            let near = End { place: place.clone(), name: name.clone() };
            if matches_up(&views, &near, far) {
                connected.push((near, far.clone()));
            }
        }
    }
    let mut world: World = views.into_iter().map(|(place, view)| (place, view.namespace)).collect();
    for (near, far) in connected {
        let link = world.get_mut(&near.place).and_then(|namespace| namespace.links.get_mut(&near.name));
        if let Some(link) = link.filter(|link| matches!(link.kind, Kind::Veth(_))) {
            link.kind = Kind::Veth(Some(far));
        }
    }
    world
}

fn matches_up(views: &BTreeMap<Place, View>, near: &End, far: &End) -> bool {
    let cable = |end: &End| views.get(&end.place).and_then(|view| view.cables.get(&end.name)).copied();
    match (cable(near), cable(far)) {
        (Some((near_index, near_peer)), Some((far_index, far_peer))) => {
            near_peer == Some(far_index) && far_peer == Some(near_index)
        }
        _ => false,
    }
}
