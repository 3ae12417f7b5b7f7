//! Who the managers are, and what is known of them at this moment.
//!
//! The list is the one in the store: a node with a `manager` status is a member of the Raft group. Who leads and who
//! is reached is known to Raft alone and kept nowhere.

use proto::model::{ManagerStatus, Node, NodeId};
use proto::wire::{Peer, WeightedPeer};
use raft_store::{Member, Store, Tables};

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
        let view = self.store.view();
        members(&view).find(|(_, manager)| manager.raft_id == leader).map(|(_, manager)| manager.addr.clone())
    }

    /// Where the managers but `own` are reached.
    pub fn other_addrs(&self, own: &NodeId) -> Vec<String> {
        let view = self.store.view();
        members(&view).filter(|(node, _)| node.id != *own).map(|(_, manager)| manager.addr.clone()).collect()
    }

    /// The members as the leader sees them, or, where it cannot be asked, as this manager does.
    pub async fn status(&self) -> Vec<Member> {
        self.store.membership().status().await
    }
}

/// As nodes are told of them.
pub fn weighted_peers(tables: &Tables) -> Vec<WeightedPeer> {
    let peer = |(node, manager): (&Node, &ManagerStatus)| WeightedPeer {
        peer: Some(Peer { node_id: node.id.to_string(), addr: manager.addr.clone() }),
        weight: WEIGHT,
    };
    members(tables).map(peer).collect()
}

fn members(tables: &Tables) -> impl Iterator<Item = (&Node, &ManagerStatus)> {
    tables.nodes().filter_map(|node| Some((&**node, node.manager.as_ref()?)))
}
