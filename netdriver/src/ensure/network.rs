//! One network: its namespace with bridge and VXLAN device, and its entries for remote endpoints.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;

use super::{carry_out, check_key, encryption, failure, report};
use crate::desired::{NetworkKey, Overlay, PeerKey};
use crate::driver::overlay;
use crate::entries::Entries;
use crate::error::Error;
use crate::model::{Kind, Namespace, Place, World};
use crate::observe::{self, Look};
use crate::plan::{Action, Change, LinkChange, plan};
use crate::report::{Report, Subject};
use crate::site::{self, Sites};
use crate::{Netdriver, address, apply, name};

type Done = (Vec<Action>, Vec<Error>);

impl Netdriver {
    /// `thorough` also looks at the network's ports, and removes those that lead to no sandbox.
    pub(super) async fn ensure_network(&self, key: &NetworkKey, overlay: &Overlay, thorough: bool) -> Report {
        let subject = Subject::Network(key.clone());
        let checked = check_key("network", key.as_str()).and_then(|()| overlay::validate(overlay));
        if let Err(error) = checked {
            return failure(&subject, error);
        }
        let result = match thorough {
            true => self.make_network(key, overlay).await,
            false => match self.update_entries(key, overlay).await {
                Ok(Some(done)) => Ok(done),
                Ok(None) | Err(_) => self.make_network(key, overlay).await,
            },
        };
        match result {
            Ok((done, errors)) => {
                let errors = errors.into_iter().map(|error| explain(overlay, error)).collect();
                report(&subject, (done, errors))
            }
            Err(error) => failure(&subject, error),
        }
    }

    /// Brings the entries about beside sandboxes being attached. `None` if the frame is not in order.
    async fn update_entries(&self, key: &NetworkKey, overlay: &Overlay) -> Result<Option<Done>, Error> {
        let state = self.networks.lease(key);
        let frame = state.frame.read().await;
        let Some(mtu) = *frame else { return Ok(None) };
        let mtu = overlay.mtu.map_or(mtu, u32::from);
        let mut known = state.entries.lock().await;
        let mut sites = self.sites().await;
        let place = Place::Network(key.clone());
        let offload = self.config.vxlan_checksum_offload;
        // What is known is forgotten if anything fails from here on.
        let by_difference = match known.take() {
            Some(entries) => differences(&mut sites, &place, overlay, (mtu, offload), entries).await?,
            None => None,
        };
        let (actions, entries) = match by_difference {
            Some((actions, entries)) => (actions, Some(entries)),
            None => {
                let devices = Look::Devices(&[name::BRIDGE, name::VXLAN]);
                let Some(found) = look(&mut sites, &place, devices).await? else { return Ok(None) };
                (plan(&one(&place, overlay::frame(overlay, mtu, offload)), &one(&place, found)), None)
            }
        };
        if !actions.iter().all(Action::is_entry) {
            return Ok(None);
        }
        let (mut done, mut errors) = self.secure(&mut sites, overlay).await?;
        let outcome = apply::apply(&mut sites, actions).await;
        let entries = entries.or_else(|| Entries::of(overlay)).filter(|_| outcome.errors.is_empty());
        done.extend(outcome.done);
        errors.extend(outcome.errors);
        errors.extend(left_out(overlay, entries.as_ref()));
        *known = entries;
        Ok(Some((done, errors)))
    }

    /// Brings all of a network about, while no sandbox is being attached.
    async fn make_network(&self, key: &NetworkKey, overlay: &Overlay) -> Result<Done, Error> {
        let state = self.networks.lease(key);
        let mut frame = state.frame.write().await;
        *frame = None;
        let mut known = state.entries.lock().await;
        *known = None;
        let mut shielded = Vec::new();
        if overlay.encryption.is_some() {
            self.can_encrypt()?;
            self.raise_shield(overlay, &mut shielded).await?;
        }
        let mut sites = self.sites().await;
        let mtu = mtu(&mut sites, overlay).await?;
        let place = Place::Network(key.clone());
        let mut wanted = overlay::frame(overlay, mtu, self.config.vxlan_checksum_offload);
        let found = match look(&mut sites, &place, Look::Whole).await? {
            Some(found) => {
                self.keep_ports(&found, &mut wanted)?;
                one(&place, found)
            }
            None => World::new(),
        };
        let (mut done, mut errors) = (shielded, Vec::new());
        let secured = self.secure(&mut sites, overlay).await?;
        done.extend(secured.0);
        errors.extend(secured.1);
        let carried_out = carry_out(&mut sites, &one(&place, wanted), &found).await;
        *frame = carried_out.1.iter().all(is_about_entry).then_some(mtu);
        *known = carried_out.1.is_empty().then(|| Entries::of(overlay)).flatten();
        done.extend(carried_out.0);
        errors.extend(carried_out.1);
        errors.extend(left_out(overlay, known.as_ref()));
        Ok((done, errors))
    }

    async fn secure(&self, sites: &mut Sites<'_>, overlay: &Overlay) -> Result<Done, Error> {
        match &overlay.encryption {
            Some(encryption) => encryption::bring(sites, overlay, encryption, &self.spent).await,
            None => Ok(Done::default()),
        }
    }

    /// Ports of sandboxes that exist are theirs to judge. The directory is read after the ports were, so that a port
    /// whose sandbox is just being made is not taken for a leftover.
    fn keep_ports(&self, found: &Namespace, wanted: &mut Namespace) -> Result<(), Error> {
        for place in site::list(&self.config.netns_dir)? {
            let Place::Sandbox(key) = place else { continue };
            let port = name::port(&key);
            if let Some(link) = found.links.get(&port) {
                wanted.links.insert(port, link.clone());
            }
        }
        Ok(())
    }

    /// Makes a network for a sandbox that needs it, unless it is in order.
    pub(super) async fn require_network(
        &self,
        key: &NetworkKey,
        overlay: &Overlay,
        made: &mut Report,
    ) -> Result<(), Error> {
        if self.networks.lease(key).frame.read().await.is_some() {
            return Ok(());
        }
        let report = self.ensure_network(key, overlay, false).await;
        let cause = report.errors.iter().find(|(_, error)| !is_about_entry(error));
        let cause = cause.map(|(_, error)| error.to_string());
        made.absorb(report);
        cause.map_or(Ok(()), |cause| Err(Error::Network { network: key.clone(), cause }))
    }

    pub(super) async fn remove_network(&self, key: &NetworkKey) -> Report {
        let subject = Subject::Network(key.clone());
        match self.unmake_network(key).await {
            Ok(done) => report(&subject, done),
            Err(error) => failure(&subject, error),
        }
    }

    async fn unmake_network(&self, key: &NetworkKey) -> Result<Done, Error> {
        check_key("network", key.as_str())?;
        let state = self.networks.lease(key);
        let mut frame = state.frame.write().await;
        *frame = None;
        *state.entries.lock().await = None;
        let mut sites = self.sites().await;
        let place = Place::Network(key.clone());
        let found = match look(&mut sites, &place, Look::Whole).await? {
            Some(found) => one(&place, found),
            // A file that is no namespace goes, too.
            None if sites.path(&place).exists() => one(&place, Namespace::default()),
            None => World::new(),
        };
        let vni = found.get(&place).and_then(vni);
        let (mut done, mut errors) = carry_out(&mut sites, &World::new(), &found).await;
        drop((frame, sites));
        if let Some(vni) = vni.filter(|_| errors.is_empty()) {
            let unsecured = self.unsecure(vni).await?;
            done.extend(unsecured.0);
            errors.extend(unsecured.1);
        }
        Ok((done, errors))
    }
}

/// What changed peers change in tables that are as they were left. `None` if only the whole tables tell, or if the
/// devices are not in order.
async fn differences(
    sites: &mut Sites<'_>,
    place: &Place,
    overlay: &Overlay,
    (mtu, offload): (u32, bool),
    mut entries: Entries,
) -> Result<Option<(Vec<Action>, Entries)>, Error> {
    let devices = Look::Frame(&[name::BRIDGE, name::VXLAN]);
    let Some(found) = look(sites, place, devices).await? else { return Ok(None) };
    if !plan(&one(place, overlay::devices(overlay, mtu, offload)), &one(place, found)).is_empty() {
        return Ok(None);
    }
    let Some(changes) = entries.follow(overlay) else { return Ok(None) };
    let actions = changes.into_iter().map(|change| Action::link(place, name::VXLAN, change));
    Ok(Some((actions.collect(), entries)))
}

/// What is wrong with peers that are left out.
fn left_out(overlay: &Overlay, known: Option<&Entries>) -> Vec<Error> {
    let error =
        |(peer, vtep): (&PeerKey, _)| Error::ForeignTunnel { peer: peer.clone(), vtep, local: overlay.local };
    match known {
        Some(entries) => entries.left_out().map(error).collect(),
        None => overlay::left_out(overlay).map(error).collect(),
    }
}

fn vni(namespace: &Namespace) -> Option<u32> {
    match &namespace.links.get(name::VXLAN)?.kind {
        Kind::Vxlan(vxlan) => Some(vxlan.vni),
        _ => None,
    }
}

fn one(place: &Place, namespace: Namespace) -> World {
    BTreeMap::from([(place.clone(), namespace)])
}

async fn look(sites: &mut Sites<'_>, place: &Place, look: Look<'_>) -> Result<Option<Namespace>, Error> {
    let Some(site) = sites.enter(place).await? else { return Ok(None) };
    let view = observe::read(site, place, look).await.map_err(Error::read(place.to_string()))?;
    Ok(Some(view.namespace))
}

/// The host's device that has the address, and its MTU.
pub(crate) async fn underlay(sites: &mut Sites<'_>, local: IpAddr) -> Result<(String, u32), Error> {
    let no_underlay = || Error::NoUnderlay { local };
    let host = sites.enter(&Place::Host).await?.ok_or_else(no_underlay)?;
    let read = || async {
        for message in host.netlink.dump(address::dump()).await? {
            let RouteNetlinkMessage::NewAddress(message) = message else { continue };
            if let Some((index, net)) = address::parse(&message)
                && net.addr() == local
            {
                let seen = host.netlink.get(crate::link::get_index(index)).await?;
                let seen = seen.iter().find_map(site::parse);
                return Ok(seen.and_then(|seen| Some((seen.name, seen.link.mtu?))));
            }
        }
        Ok(None)
    };
    read().await.map_err(Error::read("the host's addresses"))?.ok_or_else(no_underlay)
}

/// The inner MTU: as wished, or what the device with the VTEP's address leaves.
async fn mtu(sites: &mut Sites<'_>, overlay: &Overlay) -> Result<u32, Error> {
    let local = overlay.local;
    let (_, underlay) = underlay(sites, local).await?;
    Ok(overlay
        .mtu
        .map_or_else(|| overlay::inner_mtu(underlay, local, overlay.encryption.is_some()), u32::from))
}

fn is_about_entry(error: &Error) -> bool {
    match error {
        Error::Action { action, .. } => action.is_entry(),
        Error::ForeignTunnel { .. } => true,
        _ => false,
    }
}

/// Two refusals that only the whole picture explains.
fn explain(overlay: &Overlay, error: Error) -> Error {
    let Error::Action { action, cause } = &error else { return error };
    let Change::Link { name, change } = &action.change else { return error };
    let (vni, port) = (overlay.vni, overlay.port);
    match (change, cause.errno()) {
        (LinkChange::Create { .. }, Some(Errno::EEXIST)) if name == name::VXLAN => {
            Error::VniTaken { vni, port }
        }
        (LinkChange::Create { .. } | LinkChange::Up, Some(Errno::EADDRINUSE)) => Error::PortTaken { port },
        _ => error,
    }
}
