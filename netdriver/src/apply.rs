//! Carries out a plan, step by step.
//!
//! What is already gone counts as removed, so that two that clean up at once do not fail each other. A plan stops at
//! the first step that fails, since later ones build on it; entries of the forwarding and neighbour tables build on
//! nothing and are sent many at a time, each with an error of its own.

use std::os::fd::AsFd;

use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;

use crate::error::Error;
use crate::ethtool::Ethtool;
use crate::model::{Kind, Link, Place};
use crate::netlink::{Mode, Refusal, batch};
use crate::plan::{Action, Change, LinkChange};
use crate::site::{Site, Sites};
use crate::sysctl::{self, FORWARDING};
use crate::{address, link, neigh, netns, nft, route};

#[derive(Debug, Default)]
pub struct Outcome {
    pub done: Vec<Action>,
    pub errors: Vec<Error>,
}

pub async fn apply(sites: &mut Sites<'_>, actions: Vec<Action>) -> Outcome {
    let mut outcome = Outcome::default();
    let mut actions = actions.into_iter().peekable();
    while let Some(action) = actions.next() {
        if action.is_entry() {
            let mut batch = vec![action];
            while let Some(next) = actions.next_if(Action::is_entry) {
                batch.push(next);
            }
            apply_entries(sites, batch, &mut outcome).await;
            continue;
        }
        match step(sites, &action).await {
            Ok(()) => outcome.done.push(action),
            Err(error) => {
                outcome.errors.push(error);
                break;
            }
        }
    }
    outcome
}

/// Those of one namespace together.
async fn apply_entries(sites: &Sites<'_>, entries: Vec<Action>, outcome: &mut Outcome) {
    let mut entries = entries.into_iter().peekable();
    while let Some(first) = entries.next() {
        let place = first.place.clone();
        let mut batch = vec![first];
        batch.extend(std::iter::from_fn(|| entries.next_if(|next| next.place == place)));
        let verdicts = send_entries(sites, &place, &batch).await;
        for (action, verdict) in batch.into_iter().zip(verdicts) {
            match verdict {
                Ok(()) => outcome.done.push(action),
                Err(cause) => outcome.errors.push(Error::Action { action: Box::new(action), cause }),
            }
        }
    }
}

/// A verdict for each of `entries`.
async fn send_entries(sites: &Sites<'_>, place: &Place, entries: &[Action]) -> Vec<Result<(), Refusal>> {
    let send = async {
        let site = sites.get(place).ok_or_else(|| Refusal::of(Errno::ENOENT))?;
        let mut requests = Vec::with_capacity(entries.len());
        let mut tolerated = Vec::with_capacity(entries.len());
        for action in entries {
            failpoint::reached(action);
            let Change::Link { name, change } = &action.change else { continue };
            let Some((message, mode, errno)) = entry(require(site, name).await?, change) else { continue };
            requests.push((message, mode));
            tolerated.push(errno);
        }
        let verdicts = netns::within(site.file.as_ref(), move || batch::send(requests)).await??;
        let tolerable = |(verdict, errno): (_, Option<Errno>)| tolerate(verdict, errno.as_slice());
        Ok(verdicts.into_iter().zip(tolerated).map(tolerable).collect())
    };
    send.await.unwrap_or_else(|refusal: Refusal| entries.iter().map(|_| Err(refusal.again())).collect())
}

async fn step(sites: &mut Sites<'_>, action: &Action) -> Result<(), Error> {
    failpoint::reached(action);
    let place = &action.place;
    match &action.change {
        Change::CreateNamespace => return create_namespace(sites, place).await,
        Change::RemoveNamespace => return remove_namespace(sites, action).await,
        _ => {}
    }
    let failed = |cause| Error::Action { action: Box::new(action.clone()), cause };
    if let Change::Link { change: LinkChange::Create { link, .. }, .. } = &action.change {
        // Both sites must be open before they can be borrowed together.
        if let Some(far) = link.far_end() {
            sites.enter(&far.place).await?;
        }
        sites.enter(&Place::Host).await?;
    }
    let missing = || failed(Refusal::Io(std::io::ErrorKind::NotFound.into()));
    let site = sites.enter(place).await?.ok_or_else(missing)?;
    match &action.change {
        Change::Link { name, change: LinkChange::Create { link, far } } => {
            create(sites, place, name, link, far.as_deref()).await.map_err(failed)
        }
        Change::Link { name, change } => change_link(site, name, change).await.map_err(failed),
        Change::EnableForwarding => enable_forwarding(site).await.map_err(failed),
        Change::SetRules(script) => nft::run(site.file.as_ref(), script.clone()).await,
        Change::RemoveRules => nft::run(site.file.as_ref(), crate::driver::gateway::no_rules()).await,
        Change::AddDefaultRoute(default) => {
            let index = require(site, &default.link).await.map_err(failed)?;
            let route = route::add_default(index, default.via);
            tolerate(site.netlink.apply(route, Mode::Create).await, &[Errno::EEXIST]).map_err(failed)
        }
        // Not planned here: `steering` does it all within the namespace.
        Change::Steer(_) | Change::ForgetFlows(_) => Ok(()),
        // Namespaces are dealt with above, encryption by `ensure::encryption`.
        Change::CreateNamespace
        | Change::RemoveNamespace
        | Change::AddAssociation(_)
        | Change::RemoveAssociation(_)
        | Change::PutPolicy(_)
        | Change::RemovePolicy(_)
        | Change::SetShield(_) => Ok(()),
    }
}

async fn create_namespace(sites: &Sites<'_>, place: &Place) -> Result<(), Error> {
    let sysctls = match place {
        Place::Network(_) => sysctl::of_network(),
        Place::Sandbox(_) | Place::Host => sysctl::of_sandbox(),
    };
    let path = sites.path(place);
    netns::create(&path, sysctls).await.map_err(|cause| Error::file("creating namespace", path, cause))
}

/// Deletes its devices first: a namespace itself ends some time later, or lives on in a process that is still in it.
async fn remove_namespace(sites: &mut Sites<'_>, action: &Action) -> Result<(), Error> {
    let place = &action.place;
    if let Some(site) = sites.enter(place).await? {
        let deleted = site.netlink.apply(link::delete_ours(), Mode::Change).await;
        let deleted = tolerate(deleted, &[Errno::ENODEV]);
        deleted.map_err(|cause| Error::Action { action: Box::new(action.clone()), cause })?;
    }
    sites.leave(place);
    failpoint::reached(format_args!("{place}: unmount namespace"));
    let path = sites.path(place);
    netns::remove(&path).await.map_err(|cause| Error::file("removing namespace", path, cause))
}

async fn enable_forwarding(site: &Site) -> Result<(), Refusal> {
    netns::within(site.file.as_ref(), || FORWARDING.write()).await??;
    Ok(())
}

async fn create(
    sites: &Sites<'_>,
    place: &Place,
    name: &str,
    link: &Link,
    far: Option<&Link>,
) -> Result<(), Refusal> {
    let site_of = |place: &Place| sites.get(place).ok_or_else(|| Refusal::of(Errno::ENOENT));
    let site = site_of(place)?;
    let master = match &link.master {
        Some(master) => Some(require(site, master).await?),
        None => None,
    };
    // Only places that have a file are ever a target.
    let namespace =
        |site: &'_ Site| site.file.as_ref().map(|file| file.as_fd().try_clone_to_owned()).transpose();
    match (&link.kind, link.far_end()) {
        (Kind::Bridge, _) => site.netlink.apply(link::bridge(name, link), Mode::Create).await,
        (Kind::Vxlan(vxlan), _) => {
            let Some(target) = namespace(site)? else { return Err(Refusal::of(Errno::EINVAL)) };
            let request = link::vxlan(name, link, vxlan, master, target.as_fd());
            site_of(&Place::Host)?.netlink.apply(request, Mode::Create).await
        }
        (Kind::Veth(_), Some(end)) => {
            let Some(target) = namespace(site_of(&end.place)?)? else {
                return Err(Refusal::of(Errno::EINVAL));
            };
            let bare = Link::bare(Kind::Veth(None));
            let far = link::Target { name: &end.name, link: far.unwrap_or(&bare), namespace: target.as_fd() };
            site.netlink.apply(link::veth(name, link, master, &far), Mode::Create).await
        }
        _ => Err(Refusal::of(Errno::EOPNOTSUPP)),
    }
}

async fn change_link(site: &Site, name: &str, change: &LinkChange) -> Result<(), Refusal> {
    let netlink = &site.netlink;
    if *change == LinkChange::Delete {
        let Some(index) = site.index(name).await? else { return Ok(()) };
        site.forget(name);
        return tolerate(netlink.apply(link::delete(index), Mode::Change).await, &[Errno::ENODEV]);
    }
    if let LinkChange::SetOffload(on) = *change {
        let device = name.to_owned();
        let set = move || Ethtool::open()?.leave_checksum(&device, on);
        return netns::within(site.file.as_ref(), set).await?;
    }
    let index = require(site, name).await?;
    let Some((request, mode, tolerated)) = request(site, index, change).await? else { return Ok(()) };
    match netlink.apply(request, mode).await {
        Err(refusal) if tolerated.is_some_and(|errno| refusal.errno() == Some(errno)) => Ok(()),
        result => result,
    }
}

/// The request for a change to an existing device, and the refusal that means that nothing was left to do.
async fn request(
    site: &Site,
    index: u32,
    change: &LinkChange,
) -> Result<Option<(RouteNetlinkMessage, Mode, Option<Errno>)>, Refusal> {
    use Mode::{Change, Create, Replace};
    Ok(Some(match change {
        LinkChange::SetMaster(master) => {
            (link::set_master(index, require(site, master).await?), Change, None)
        }
        LinkChange::SetMac(mac) => (link::set_mac(index, *mac), Change, None),
        LinkChange::SetMtu(mtu) => (link::set_mtu(index, *mtu), Change, None),
        LinkChange::SetAlias(alias) => (link::set_alias(index, alias), Change, None),
        LinkChange::SetPort(port) => (link::set_port(index, *port), Change, None),
        // A kernel without IPv6 is quiet anyway.
        LinkChange::Quieten => (link::quieten(index), Change, Some(Errno::EAFNOSUPPORT)),
        LinkChange::AddAddress(net) => (address::add(index, *net), Create, Some(Errno::EEXIST)),
        LinkChange::RemoveAddress(net) => (address::remove(index, *net), Change, Some(Errno::EADDRNOTAVAIL)),
        LinkChange::AddStation(mac) => (neigh::put_station(index, *mac), Replace, None),
        LinkChange::RemoveStation(mac) => (neigh::remove_station(index, *mac), Change, Some(Errno::ENOENT)),
        LinkChange::PutTunnel(..)
        | LinkChange::RemoveTunnel(..)
        | LinkChange::PutNeighbour(..)
        | LinkChange::RemoveNeighbour(..) => return Ok(entry(index, change)),
        LinkChange::Up => (link::up(index), Change, None),
        LinkChange::AddRoute(net) => (route::add_direct(index, *net), Create, Some(Errno::EEXIST)),
        LinkChange::Create { .. } | LinkChange::Delete | LinkChange::SetOffload(_) => return Ok(None),
    }))
}

/// The same for entries of the forwarding and neighbour tables, for which nothing has to be asked.
fn entry(index: u32, change: &LinkChange) -> Option<(RouteNetlinkMessage, Mode, Option<Errno>)> {
    use Mode::{Change, Replace};
    Some(match change {
        LinkChange::PutTunnel(mac, vtep) => (neigh::put_tunnel(index, *mac, *vtep), Replace, None),
        LinkChange::RemoveTunnel(mac, vtep) => {
            (neigh::remove_tunnel(index, *mac, *vtep), Change, Some(Errno::ENOENT))
        }
        LinkChange::PutNeighbour(address, mac) => {
            (neigh::put_neighbour(index, *address, *mac), Replace, None)
        }
        LinkChange::RemoveNeighbour(address) => {
            (neigh::remove_neighbour(index, *address), Change, Some(Errno::ENOENT))
        }
        _ => return None,
    })
}

async fn require(site: &Site, name: &str) -> Result<u32, Refusal> {
    site.index(name).await?.ok_or_else(|| Refusal::of(Errno::ENODEV))
}

fn tolerate(result: Result<(), Refusal>, tolerated: &[Errno]) -> Result<(), Refusal> {
    match result {
        Err(refusal) if refusal.errno().is_some_and(|errno| tolerated.contains(&errno)) => Ok(()),
        result => result,
    }
}
