//! Which networks a node needs, and which nodes need a network.

use std::collections::BTreeSet;

use proto::model::{NetworkId, NodeId};
use raft_store::Tables;

use super::entry::is_placed;

pub fn networks(tables: &Tables, node: &NodeId) -> BTreeSet<NetworkId> {
    let tasks = tables.tasks_by_node(node).filter(|task| is_placed(task));
    tasks.flat_map(|task| &task.attachments).map(|attachment| attachment.network.clone()).collect()
}

pub fn members(tables: &Tables, network: &NetworkId) -> BTreeSet<NodeId> {
    let tasks = tables.tasks_by_network(network).filter(|task| is_placed(task));
    let attached = tasks.filter(|task| task.attachments.iter().any(|a| a.network == *network));
    attached.filter_map(|task| task.node.clone()).collect()
}
