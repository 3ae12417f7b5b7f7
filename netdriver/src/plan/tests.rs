//! The planner against a model of the kernel: what the actions do to a world, without one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;

use super::{Action, Change, LinkChange, plan};
use crate::desired::{Attachment, Overlay, Peer, PeerKey, Sandbox, SandboxKey, Subnet};
use crate::driver::gateway::Gateway;
use crate::driver::{overlay, sandbox};
use crate::mac::{Mac, mac_for};
use crate::model::{End, Kind, Link, Namespace, Place, World};

/// Does to `world` what the kernel would; panics where the kernel would refuse.
fn apply(world: &mut World, action: &Action) {
    let place = &action.place;
    match &action.change {
        Change::CreateNamespace => {
            let lo = ("lo".to_owned(), Link::bare(Kind::Loopback));
            let links = match place {
                Place::Sandbox(_) => BTreeMap::from([lo]),
                _ => BTreeMap::new(),
            };
            let old = world.insert(place.clone(), Namespace { links, ..Namespace::default() });
            assert!(old.is_none(), "{action}: exists");
        }
        Change::RemoveNamespace => {
            let names: Vec<String> = world[place].links.keys().cloned().collect();
            names.iter().for_each(|name| unplug(world, place, name));
            world.remove(place);
        }
        Change::Link { name, change } => apply_link(world, place, name, change),
        Change::EnableForwarding => at(world, place).forwarding = Some(true),
        Change::SetRules(rules) => at(world, place).rules = Some(rules.clone()),
        Change::RemoveRules => at(world, place).rules = None,
        Change::AddDefaultRoute(route) => {
            assert!(at(world, place).links[&route.link].up, "{action}: the device is down");
            at(world, place).default_route = Some(route.clone());
        }
        // Planned apart from worlds.
        other => unreachable!("{action}: {other:?} is never planned"),
    }
}

fn at<'a>(world: &'a mut World, place: &Place) -> &'a mut Namespace {
    world.get_mut(place).unwrap_or_else(|| panic!("no {place}"))
}

/// Deletes a device, and with it the far end of its cable and the route over it.
fn unplug(world: &mut World, place: &Place, name: &str) {
    let Some(namespace) = world.get_mut(place) else { return };
    let Some(link) = namespace.links.remove(name) else { return };
    namespace.default_route.take_if(|route| route.link == name);
    for port in namespace.links.values_mut().filter(|port| port.master.as_deref() == Some(name)) {
        (port.master, port.port) = (None, None);
        port.stations.clear();
    }
    if let Some(far) = link.far_end() {
        unplug(world, &far.place.clone(), &far.name.clone());
    }
}

fn apply_link(world: &mut World, place: &Place, name: &str, change: &LinkChange) {
    match change {
        LinkChange::Delete => return unplug(world, place, name),
        LinkChange::Create { link, far } => return create(world, place, name, link, far.as_deref()),
        _ => {}
    }
    let link = at(world, place).links.get_mut(name).unwrap_or_else(|| panic!("{place}: no {name}"));
    match change {
        LinkChange::SetMaster(master) => {
            (link.master, link.port) = (Some(master.clone()), Some(crate::model::Port::FRESH));
        }
        LinkChange::SetMac(mac) => link.mac = Some(*mac),
        LinkChange::SetMtu(mtu) => link.mtu = Some(*mtu),
        LinkChange::SetOffload(on) => link.offload = Some(*on),
        LinkChange::SetAlias(alias) => link.alias = Some(alias.clone()),
        LinkChange::SetPort(port) => {
            assert!(link.master.is_some(), "{name} is no port");
            link.port = Some(*port);
        }
        LinkChange::Quieten => link.quiet = true,
        LinkChange::AddAddress(net) => assert!(link.addresses.insert(*net)),
        LinkChange::RemoveAddress(net) => assert!(link.addresses.remove(net)),
        LinkChange::AddStation(mac) => assert!(link.master.is_some() && link.stations.insert(*mac)),
        LinkChange::RemoveStation(mac) => assert!(link.stations.remove(mac)),
        LinkChange::PutTunnel(mac, vtep) => _ = link.tunnels.insert(*mac, *vtep),
        LinkChange::RemoveTunnel(mac, vtep) => assert_eq!(link.tunnels.remove(mac), Some(*vtep)),
        LinkChange::PutNeighbour(address, mac) => _ = link.neighbours.insert(*address, *mac),
        LinkChange::RemoveNeighbour(address) => assert!(link.neighbours.remove(address).is_some()),
        LinkChange::Up => link.up = true,
        LinkChange::AddRoute(net) => assert!(link.up && link.routes.insert(*net), "{name}: {net}"),
        LinkChange::Delete | LinkChange::Create { .. } => unreachable!("handled above"),
    }
}

fn create(world: &mut World, place: &Place, name: &str, link: &Link, far: Option<&Link>) {
    if let Some(master) = &link.master {
        assert!(at(world, place).links.contains_key(master), "{name}: no {master}");
    }
    let old = at(world, place).links.insert(name.to_owned(), Link::fresh(link, place));
    assert!(old.is_none(), "{place}: {name} exists");
    if let Some(end) = link.far_end() {
        let far = Link::fresh(far.unwrap(), &end.place);
        let old = at(world, &end.place).links.insert(end.name.clone(), far);
        assert!(old.is_none(), "{}: {} exists", end.place, end.name);
    }
}

/// Plans, applies and plans again: nothing may be left to do.
fn converge(wanted: &World, found: &mut World) -> Vec<Action> {
    let actions = plan(wanted, found);
    for action in &actions {
        apply(found, action);
    }
    assert_eq!(plan(wanted, found), [], "after {actions:#?}");
    actions
}

fn network(vni: u32, peers: &[(u8, u8)]) -> Overlay {
    let local: IpAddr = [192, 168, 0, 1].into();
    let peers = peers.iter().map(|(number, vtep)| {
        let address: IpAddr = [10, 0, 0, *number].into();
        let peer =
            Peer { mac: mac_for(address), addresses: vec![address], vtep: [192, 168, 0, *vtep].into() };
        (PeerKey::new(number.to_string()), Arc::new(peer))
    });
    Overlay {
        vni,
        port: 4789,
        local,
        subnets: vec![Subnet { net: "10.0.0.0/24".parse().unwrap(), gateway: [10, 0, 0, 1].into() }],
        mtu: None,
        internal: vni.is_multiple_of(2),
        encryption: None,
        peers: peers.collect(),
        services: Default::default(),
    }
}

/// A node with networks `a` (and `b`), and sandboxes of which each is on `a`, on both, and may have a leg.
fn node(vnis: &[u32], peers: &[(u8, u8)], sandboxes: &[(u8, bool, bool)], mtu: u32) -> World {
    let gateway = Gateway { bridge: "gw", subnet: "172.18.0.0/16".parse().unwrap() };
    let mut world = World::from([(Place::Host, gateway.wanted())]);
    let names: Vec<_> = ["a", "b"].iter().zip(vnis).collect();
    for (name, vni) in &names {
        world.insert(
            Place::Network((**name).into()),
            overlay::frame(&network(**vni, peers), mtu, **vni % 2 == 0),
        );
    }
    for (number, both, outbound) in sandboxes {
        let key = SandboxKey::new(number.to_string());
        let attachments = names.iter().take(if *both { 2 } else { 1 }).map(|(name, _)| {
            let net = format!("10.0.0.{number}/24").parse().unwrap();
            let mac = mac_for([10, 0, 0, *number]);
            let subnets = if *both { vec!["10.0.1.0/24".parse().unwrap()] } else { Vec::new() };
            Attachment { network: (**name).into(), mac, addresses: vec![net], subnets }
        });
        let wish = Sandbox { attachments: attachments.collect(), outbound: *outbound, resolver: false };
        let mtus = names.iter().map(|(name, _)| ((**name).into(), mtu)).collect();
        let leg = outbound.then_some([172, 18, 0, *number].into());
        let around = sandbox::Surroundings { mtus: &mtus, gateway: &gateway, leg };
        for (place, part) in sandbox::wanted(&key, &wish, &around) {
            let namespace = world.entry(place).or_default();
            namespace.links.extend(part.links);
            namespace.default_route = namespace.default_route.take().or(part.default_route);
        }
    }
    world
}

fn empty() -> World {
    World::from([(Place::Host, Namespace { forwarding: Some(false), ..Namespace::default() })])
}

#[test]
fn a_node_is_built_from_nothing_and_taken_down_again() {
    let wanted = node(&[7], &[(20, 2)], &[(10, false, true)], 1450);
    let mut found = empty();
    let built = converge(&wanted, &mut found);
    assert_eq!(built[0].to_string(), "network a: create namespace");
    assert_eq!(built.last().unwrap().to_string(), "sandbox 10: default route via 172.18.0.1 dev eth1");
    converge(&empty(), &mut found);
    assert_eq!(found.len(), 1);
    assert!(found[&Place::Host].links.is_empty() && found[&Place::Host].rules.is_none());
}

#[test]
fn only_differences_are_touched() {
    let mut found = empty();
    converge(&node(&[7], &[(20, 2), (21, 2)], &[(10, false, false)], 1450), &mut found);
    let moved = node(&[7], &[(20, 3), (21, 2)], &[(10, false, false)], 1450);
    let actions: Vec<String> = converge(&moved, &mut found).iter().map(ToString::to_string).collect();
    assert_eq!(actions, ["network a: vx0: put 02:42:0a:00:00:14 behind 192.168.0.3"]);
}

#[test]
fn the_other_subnets_of_a_network_are_reached_directly() {
    let wanted = node(&[7], &[], &[(10, true, false)], 1450);
    let mut found = empty();
    let built = converge(&wanted, &mut found);
    assert_eq!(built.last().unwrap().to_string(), "sandbox 10: eth0: add route 10.0.1.0/24");
    // One that a task has added is its business; one that it has removed comes back.
    let sandbox = Place::Sandbox("10".into());
    let eth0 = at(&mut found, &sandbox).links.get_mut("eth0").unwrap();
    eth0.routes = BTreeSet::from(["10.0.77.0/24".parse().unwrap()]);
    let actions: Vec<String> = converge(&wanted, &mut found).iter().map(ToString::to_string).collect();
    assert_eq!(actions, ["sandbox 10: eth0: add route 10.0.1.0/24"]);
}

#[test]
fn a_cable_with_a_wrong_end_is_made_anew() {
    let wanted = node(&[7], &[], &[(10, false, false)], 1450);
    let mut found = empty();
    converge(&wanted, &mut found);
    let sandbox = Place::Sandbox("10".into());
    // The far end was in a namespace that is gone; the near one is about to follow it.
    at(&mut found, &sandbox).links.remove("eth0");
    let port = crate::name::port(&"10".into());
    at(&mut found, &Place::Network("a".into())).links.get_mut(&port).unwrap().kind = Kind::Veth(None);
    let actions = converge(&wanted, &mut found);
    assert_eq!(actions[0].to_string(), format!("network a: {port}: delete"));
}

#[test]
fn what_a_task_gave_itself_is_left_to_it() {
    let wanted = node(&[7], &[], &[(10, false, true)], 1450);
    let mut found = empty();
    converge(&wanted, &mut found);
    let inside = at(&mut found, &Place::Sandbox("10".into()));
    inside.links.get_mut("eth0").unwrap().addresses.insert("10.0.0.99/24".parse().unwrap());
    inside.default_route.as_mut().unwrap().via = [10, 0, 0, 99].into();
    assert_eq!(plan(&wanted, &found), []);
}

/// One piece of damage to a world, such as a crash or a stranger leaves.
fn damage(world: &mut World, pick: usize, kind: u8) {
    let ends: Vec<End> = world
        .iter()
        .flat_map(|(place, n)| n.links.keys().map(|name| End { place: place.clone(), name: name.clone() }))
        .collect();
    let Some(end) = ends.get(pick % ends.len().max(1)) else { return };
    if kind == 0 && end.name != "lo" {
        return unplug(world, &end.place, &end.name);
    }
    if kind == 7 {
        return mismatch(world, end);
    }
    let namespace = at(world, &end.place);
    let link = namespace.links.get_mut(&end.name).unwrap();
    match kind {
        1 => link.up = false,
        2 => link.mtu = Some(9000),
        3 => (link.master, link.port, link.stations) = (None, None, BTreeSet::new()),
        4 => link.addresses.clear(),
        5 => _ = (link.tunnels.clear(), link.neighbours.clear()),
        6 if link.master.is_some() => _ = link.stations.insert(Mac([2; 6])),
        8 => namespace.default_route = None,
        9 if matches!(link.kind, Kind::Vxlan(_)) => _ = link.tunnels.insert(Mac([2; 6]), [9, 9, 9, 9].into()),
        10 => namespace.rules = Some("another".to_owned()),
        _ => {}
    }
}

/// Two ends that are not each other's: both then lead nowhere that is wanted.
fn mismatch(world: &mut World, end: &End) {
    let link = at(world, &end.place).links.get_mut(&end.name).unwrap();
    let Some(far) = link.far_end().cloned() else { return };
    link.kind = Kind::Veth(None);
    if let Some(link) = at(world, &far.place).links.get_mut(&far.name) {
        link.kind = Kind::Veth(None);
    }
}

prop_compose! {
    fn any_node()(
        vnis in prop::collection::vec(1..20_u32, 1..=2),
        peers in prop::collection::vec((100..110_u8, 2..4_u8), 0..6),
        numbers in prop::collection::btree_map(10..16_u8, any::<(bool, bool)>(), 0..5),
        mtu in prop::sample::select(vec![1430, 1450]),
    ) -> World {
        let sandboxes: Vec<_> = numbers.into_iter().map(|(number, (both, out))| (number, both, out)).collect();
        node(&vnis, &peers, &sandboxes, mtu)
    }
}

proptest! {
    #[test]
    fn converges_from_any_node_to_any_other(first in any_node(), second in any_node()) {
        let mut found = empty();
        converge(&first, &mut found);
        converge(&second, &mut found);
        converge(&empty(), &mut found);
        prop_assert_eq!(found.len(), 1);
    }

    #[test]
    fn converges_from_any_damage(
        wanted in any_node(),
        damages in prop::collection::vec((any::<usize>(), 0..11_u8), 1..6),
    ) {
        let mut found = empty();
        converge(&wanted, &mut found);
        for (pick, kind) in damages {
            damage(&mut found, pick, kind);
        }
        converge(&wanted, &mut found);
    }

    #[test]
    fn converges_from_any_prefix_of_a_plan(first in any_node(), second in any_node(), cut in any::<prop::sample::Index>()) {
        let mut found = empty();
        converge(&first, &mut found);
        let actions = plan(&second, &found);
        for action in actions.iter().take(cut.index(actions.len() + 1)) {
            apply(&mut found, action);
        }
        converge(&second, &mut found);
    }
}
