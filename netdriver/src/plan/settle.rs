//! Differences of one device that exists.

use std::net::IpAddr;

use ipnet::IpNet;

use super::action::{Action, LinkChange};
use crate::model::{Link, Place};

/// Everything that a device is told before it goes up, and last that it goes up.
pub(super) fn settle(place: &Place, name: &str, wanted: &Link, current: &Link) -> Vec<Action> {
    let mut changes = attributes(wanted, current);
    changes.extend(addresses(place, wanted, current));
    changes.extend(entries(wanted, current));
    if wanted.up && !current.up {
        changes.push(LinkChange::Up);
    }
    changes.into_iter().map(|change| Action::link(place, name, change)).collect()
}

fn attributes(wanted: &Link, current: &Link) -> Vec<LinkChange> {
    let mut changes = Vec::new();
    if let Some(master) = differs(&wanted.master, &current.master) {
        changes.push(LinkChange::SetMaster(master));
    }
    if let Some(mac) = differs(&wanted.mac, &current.mac) {
        changes.push(LinkChange::SetMac(mac));
    }
    if let Some(mtu) = differs(&wanted.mtu, &current.mtu) {
        changes.push(LinkChange::SetMtu(mtu));
    }
    if let Some(alias) = differs(&wanted.alias, &current.alias) {
        changes.push(LinkChange::SetAlias(alias));
    }
    if let Some(port) = differs(&wanted.port, &current.port) {
        changes.push(LinkChange::SetPort(port));
    }
    if let (Some(wanted), Some(current)) = (wanted.offload, current.offload)
        && wanted != current
    {
        changes.push(LinkChange::SetOffload(wanted));
    }
    if wanted.quiet && !current.quiet {
        changes.push(LinkChange::Quieten);
    }
    changes
}

fn differs<T: PartialEq + Clone>(wanted: &Option<T>, current: &Option<T>) -> Option<T> {
    wanted.clone().filter(|_| wanted != current)
}

/// Addresses that a task gave itself are left to it; elsewhere nobody but us gives any.
fn addresses(place: &Place, wanted: &Link, current: &Link) -> Vec<LinkChange> {
    let stray = |address: &&IpNet| !matches!(place, Place::Sandbox(_)) && !wanted.addresses.contains(address);
    let removed = current.addresses.iter().filter(stray).map(|a| LinkChange::RemoveAddress(*a));
    let added = wanted.addresses.difference(&current.addresses).map(|a| LinkChange::AddAddress(*a));
    removed.chain(added).collect()
}

/// A MAC that moves to another VTEP and an address that moves to another MAC are replaced in place.
fn entries(wanted: &Link, current: &Link) -> Vec<LinkChange> {
    let mut changes = Vec::new();
    changes.extend(current.stations.difference(&wanted.stations).map(|mac| LinkChange::RemoveStation(*mac)));
    changes.extend(wanted.stations.difference(&current.stations).map(|mac| LinkChange::AddStation(*mac)));

    let neighbour_gone = |address: &&IpAddr| !wanted.neighbours.contains_key(address);
    let gone = current.neighbours.keys().filter(neighbour_gone);
    changes.extend(gone.map(|address| LinkChange::RemoveNeighbour(*address)));
    let gone = current.tunnels.iter().filter(|(mac, _)| !wanted.tunnels.contains_key(mac));
    changes.extend(gone.map(|(mac, vtep)| LinkChange::RemoveTunnel(*mac, *vtep)));

    let news = wanted.tunnels.iter().filter(|(mac, vtep)| current.tunnels.get(mac) != Some(vtep));
    changes.extend(news.map(|(mac, vtep)| LinkChange::PutTunnel(*mac, *vtep)));
    let news = wanted.neighbours.iter().filter(|(address, mac)| current.neighbours.get(address) != Some(mac));
    changes.extend(news.map(|(address, mac)| LinkChange::PutNeighbour(*address, *mac)));
    changes
}
