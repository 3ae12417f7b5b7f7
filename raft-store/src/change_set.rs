//! What an update wants to change: one entry of the log.

use std::time::SystemTime;

use crate::{Object, ObjectId, Term};

/// Tells a proposal from every other one, so that it is applied at most once however often it is sent.
pub(crate) type ProposalId = u128;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Proposal {
    pub(crate) id: ProposalId,
    /// Index of the view from which the change set was made: the proposal cannot have been applied before.
    pub(crate) base: u64,
    /// The proposer's clock. All replicas stamp objects with it.
    pub(crate) at: SystemTime,
    /// Apply only as an entry of this term.
    pub(crate) term: Option<Term>,
    /// Each of another object.
    pub(crate) writes: Vec<Write>,
    /// Objects that were read and must not have changed, with their versions.
    pub(crate) expected: Vec<(ObjectId, u64)>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Write {
    Create(Object),
    /// The object's `meta.version` is the one that was read.
    Update(Object),
    Remove {
        id: ObjectId,
        version: u64,
    },
}

impl Write {
    pub(crate) fn id(&self) -> ObjectId {
        match self {
            Self::Create(object) | Self::Update(object) => object.id(),
            Self::Remove { id, .. } => id.clone(),
        }
    }
}
