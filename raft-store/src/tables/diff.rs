//! What differs between two tables: how a watch hears of a snapshot that was installed.

use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use super::Tables;
use crate::{Change, Object};

impl Tables {
    /// The changes that make `self` the newer tables. Parts that both share are not looked at.
    pub(crate) fn diff(&self, newer: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        diff(&self.clusters, &newer.clusters, Object::Cluster, &mut changes);
        diff(&self.nodes, &newer.nodes, Object::Node, &mut changes);
        diff(&self.networks, &newer.networks, Object::Network, &mut changes);
        diff(&self.keyrings, &newer.keyrings, Object::Keyring, &mut changes);
        diff(&self.services, &newer.services, Object::Service, &mut changes);
        diff(&self.tasks, &newer.tasks, Object::Task, &mut changes);
        changes
    }
}

fn diff<K: Ord + Clone, V: PartialEq>(
    older: &OrdMap<K, Arc<V>>,
    newer: &OrdMap<K, Arc<V>>,
    object: fn(Arc<V>) -> Object,
    changes: &mut Vec<Change>,
) {
    changes.extend(older.diff(newer).map(|item| match item {
        DiffItem::Add(_, after) => Change { before: None, after: Some(object(after.clone())) },
        DiffItem::Update { old, new } => {
            Change { before: Some(object(old.1.clone())), after: Some(object(new.1.clone())) }
        }
        DiffItem::Remove(_, before) => Change { before: Some(object(before.clone())), after: None },
    }));
}
