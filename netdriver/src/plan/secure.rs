//! Decides what to change so that one network's associations and policies become what is wanted.
//!
//! Pure. Additions come before policies and policies before removals, so that at each step what is sent can be received
//! and what is sent with exists. What a peer that left had is removed at once, whatever handover is under way.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::action::Change;
use crate::esp::{Counterpart, Handover};
use crate::xfrm::{Association, AssociationId, Policy};

/// The associations and policies of one network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Security {
    pub associations: BTreeMap<AssociationId, Association>,
    /// By the peer's VTEP.
    pub policies: BTreeMap<IpAddr, Policy>,
}

/// How far each peer is, by its VTEP.
type Peers = BTreeMap<IpAddr, Counterpart>;

/// Invariant: once the changes are made, planning again with the same peers returns none.
pub fn secure(wanted: &Security, found: &Security, peers: &Peers) -> Vec<Change> {
    let mut changes = Vec::new();
    for (id, association) in &wanted.associations {
        match found.associations.get(id) {
            Some(found) if found == association => {}
            Some(_) => {
                changes.push(Change::RemoveAssociation(*id));
                changes.push(Change::AddAssociation(association.clone()));
            }
            None => changes.push(Change::AddAssociation(association.clone())),
        }
    }
    for (peer, policy) in &wanted.policies {
        let found_policy = found.policies.get(peer);
        let stays = found_policy.is_some_and(|found_policy| {
            found_policy == policy || keeps(wanted, found, found_policy, policy, peers)
        });
        if !stays {
            changes.push(Change::PutPolicy(policy.clone()));
        }
    }
    let unwanted = found.policies.iter().filter(|(peer, _)| !wanted.policies.contains_key(peer));
    changes.extend(unwanted.map(|(_, policy)| Change::RemovePolicy(policy.clone())));
    let unwanted = found.associations.values().filter(|found| !wanted.associations.contains_key(&found.id));
    let unwanted = unwanted.filter(|found| goes(wanted, found, peers));
    changes.extend(unwanted.map(|found| Change::RemoveAssociation(found.id)));
    changes
}

/// Whether a policy stays that leads to an association of an earlier incarnation. One that leads to another generation
/// of the same incarnations does not: the managers have said that it may be sent with.
fn keeps(wanted: &Security, found: &Security, found_policy: &Policy, policy: &Policy, peers: &Peers) -> bool {
    let id = AssociationId { destination: found_policy.destination, spi: found_policy.spi };
    let as_wanted = Policy { spi: found_policy.spi, ..policy.clone() };
    peers.get(&policy.destination).is_some_and(|peer| peer.handover == Handover::Receive)
        && *found_policy == as_wanted
        && !wanted.associations.contains_key(&id)
        && found.associations.get(&id).is_some_and(|association| association.material.is_some())
}

/// Whether an association that is not wanted goes now.
fn goes(wanted: &Security, association: &Association, peers: &Peers) -> bool {
    let ends = [association.source, association.id.destination];
    let peer = ends.iter().filter(|end| wanted.policies.contains_key(*end)).find_map(|end| peers.get(end));
    peer.is_none_or(|peer| peer.handover == Handover::Done)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::driver::encryption::wanted;
    use crate::esp::{Encryption, Incarnation, Secret};

    const LOCAL: &str = "192.0.2.1";

    fn encryption(keys: &[u8], sending: u8, own: u8, peers: &[(u8, u8)]) -> Encryption {
        let peers = peers.iter().map(|(host, incarnation)| {
            let incarnation = Incarnation([*incarnation; 16]);
            (vtep(*host), Counterpart { incarnation, handover: Handover::Done })
        });
        Encryption {
            keys: keys.iter().map(|n| (u64::from(*n), Secret::new([*n; 32]))).collect(),
            sending: sending.into(),
            incarnation: Incarnation([own; 16]),
            peers: peers.collect(),
        }
    }

    fn vtep(host: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, host])
    }

    fn security(encryption: &Encryption) -> Security {
        wanted(7, 4789, LOCAL.parse().unwrap(), encryption)
    }

    fn apply(state: &mut Security, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::AddAssociation(association) => {
                    let earlier = state.associations.insert(association.id, association);
                    assert_eq!(earlier, None, "added twice");
                }
                Change::RemoveAssociation(id) => {
                    state.associations.remove(&id).expect("only what exists is removed");
                    let sent = state.policies.values().any(|policy| {
                        id == AssociationId { destination: policy.destination, spi: policy.spi }
                    });
                    assert!(!sent, "what is sent with is not removed");
                }
                Change::PutPolicy(policy) => {
                    let id = AssociationId { destination: policy.destination, spi: policy.spi };
                    assert!(state.associations.contains_key(&id), "sent with before it exists");
                    state.policies.insert(policy.destination, policy);
                }
                Change::RemovePolicy(policy) => {
                    state.policies.remove(&policy.destination).expect("only what exists is removed");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn bring(state: &mut Security, encryption: &Encryption) {
        let wanted = security(encryption);
        apply(state, secure(&wanted, state, &encryption.peers));
        assert_eq!(secure(&wanted, state, &encryption.peers), vec![], "not settled");
    }

    fn in_phase(mut encryption: Encryption, host: u8, handover: Handover) -> Encryption {
        encryption.peers.get_mut(&vtep(host)).unwrap().handover = handover;
        encryption
    }

    #[test]
    fn three_phases_of_a_rotation() {
        let mut state = Security::default();
        bring(&mut state, &encryption(&[1], 1, 1, &[(2, 2)]));
        let old = state.policies.clone();
        bring(&mut state, &encryption(&[1, 2], 1, 1, &[(2, 2)]));
        assert_eq!(
            (state.associations.len(), &state.policies),
            (4, &old),
            "receives on both, sends on the old"
        );
        bring(&mut state, &encryption(&[1, 2], 2, 1, &[(2, 2)]));
        assert_ne!(state.policies, old);
        bring(&mut state, &encryption(&[2], 2, 1, &[(2, 2)]));
        assert_eq!(state.associations.len(), 2);
    }

    #[test]
    fn another_incarnation_is_received_first_then_sent_to_then_the_old_one_goes() {
        let mut state = Security::default();
        bring(&mut state, &encryption(&[1], 1, 1, &[(2, 2), (3, 3)]));
        let old = state.clone();
        let new = encryption(&[1], 1, 1, &[(2, 9), (3, 3)]);
        bring(&mut state, &in_phase(new.clone(), 2, Handover::Receive));
        assert_eq!((state.associations.len(), &state.policies), (6, &old.policies));
        bring(&mut state, &in_phase(new.clone(), 2, Handover::Send));
        assert_eq!((state.associations.len(), &state.policies), (6, &security(&new).policies));
        bring(&mut state, &new);
        assert_eq!(state, security(&new));
    }

    #[test]
    fn each_peer_is_handed_over_to_for_itself() {
        let mut state = Security::default();
        bring(&mut state, &encryption(&[1], 1, 1, &[(2, 2), (3, 3)]));
        let old = state.clone();
        // This node itself is another one, and only one of its peers is ready.
        let new = encryption(&[1], 1, 9, &[(2, 2), (3, 3)]);
        bring(&mut state, &in_phase(new.clone(), 2, Handover::Receive));
        assert_eq!(state.policies[&vtep(2)], old.policies[&vtep(2)]);
        assert_eq!(state.policies[&vtep(3)], security(&new).policies[&vtep(3)]);
        assert_eq!(state.associations.len(), 6, "the old ones with one peer are kept");
        // Where there is no earlier one, nothing is waited for.
        let more = encryption(&[1], 1, 9, &[(2, 2), (3, 3), (4, 4)]);
        bring(&mut state, &in_phase(more.clone(), 4, Handover::Receive));
        assert_eq!(state, security(&more));
    }

    #[test]
    fn what_a_peer_had_that_left_goes_at_once() {
        let mut state = Security::default();
        bring(&mut state, &encryption(&[1], 1, 1, &[(2, 2), (3, 3)]));
        let rest = encryption(&[1], 1, 1, &[(3, 3)]);
        bring(&mut state, &in_phase(rest.clone(), 3, Handover::Receive));
        assert_eq!(state, security(&rest));
    }

    proptest! {
        /// From whatever was wanted before, in whatever order.
        #[test]
        fn every_handover_ends_with_what_is_wanted(steps in prop::collection::vec(
            (1u8..4, 0u8..2, 1u8..3, prop::collection::btree_map(2u8..5, (1u8..4, 0u8..3), 0..3)), 1..12,
        )) {
            let mut state = Security::default();
            for (sending, older, own, peers) in steps {
                let members: Vec<_> = peers.iter().map(|(host, (incarnation, _))| (*host, *incarnation)).collect();
                let all = encryption(&[sending - older.min(sending - 1), sending], sending, own, &members);
                let phase = |n: u8| [Handover::Receive, Handover::Send, Handover::Done][usize::from(n)];
                let now = peers.iter().fold(all.clone(), |all, (host, (_, n))| in_phase(all, *host, phase(*n)));
                bring(&mut state, &now);
                let mut ended = state.clone();
                bring(&mut ended, &all);
                prop_assert_eq!(ended, security(&all));
            }
        }
    }
}
