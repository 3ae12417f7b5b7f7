//! The keys of encrypted networks.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::{KeyringId, Meta, NodeId, Sensitive};

pub const SECRET_BYTES: usize = 32;
pub const INCARNATION_BYTES: usize = 16;

/// The keys of one network. An object of its own, so that what is told of a network never holds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyring {
    pub id: KeyringId,
    pub meta: Meta,
    /// Oldest first. Nodes receive packets under each of them; there are two while the key is rotated, else one.
    pub keys: Vec<NetworkKey>,
    /// Generation of the key that nodes send with.
    pub sending: u64,
    /// Grows with each change of `keys` or `sending`.
    pub epoch: u64,
    /// When the epoch began.
    pub since: SystemTime,
    /// The generation that was asked for, if any was.
    pub wanted: u64,
    /// Nodes with a task on the network, as they have reported themselves.
    pub members: BTreeMap<NodeId, KeyringMember>,
    /// Grows by one whenever a member comes with another incarnation.
    pub roster: u64,
    /// The roster with which a key was forgotten last: whatever changed up to it counts as handed over.
    pub settled: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyringMember {
    /// Drawn by the node each time that it begins to take part. Not secret.
    pub incarnation: [u8; INCARNATION_BYTES],
    /// The last epoch that it has brought about.
    pub confirmed: u64,
    /// The roster at which the incarnation was recorded; 0: there was no earlier one to be handed over from.
    pub since: u64,
    /// Up to which roster it receives from all members.
    pub receives: u64,
    /// Up to which roster it sends to no earlier incarnation, except to nodes that were down.
    pub sends: u64,
    /// The last epoch that an earlier incarnation had brought about.
    pub held: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkKey {
    /// The first is 1.
    pub generation: u64,
    pub secret: Sensitive<Vec<u8>>,
}

impl Keyring {
    /// Generation of the newest key.
    pub fn newest(&self) -> u64 {
        self.keys.last().map_or(0, |key| key.generation)
    }

    pub fn is_rotating(&self) -> bool {
        self.keys.len() > 1
    }

    /// The epoch with which a key was forgotten last; 0: none was.
    pub fn forgotten_at(&self) -> u64 {
        let since = match self.is_rotating() {
            false => 0,
            true if self.sending != self.newest() => 1,
            true => 2,
        };
        // The first one began with the network.
        Some(self.epoch.saturating_sub(since)).filter(|epoch| *epoch > 1).unwrap_or_default()
    }
}
