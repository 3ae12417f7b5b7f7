//! Which networks a node needs, and which nodes need a network.

use std::collections::BTreeSet;

use proto::model::{NetworkId, NodeId};
use raft_store::Tables;

pub fn networks(tables: &Tables, node: &NodeId) -> BTreeSet<NetworkId> {
    let tasks = tables.tasks_by_node(node).filter(|task| task.is_placed());
    tasks.flat_map(|task| &task.attachments).map(|attachment| attachment.network.clone()).collect()
}

pub fn members(tables: &Tables, network: &NetworkId) -> BTreeSet<NodeId> {
    tables.nodes_by_network(network).cloned().collect()
}
