//! Who the managers are: the members of the Raft group, as this one knows them.
//!
//! A node's `manager` status is for people to read; where requests go is decided by the group itself. Only members
//! with a vote count: a learner's replica may still be empty.

use proto::model::NodeId;
use proto::wire::{Peer, WeightedPeer};
use raft_store::{Member, Store};
use tokio::sync::watch;

/// Docker's: every manager serves nodes alike.
const WEIGHT: i64 = 8;

#[derive(Clone)]
pub struct Managers {
    store: Store,
}

impl Managers {
    pub fn of(store: &Store) -> Self {
        Self { store: store.clone() }
    }

    /// Where the leader is reached; none if there is none or nobody knows.
    pub fn leader_addr(&self) -> Option<String> {
        let leader = self.store.leadership().borrow().leader?;
        let members = self.store.membership().members();
        members.into_iter().find(|member| member.raft_id == leader).map(|member| member.addr)
    }

    /// Where the managers but `own` are reached.
    pub fn other_addrs(&self, own: &NodeId) -> Vec<String> {
        let others = self.voters().filter(|member| member.node_id != *own);
        others.map(|member| member.addr).collect()
    }

    /// As nodes are told of them.
    pub fn weighted_peers(&self) -> Vec<WeightedPeer> {
        let peer = |member: Member| WeightedPeer {
            peer: Some(Peer { node_id: member.node_id.to_string(), addr: member.addr }),
            weight: WEIGHT,
        };
        self.voters().map(peer).collect()
    }

    /// The members as the leader sees them, or, where it cannot be asked, as this manager does.
    pub async fn status(&self) -> Vec<Member> {
        self.store.membership().status().await
    }

    pub fn watch(&self) -> watch::Receiver<Vec<Member>> {
        self.store.membership().watch()
    }

    fn voters(&self) -> impl Iterator<Item = Member> + use<> {
        self.store.membership().members().into_iter().filter(|member| member.voter)
    }
}
