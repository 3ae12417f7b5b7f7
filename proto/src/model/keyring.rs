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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyringMember {
    /// Drawn by the node each time that it begins to take part. Not secret.
    pub incarnation: [u8; INCARNATION_BYTES],
    /// The last epoch that it has brought about.
    pub confirmed: u64,
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
}
