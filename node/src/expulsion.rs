//! Closes the connections of nodes that were removed from the swarm.
//!
//! Each call is judged when it begins (`manager::access`); this ends what has begun.

use std::collections::BTreeSet;

use identity::listener::Open;
use proto::model::NodeId;
use raft_store::{Change, Object, Store};
use tokio_util::sync::CancellationToken;

/// Runs until `stop`.
pub async fn run(store: Store, open: Open, stop: CancellationToken) {
    let following = async {
        loop {
            let mut watch = store.watch();
            // What was missed is found so. Who is new to this replica only has to connect again.
            let view = watch.view.clone();
            open.close(|node| view.node(node).is_some());
            while let Ok(commit) = watch.next().await {
                let removed: BTreeSet<&NodeId> = commit.changes.iter().filter_map(removed).collect();
                if !removed.is_empty() {
                    open.close(|node| !removed.contains(node));
                }
            }
        }
    };
    let _ = stop.run_until_cancelled(following).await;
}

fn removed(change: &Change) -> Option<&NodeId> {
    match (&change.before, &change.after) {
        (Some(Object::Node(node)), None) => Some(&node.id),
        _ => None,
    }
}
