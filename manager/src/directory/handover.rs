//! Another incarnation of a node takes the place of an earlier one: who of each pair of nodes sends on which association.
//!
//! Pure: reports go into a keyring, and the state of each pair comes out. No clock: each step follows from what both nodes
//! have reported, so whoever hears late is waited for, and one that is down meanwhile goes on where it was.
//!
//! The `roster` of a keyring counts such changes. A pair has changed last at the later `since` of both. A node is sent to on
//! the new association once it `receives` up to there, and received from on the old one until it `sends` up to there.
//!
//! Invariant: whenever a node sends on an association, the other one's kernel has it, if it had the one before. A key that
//! was forgotten holds nothing up: what changed before counts as handed over.

use std::collections::BTreeSet;

use proto::model::{INCARNATION_BYTES, Keyring, KeyringMember, NodeId};
use proto::network::Handover;

/// What a node has brought about.
#[derive(Clone, Debug)]
pub struct Report {
    pub incarnation: [u8; INCARNATION_BYTES],
    /// The incarnation that this one follows, none if the node was no member; not known of every node.
    pub instead_of: Option<Option<[u8; INCARNATION_BYTES]>>,
    pub epoch: u64,
    pub receives: u64,
    pub sends: u64,
    /// Nodes for which `sends` does not hold, since they were down.
    pub passed_over: BTreeSet<NodeId>,
}

/// Takes a report over. One that came late, from before the present incarnation, counts for nothing.
pub fn enter(keyring: &mut Keyring, node: &NodeId, report: &Report) {
    // What is to come has not been brought about: such a number is of another history, as after a restore.
    let counted = |roster: u64| Some(roster).filter(|roster| *roster <= keyring.roster).unwrap_or_default();
    let (receives, sends) = (counted(report.receives), counted(report.sends));
    let confirmed = report.epoch.min(keyring.epoch);
    let mut back = Vec::new();
    let member = match keyring.members.get(node) {
        None => KeyringMember { confirmed, ..begun(keyring, report) },
        Some(known) if known.incarnation == report.incarnation => {
            let begins_anew = receives > known.receives && was_passed_over(keyring, node, known);
            if sends > known.sends {
                back = have_come_back(keyring, known, report, sends);
            }
            KeyringMember {
                confirmed: known.confirmed.max(confirmed),
                since: if begins_anew { keyring.roster + 1 } else { known.since },
                receives: known.receives.max(receives),
                sends: known.sends.max(sends),
                ..*known
            }
        }
        Some(known) if report.instead_of.is_some_and(|it| it != Some(known.incarnation)) => return,
        Some(known) => {
            let held = known.held.max(known.confirmed);
            let begun = begun(keyring, report);
            // Its kernel may hold a key that was forgotten: nothing is handed over from that.
            let is_handed_over = held >= keyring.forgotten_at();
            let since = if is_handed_over { keyring.roster + 1 } else { begun.since };
            KeyringMember {
                confirmed,
                held,
                since,
                receives: if is_handed_over { receives } else { begun.receives },
                ..begun
            }
        }
    };
    let next = keyring.roster + 1;
    for other in back {
        keyring.members.entry(other).and_modify(|other| other.since = next);
        keyring.roster = next;
    }
    keyring.roster = keyring.roster.max(member.since);
    keyring.members.insert(node.clone(), member);
}

/// A member without an earlier incarnation: up to now there is nothing to be handed over.
fn begun(keyring: &Keyring, report: &Report) -> KeyringMember {
    let (receives, sends) = (keyring.roster, keyring.roster);
    KeyringMember { incarnation: report.incarnation, receives, sends, ..KeyringMember::default() }
}

/// Whether another node has counted it as down and finished without it, though it may send to it on an old association
/// to this day. Then all pairs of this one begin anew, so that both wait for each other.
fn was_passed_over(keyring: &Keyring, node: &NodeId, member: &KeyringMember) -> bool {
    let mut others = keyring.members.iter().filter(|(other, _)| *other != node).map(|(_, other)| other);
    others.any(|other| {
        let changed = member.since.max(other.since);
        changed > keyring.settled && member.receives < changed && other.sends >= changed
    })
}

/// Nodes that the report passes over, and that have said meanwhile that they receive: as if they said so now.
fn have_come_back(keyring: &Keyring, member: &KeyringMember, report: &Report, sends: u64) -> Vec<NodeId> {
    let is_back = |other: &&NodeId| {
        keyring.members.get(*other).is_some_and(|other| {
            let changed = member.since.max(other.since);
            changed > keyring.settled && sends >= changed && other.receives >= changed
        })
    };
    report.passed_over.iter().filter(is_back).cloned().collect()
}

/// What `recipient` does about `peer`.
pub fn between(keyring: &Keyring, recipient: &NodeId, peer: &NodeId) -> Handover {
    let member = |node| keyring.members.get(node).copied().unwrap_or_default();
    let (own, other) = (member(recipient), member(peer));
    let changed = own.since.max(other.since);
    if changed <= keyring.settled {
        Handover::Done
    } else if other.receives < changed {
        Handover::Receive
    } else if other.sends < changed || own.receives < changed {
        Handover::Send
    } else {
        Handover::Done
    }
}

/// Whether these nodes have finished with each other.
pub fn is_over(keyring: &Keyring, nodes: &BTreeSet<&NodeId>) -> bool {
    let members = || nodes.iter().filter_map(|node| keyring.members.get(*node));
    let changed = members().map(|member| member.since).max().unwrap_or_default();
    changed <= keyring.settled
        || members().all(|member| member.receives >= changed && member.sends >= changed)
}

/// Who has to be told of a keyring that was another before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Concerned {
    #[default]
    Nobody,
    These(BTreeSet<NodeId>),
    All,
}

impl Concerned {
    /// A report of what was brought about concerns few: of a restart of one of n nodes all are told once, and then only
    /// that node and each of its peers, not each peer of each step of another.
    pub fn by(before: &Keyring, after: &Keyring) -> Self {
        let who = |keyring: &Keyring| {
            let members = keyring.members.iter();
            members.map(|(node, member)| (node.clone(), member.incarnation)).collect::<Vec<_>>()
        };
        let shared = |keyring: &Keyring| (keyring.epoch, keyring.roster, keyring.settled, who(keyring));
        if shared(before) != shared(after) {
            return Self::All;
        }
        let differs = |recipient, peer| between(before, recipient, peer) != between(after, recipient, peer);
        let mut these = BTreeSet::new();
        for (node, member) in &after.members {
            if before.members.get(node) == Some(member) {
                continue;
            }
            for other in after.members.keys().filter(|other| *other != node) {
                these.extend(differs(other, node).then(|| other.clone()));
                these.extend(differs(node, other).then(|| node.clone()));
            }
        }
        if these.is_empty() { Self::Nobody } else { Self::These(these) }
    }

    pub fn merge(&mut self, other: &Self) {
        match (&mut *self, other) {
            (_, Self::Nobody) | (Self::All, _) => {}
            (Self::These(these), Self::These(more)) => these.extend(more.iter().cloned()),
            _ => *self = other.clone(),
        }
    }

    pub fn has(&self, node: &NodeId) -> bool {
        match self {
            Self::Nobody => false,
            Self::These(these) => these.contains(node),
            Self::All => true,
        }
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
