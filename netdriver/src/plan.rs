//! Decides what to change so that what was found becomes what is wanted.
//!
//! Pure: two worlds go in, actions come out. Everything found is taken to be ours: `observe` has left out what is
//! not. Only what differs is touched, so that a restart disturbs no traffic.
//!
//! Invariant: once the actions are done, planning again returns none.

mod action;
mod secure;
mod settle;

#[cfg(test)]
mod tests;

pub use action::{Action, Change, LinkChange};
pub(crate) use secure::{Security, secure};

use crate::model::{End, Kind, Link, Namespace, Place, World};
use settle::settle;

/// Removals come first, then namespaces, then devices (bridges before their ports, cables before what is done to
/// their far ends), then rules and routes.
pub fn plan(wanted: &World, found: &World) -> Vec<Action> {
    let mut found = found.clone();
    let mut actions = removals(wanted, &mut found);
    for place in wanted.keys().filter(|place| !found.contains_key(place)) {
        actions.push(Action::new(place, Change::CreateNamespace));
    }
    for place in wanted.keys() {
        actions.extend(build(place, wanted, &found));
    }
    for (place, namespace) in wanted {
        actions.extend(finish(place, namespace, found.get(place).unwrap_or(&Namespace::default())));
    }
    actions
}

/// Takes away what nobody wants, what is of the wrong kind and cables with a wrong end, also from `found`.
///
/// Namespaces go first: they take their devices, and the far ends of those, with them in one go.
fn removals(wanted: &World, found: &mut World) -> Vec<Action> {
    let mut actions = Vec::new();
    let gone: Vec<Place> = found.keys().filter(|place| !wanted.contains_key(place)).cloned().collect();
    for place in gone {
        found.remove(&place);
        actions.push(Action::new(&place, Change::RemoveNamespace));
    }
    for end in doomed(wanted, found) {
        // The far end of a cable goes with the near one.
        let Some(link) = remove_link(found, &end) else { continue };
        if let Some(far) = link.far_end() {
            remove_link(found, far);
        }
        actions.push(Action::link(&end.place, &end.name, LinkChange::Delete));
    }
    actions
}

fn doomed(wanted: &World, found: &World) -> Vec<End> {
    let mut doomed = Vec::new();
    for (place, namespace) in found {
        let keep = wanted.get(place).map(|keep| &keep.links);
        for (name, link) in &namespace.links {
            let wish = keep.and_then(|keep| keep.get(name));
            if wish.is_none_or(|wish| wish.kind != link.kind) {
                doomed.push(End { place: place.clone(), name: name.clone() });
            }
        }
    }
    doomed
}

fn remove_link(found: &mut World, end: &End) -> Option<Link> {
    let namespace = found.get_mut(&end.place)?;
    namespace.default_route.take_if(|route| route.link == end.name);
    namespace.links.remove(&end.name)
}

/// Makes the devices of one namespace. A cable is made from the end that is not in the sandbox.
fn build(place: &Place, wanted: &World, found: &World) -> Vec<Action> {
    let mut links: Vec<(&String, &Link)> = wanted.get(place).into_iter().flat_map(|n| &n.links).collect();
    links.sort_by_key(|(_, link)| rank(link));
    let present = found.get(place);
    let mut actions = Vec::new();
    for (name, link) in links {
        match present.and_then(|namespace| namespace.links.get(name)) {
            Some(current) => actions.extend(settle(place, name, link, current)),
            None => {
                actions.extend(create(place, name, link, wanted));
                actions.extend(settle(place, name, link, &Link::fresh(link, place)));
            }
        }
    }
    actions
}

fn rank(link: &Link) -> u8 {
    match link.kind {
        Kind::Loopback | Kind::Bridge => 0,
        Kind::Vxlan(_) | Kind::Other(_) => 1,
        Kind::Veth(_) => 2,
    }
}

/// None for `lo`, which comes with its namespace, and for the sandbox's end of a cable, which comes with the other.
fn create(place: &Place, name: &str, link: &Link, wanted: &World) -> Option<Action> {
    let far = match &link.kind {
        Kind::Loopback => return None,
        Kind::Veth(_) if matches!(place, Place::Sandbox(_)) => return None,
        _ => link.far_end().and_then(|far| wanted.get(&far.place)?.links.get(&far.name)),
    };
    let far = far.cloned().map(Box::new);
    Some(Action::link(place, name, LinkChange::Create { link: Box::new(link.clone()), far }))
}

fn finish(place: &Place, wanted: &Namespace, found: &Namespace) -> Vec<Action> {
    let mut actions = Vec::new();
    if wanted.forwarding == Some(true) && found.forwarding != Some(true) {
        actions.push(Action::new(place, Change::EnableForwarding));
    }
    match &wanted.rules {
        rules if *rules == found.rules => {}
        Some(rules) => actions.push(Action::new(place, Change::SetRules(rules.clone()))),
        None => actions.push(Action::new(place, Change::RemoveRules)),
    }
    for (name, link) in &wanted.links {
        let present = found.links.get(name).map(|link| &link.routes);
        let missing =
            link.routes.iter().filter(|route| present.is_none_or(|present| !present.contains(route)));
        actions.extend(missing.map(|route| Action::link(place, name, LinkChange::AddRoute(*route))));
    }
    // A task that may administer its network may have replaced the route; that is its business.
    if let (Some(route), None) = (&wanted.default_route, &found.default_route) {
        actions.push(Action::new(place, Change::AddDefaultRoute(route.clone())));
    }
    actions
}
