//! Which networks a node needs.

use std::collections::BTreeSet;

use proto::model::{NetworkId, NodeId};
use raft_store::Tables;

use super::entry::is_placed;

pub fn networks(tables: &Tables, node: &NodeId) -> BTreeSet<NetworkId> {
    let tasks = tables.tasks_by_node(node).filter(|task| is_placed(task));
    tasks.flat_map(|task| &task.attachments).map(|attachment| attachment.network.clone()).collect()
}
