//! What the kernel has for packets between a task here and another end: read, never mended.
//!
//! Tells what there is, device by device and table by table; what ought to be there, and what is wrong, is the caller's
//! to say. What is missing is told as missing, so that a half-built sandbox can be looked at like any other.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netlink_packet_route::RouteNetlinkMessage;
use ring::digest;

use crate::desired::{NetworkKey, SandboxKey};
use crate::driver::overlay;
use crate::error::Error;
use crate::esp::Material;
use crate::mac::Mac;
use crate::model::{Kind, Link, Namespace, Place};
use crate::netlink::Refusal;
use crate::observe::{self, Look};
use crate::route::{self, Way};
use crate::site::{Site, Sites};
use crate::steering::{self, Seen};
use crate::xfrm::Xfrm;
use crate::{Netdriver, name, netns};

/// Separates fingerprints from all else that is made of keys.
const LABEL: &[u8] = b"swarmd association fingerprint 1";
const FINGERPRINT_BYTES: usize = 8;
/// Sockets that are told; a task with more has others in the list often enough.
const MOST_LISTENING: usize = 64;
/// State of a TCP socket that is listened on, in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// Between whom to look.
#[derive(Debug, Clone)]
pub struct View {
    pub sandbox: SandboxKey,
    /// Which of the sandbox's interfaces, from 0.
    pub position: usize,
    pub network: NetworkKey,
    pub vni: u32,
    pub encrypted: bool,
    /// This node's tunnel end.
    pub local: IpAddr,
    /// Of the task on the network.
    pub mac: Mac,
    pub addresses: Vec<IpAddr>,
    /// Whose backends are asked for.
    pub virtual_ip: Option<IpAddr>,
    pub far: Option<Far>,
}

/// The other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Far {
    pub address: IpAddr,
    pub mac: Mac,
    pub vtep: IpAddr,
}

/// What was seen. Devices that do not exist are none.
#[derive(Debug, Clone)]
pub struct Sight {
    pub interface: Option<(String, Link)>,
    pub port: Option<(String, Link)>,
    pub bridge: Option<(String, Link)>,
    pub tunnel: Option<(String, Link)>,
    /// The interface has all the task's addresses.
    pub addressed: bool,
    /// The bridge has the task's MAC at its port.
    pub stationed: bool,
    pub neighbour: Option<Mac>,
    pub forwarding: Option<IpAddr>,
    pub table: Option<Seen>,
    /// The way to the other tunnel end, or why there is none. None on one node.
    pub underlay: Option<Result<Underlay, String>>,
    pub keys: Option<Keys>,
    /// TCP sockets of the sandbox that are listened on.
    pub listening: Vec<SocketAddr>,
}

/// The host's way to the other tunnel end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Underlay {
    pub device: String,
    pub mtu: u32,
    pub via: Option<IpAddr>,
    pub source: Option<IpAddr>,
    /// Bytes of the largest inner packet that fits.
    pub inner_bytes: u32,
}

/// Associations between the two tunnel ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys {
    /// The SPI of the policy towards the other end.
    pub sending: Option<u32>,
    pub associations: Vec<KeySeen>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySeen {
    pub outgoing: bool,
    pub spi: u32,
    pub fingerprint: [u8; FINGERPRINT_BYTES],
}

impl Netdriver {
    /// Looks at everything that a packet of the task would meet on this node.
    pub async fn look(&self, view: &View) -> Result<Sight, Error> {
        let mut sites = self.sites().await;
        let interface = name::interface(view.position);
        let port = name::port(&view.sandbox);
        let inside = devices(&mut sites, &Place::Sandbox(view.sandbox.clone()), &[&interface]).await?;
        let network = [name::BRIDGE, name::VXLAN, &port];
        let around = devices(&mut sites, &Place::Network(view.network.clone()), &network).await?;
        let named = |namespace: &Namespace, device: &str| {
            namespace.links.get(device).map(|link| (device.to_owned(), link.clone()))
        };
        let tunnel = named(&around, name::VXLAN);
        let of_tunnel = tunnel.as_ref().map(|(_, link)| link).zip(view.far.as_ref());
        let far = view.far.as_ref().filter(|far| far.vtep != view.local);
        let (table, listening) = self.look_inside(view).await?;
        Ok(Sight {
            addressed: has_addresses(&inside, &interface, &view.addresses),
            interface: named(&inside, &interface),
            stationed: around.links.get(&port).is_some_and(|link| link.stations.contains(&view.mac)),
            port: named(&around, &port),
            bridge: named(&around, name::BRIDGE),
            neighbour: of_tunnel.and_then(|(link, far)| link.neighbours.get(&far.address).copied()),
            forwarding: of_tunnel.and_then(|(link, far)| link.tunnels.get(&far.mac).copied()),
            tunnel,
            table,
            underlay: match far {
                Some(far) => Some(underlay(&mut sites, view, far.vtep).await?),
                None => None,
            },
            keys: match far.filter(|_| view.encrypted) {
                Some(far) => Some(keys(&mut sites, view, far.vtep).await?),
                None => None,
            },
            listening,
        })
    }

    /// What is read by threads in the sandbox.
    async fn look_inside(&self, view: &View) -> Result<(Option<Seen>, Vec<SocketAddr>), Error> {
        let path = self.sandbox_path(&view.sandbox);
        let failed = |cause| Error::file("entering namespace", &path, cause);
        let Some(namespace) = netns::open(&path).map_err(failed)? else { return Ok((None, vec![])) };
        let virtual_ip = view.virtual_ip;
        let work = move || (virtual_ip.map(steering::look), listening());
        let (table, listening) = netns::within(Some(&namespace), work).await.map_err(failed)?;
        let table =
            table.transpose().map_err(|cause| Error::Steering { sandbox: view.sandbox.clone(), cause })?;
        Ok((table, listening))
    }
}

fn has_addresses(inside: &Namespace, interface: &str, addresses: &[IpAddr]) -> bool {
    let there: BTreeSet<IpAddr> = inside
        .links
        .get(interface)
        .into_iter()
        .flat_map(|link| &link.addresses)
        .map(|net| net.addr())
        .collect();
    addresses.iter().all(|address| there.contains(address))
}

/// The named devices of a place; none of them if it does not exist.
async fn devices(sites: &mut Sites<'_>, place: &Place, names: &[&str]) -> Result<Namespace, Error> {
    let Some(site) = sites.enter(place).await? else { return Ok(Namespace::default()) };
    let view = observe::read(site, place, Look::Devices(names)).await;
    Ok(view.map_err(Error::read(place.to_string()))?.namespace)
}

async fn underlay(
    sites: &mut Sites<'_>,
    view: &View,
    vtep: IpAddr,
) -> Result<Result<Underlay, String>, Error> {
    let Some(host) = sites.enter(&Place::Host).await? else {
        return Ok(Err("the host has no namespace".to_owned()));
    };
    let own = match way(host, view.local).await {
        Ok(own) => own.is_some_and(|way| way.local),
        Err(refusal) => return Ok(Err(refusal.to_string())),
    };
    if !own {
        return Ok(Err(format!("no device of this host has the address {}", view.local)));
    }
    let found = match way(host, vtep).await {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(Err("the route to it leads nowhere".to_owned())),
        Err(refusal) => return Ok(Err(refusal.to_string())),
    };
    let read = Error::read("the way to the other tunnel end");
    let device = match found.index {
        Some(index) => host.name(index).await.map_err(read)?.unwrap_or_default(),
        None => String::new(),
    };
    let link = host.link(&device).await.map_err(Error::read("the device below the tunnel"))?;
    let Some(link) = link.map(|seen| seen.link) else { return Ok(Err("its device is gone".to_owned())) };
    if !link.up {
        return Ok(Err(format!("{device} is down")));
    }
    let mtu = found.mtu.or(link.mtu).unwrap_or_default();
    let inner_bytes = overlay::inner_mtu(mtu, view.local, view.encrypted);
    Ok(Ok(Underlay { device, mtu, via: found.via, source: found.source, inner_bytes }))
}

async fn way(site: &Site, to: IpAddr) -> Result<Option<Way>, Refusal> {
    let answers = site.netlink.get(route::get(to)).await?;
    Ok(answers.iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewRoute(message) => route::parse_way(message),
        _ => None,
    }))
}

async fn keys(sites: &mut Sites<'_>, view: &View, vtep: IpAddr) -> Result<Keys, Error> {
    let host = sites.enter(&Place::Host).await?;
    let failed = |cause| Error::Read { what: "associations".to_owned(), cause };
    let xfrm = Xfrm::open(host.and_then(|host| host.file.as_ref())).await;
    let xfrm = xfrm.map_err(|cause| failed(cause.into()))?;
    let (associations, policies) = xfrm.read().await.map_err(failed)?;
    let policy = policies.iter().find(|policy| policy.vni == view.vni && policy.destination == vtep);
    let seen =
        associations.iter().filter(|association| association.vni == view.vni).filter_map(|association| {
            let outgoing = match (association.source, association.id.destination) {
                (from, to) if from == view.local && to == vtep => true,
                (from, to) if from == vtep && to == view.local => false,
                _ => return None,
            };
            let fingerprint = fingerprint(association.material.as_ref()?);
            Some(KeySeen { outgoing, spi: association.id.spi, fingerprint })
        });
    Ok(Keys { sending: policy.map(|policy| policy.spi), associations: seen.collect() })
}

/// Tells whether two ends have the same key, and nothing else of it.
fn fingerprint(material: &Material) -> [u8; FINGERPRINT_BYTES] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(LABEL);
    context.update(material.expose());
    let digest = context.finish();
    std::array::from_fn(|i| digest.as_ref()[i])
}

/// Of the calling thread's namespace.
fn listening() -> Vec<SocketAddr> {
    let files = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];
    // A kernel without IPv6 has no second file.
    let texts = files.map(|file| fs::read_to_string(file).unwrap_or_default());
    let mut found: Vec<SocketAddr> =
        texts.iter().flat_map(|text| text.lines().filter_map(listener)).collect();
    found.sort();
    found.dedup();
    found.truncate(MOST_LISTENING);
    found
}

/// The address of a line of `/proc/net/tcp`, if it is listened on. Addresses are words in the machine's order.
fn listener(line: &str) -> Option<SocketAddr> {
    let mut fields = line.split_whitespace().skip(1);
    let (local, state) = (fields.next()?, fields.nth(1)?);
    let (address, port) = local.split_once(':').filter(|_| state == LISTEN)?;
    let words = address.as_bytes().chunks(8).map(|word| {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        Some(word.to_ne_bytes())
    });
    let octets = words.collect::<Option<Vec<[u8; 4]>>>()?.concat();
    let address: IpAddr = match octets.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?).into(),
        _ => Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?).into(),
    };
    Some((address, u16::from_str_radix(port, 16).ok()?).into())
}

/// The identifier, port and local address of a VXLAN device.
pub fn vxlan_of(link: &Link) -> Option<&crate::model::Vxlan> {
    match &link.kind {
        Kind::Vxlan(vxlan) => Some(vxlan),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_who_is_listened_on() {
        let line = |local: &str, state: &str| {
            format!(
                "   0: {local} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0"
            )
        };
        assert_eq!(listener(&line("0100007F:1F90", "0A")), Some("127.0.0.1:8080".parse().unwrap()));
        assert_eq!(
            listener(&line("00000000000000000000000001000000:0050", "0A")),
            Some("[::1]:80".parse().unwrap())
        );
        assert_eq!(listener(&line("0100007F:1F90", "01")), None);
        assert_eq!(listener("  sl  local_address rem_address   st tx_queue"), None);
    }

    #[test]
    fn fingerprints_tell_keys_apart_and_never_change() {
        let material = |byte| Material::read(&[byte; crate::esp::MATERIAL_BYTES]).unwrap();
        assert_ne!(fingerprint(&material(1)), fingerprint(&material(2)));
        assert_eq!(fingerprint(&material(1)), fingerprint(&material(1)));
    }
}
