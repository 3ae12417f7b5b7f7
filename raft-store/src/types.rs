//! What Raft is told of our types.

use std::fmt;

use prost::bytes::Bytes;

use crate::state_machine::Outcome;
use crate::{RaftId, Term};

openraft::declare_raft_types!(
    /// The group of managers. At most one of them leads in a term.
    pub(crate) Group:
        D = Command,
        R = Outcome,
        NodeId = RaftId,
        Node = Address,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, RaftId>,
        AsyncRuntime = crate::host::Runtime
);

pub(crate) type Raft = openraft::Raft<Group, crate::replica::Replica>;
pub(crate) type LeaderId = openraft::type_config::alias::CommittedLeaderIdOf<Group>;
pub(crate) type LogId = openraft::type_config::alias::LogIdOf<Group>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<Group>;
pub(crate) type Entry = openraft::type_config::alias::EntryOf<Group>;
pub(crate) type Payload = openraft::EntryPayload<Command, RaftId, Address>;
pub(crate) type Members = openraft::Membership<RaftId, Address>;
pub(crate) type StoredMembers = openraft::type_config::alias::StoredMembershipOf<Group>;
pub(crate) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<Group>;
pub(crate) type Metrics = openraft::RaftMetrics<Group>;
/// The part of them that an entry does not change.
pub(crate) type Standing = openraft::metrics::RaftServerMetrics<Group>;

pub(crate) fn log_id(term: Term, index: u64) -> LogId {
    LogId::new(term.0.into(), index)
}

pub(crate) fn term(log_id: &LogId) -> Term {
    Term(log_id.committed_leader_id().term)
}

/// Which node a member is and where it listens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Address {
    pub node_id: String,
    /// host:port
    pub addr: String,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.node_id, self.addr)
    }
}

/// An encoded proposal. The same bytes are stored, replicated and applied.
#[derive(Clone, PartialEq, Eq)]
pub struct Command(pub(crate) Bytes);

// What is in it may be secret.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
