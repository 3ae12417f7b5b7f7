//! The entries of a network's tables as they were left, and what a change of its peers changes in them.
//!
//! Pure. Costs as much as there are changed peers, however many others there are: what `plan` works out from the whole
//! tables, worked out from the difference of two sets of peers.
//!
//! Invariant: as long as each change was made, the tables are what `overlay::frame` says of the peers. Where two peers
//! claim the same address only the whole set tells who has it, so nothing is said of such a set.

use std::collections::BTreeMap;
use std::net::IpAddr;

use imbl::ordmap::DiffItem;

use crate::desired::{Overlay, Peer, PeerKey, Peers};
use crate::driver::overlay::{is_foreign, is_remote};
use crate::mac::Mac;
use crate::plan::LinkChange;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entries {
    local: IpAddr,
    peers: Peers,
    tunnels: BTreeMap<Mac, IpAddr>,
    neighbours: BTreeMap<IpAddr, Mac>,
    /// Peers that are left out, with their VTEPs.
    foreign: BTreeMap<PeerKey, IpAddr>,
}

/// What was touched, with what was there before.
#[derive(Default)]
struct Touched {
    tunnels: BTreeMap<Mac, Option<IpAddr>>,
    neighbours: BTreeMap<IpAddr, Option<Mac>>,
}

impl Entries {
    /// Tables that have all the overlay's peers.
    pub fn of(overlay: &Overlay) -> Option<Self> {
        let mut none = Self {
            local: overlay.local,
            peers: Peers::new(),
            tunnels: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            foreign: BTreeMap::new(),
        };
        none.follow(overlay)?;
        Some(none)
    }

    /// The changes that lead to the overlay's peers, in the order of `plan`. With `None` this is of no use any more.
    pub fn follow(&mut self, overlay: &Overlay) -> Option<Vec<LinkChange>> {
        if self.local != overlay.local {
            return None;
        }
        let before = std::mem::replace(&mut self.peers, overlay.peers.clone());
        let mut touched = Touched::default();
        let mut new = Vec::new();
        for difference in before.diff(&overlay.peers) {
            let (old, come) = match difference {
                DiffItem::Add(key, peer) => (None, Some((key, peer))),
                DiffItem::Remove(key, peer) => (Some((key, peer)), None),
                DiffItem::Update { old, new } => (Some(old), Some(new)),
            };
            if let Some((key, peer)) = old {
                self.foreign.remove(key);
                self.remove(overlay.local, peer, &mut touched);
            }
            new.extend(come);
        }
        for (key, peer) in new {
            if is_foreign(overlay.local, peer) {
                self.foreign.insert(key.clone(), peer.vtep);
            }
            self.add(overlay.local, peer, &mut touched)?;
        }
        Some(self.changes(&touched))
    }

    /// Peers whose VTEPs cannot be reached.
    pub fn left_out(&self) -> impl Iterator<Item = (&PeerKey, IpAddr)> {
        self.foreign.iter().map(|(key, vtep)| (key, *vtep))
    }

    fn remove(&mut self, local: IpAddr, peer: &Peer, touched: &mut Touched) {
        if !is_remote(local, peer) {
            return;
        }
        let before = self.tunnels.remove(&peer.mac);
        touched.tunnels.entry(peer.mac).or_insert(before);
        for address in &peer.addresses {
            let before = self.neighbours.remove(address);
            touched.neighbours.entry(*address).or_insert(before);
        }
    }

    /// `None` if another peer has the MAC or an address.
    fn add(&mut self, local: IpAddr, peer: &Peer, touched: &mut Touched) -> Option<()> {
        if !is_remote(local, peer) {
            return Some(());
        }
        touched.tunnels.entry(peer.mac).or_insert(None);
        let mut alone = self.tunnels.insert(peer.mac, peer.vtep).is_none();
        for address in &peer.addresses {
            touched.neighbours.entry(*address).or_insert(None);
            alone &= self.neighbours.insert(*address, peer.mac).is_none();
        }
        alone.then_some(())
    }

    fn changes(&self, touched: &Touched) -> Vec<LinkChange> {
        let mut changes = Vec::new();
        for (address, before) in &touched.neighbours {
            if before.is_some() && !self.neighbours.contains_key(address) {
                changes.push(LinkChange::RemoveNeighbour(*address));
            }
        }
        for (mac, before) in &touched.tunnels {
            if let (Some(vtep), false) = (before, self.tunnels.contains_key(mac)) {
                changes.push(LinkChange::RemoveTunnel(*mac, *vtep));
            }
        }
        for (mac, before) in &touched.tunnels {
            if let Some(vtep) = self.tunnels.get(mac).filter(|vtep| Some(**vtep) != *before) {
                changes.push(LinkChange::PutTunnel(*mac, *vtep));
            }
        }
        for (address, before) in &touched.neighbours {
            if let Some(mac) = self.neighbours.get(address).filter(|mac| Some(**mac) != *before) {
                changes.push(LinkChange::PutNeighbour(*address, *mac));
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::driver::overlay;
    use crate::mac::mac_for;
    use crate::model::{Link, Namespace, Place};
    use crate::name;
    use crate::plan::{Change, plan};

    fn overlay_of(peers: &BTreeMap<u8, (u8, u8, bool)>) -> Overlay {
        let peer = |(host, vtep, v6): &(u8, u8, bool)| {
            let v4 = IpAddr::from([10, 0, 9, *host]);
            let other = v6.then(|| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(*host)]));
            let vtep = match vtep {
                0 => IpAddr::from([0xfd77, 0, 0, 0, 0, 0, 0, 1]),
                host => [192, 0, 2, *host].into(),
            };
            Arc::new(Peer { mac: mac_for(v4), addresses: std::iter::once(v4).chain(other).collect(), vtep })
        };
        Overlay {
            vni: 9,
            port: 4789,
            local: [192, 0, 2, 1].into(),
            subnets: Vec::new(),
            mtu: None,
            internal: false,
            encryption: None,
            peers: peers.iter().map(|(key, of)| (PeerKey::new(format!("t{key}")), peer(of))).collect(),
            services: Default::default(),
        }
    }

    fn device(overlay: &Overlay) -> Link {
        overlay::frame(overlay, 1450, true).links.remove(name::VXLAN).unwrap()
    }

    /// What the full comparison says.
    fn planned(found: &Link, overlay: &Overlay) -> Vec<LinkChange> {
        let place = Place::Network("n".into());
        let one = |link: Link| {
            let links = [(name::VXLAN.to_owned(), link)].into();
            [(place.clone(), Namespace { links, ..Namespace::default() })].into()
        };
        let actions = plan(&one(device(overlay)), &one(found.clone()));
        let change = |action: crate::plan::Action| match action.change {
            Change::Link { change, .. } => change,
            other => panic!("{other:?}"),
        };
        actions.into_iter().map(change).collect()
    }

    fn peers() -> impl Strategy<Value = BTreeMap<u8, (u8, u8, bool)>> {
        prop::collection::btree_map(0..8u8, (2..12u8, 0..4u8, any::<bool>()), 0..8)
    }

    proptest! {
        /// The way by differences does what the way over the whole tables does, step for step.
        #[test]
        fn differences_are_what_the_whole_would_give(history in prop::collection::vec(peers(), 1..8)) {
            let mut known: Option<Entries> = None;
            let mut found = Link { ..device(&overlay_of(&BTreeMap::new())) };
            for peers in &history {
                let overlay = overlay_of(peers);
                if let Some(changes) = known.as_mut().and_then(|known| known.follow(&overlay)) {
                    prop_assert_eq!(changes, planned(&found, &overlay));
                    let foreign: Vec<_> = known.iter().flat_map(Entries::left_out).map(|(key, _)| key.clone()).collect();
                    let wanted: Vec<_> = overlay::left_out(&overlay).map(|(key, _)| key.clone()).collect();
                    prop_assert_eq!(foreign, wanted);
                } else {
                    known = Entries::of(&overlay);
                }
                found = device(&overlay);
            }
        }

        /// As long as nobody claims what another has, nothing else is ever needed.
        #[test]
        fn without_conflicts_differences_suffice(history in prop::collection::vec(peers(), 1..8)) {
            let alone = |peers: &BTreeMap<u8, (u8, u8, bool)>| {
                let numbered = peers.iter().map(|(key, (_, vtep, v6))| (*key, (key + 2, *vtep, *v6)));
                overlay_of(&numbered.collect())
            };
            let mut known = Entries::of(&alone(&history[0])).unwrap();
            for peers in &history {
                prop_assert!(known.follow(&alone(peers)).is_some());
                prop_assert_eq!(&known, &Entries::of(&alone(peers)).unwrap());
            }
        }
    }
}
