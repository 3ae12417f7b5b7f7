//! When each node was heard last. Pure: the time is passed in.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use proto::model::NodeId;
use tokio::time::Instant;

#[derive(Debug, Default)]
pub struct Table {
    heard: HashMap<NodeId, Instant>,
}

impl Table {
    pub fn heard(&mut self, node: NodeId, now: Instant) {
        self.heard.insert(node, now);
    }

    pub fn forget(&mut self, nodes: &[NodeId]) {
        for node in nodes {
            self.heard.remove(node);
        }
    }

    /// Those of the nodes that were not heard for longer than `patience`. One that was never heard counts from the
    /// moment it is first asked for here.
    ///
    /// Nodes that are not asked for are forgotten: one that comes back has the whole time again.
    pub fn silent<'a>(
        &mut self,
        up: impl Iterator<Item = &'a NodeId>,
        now: Instant,
        patience: Duration,
    ) -> Vec<NodeId> {
        let up: HashSet<_> = up.collect();
        self.heard.retain(|node, _| up.contains(node));
        let mut silent: Vec<_> = up
            .into_iter()
            .filter(|node| {
                let last = *self.heard.entry((*node).clone()).or_insert(now);
                now.duration_since(last) > patience
            })
            .cloned()
            .collect();
        silent.sort();
        silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(15);

    fn silent(table: &mut Table, up: &[NodeId], now: Instant) -> Vec<NodeId> {
        table.silent(up.iter(), now, PATIENCE)
    }

    #[test]
    fn a_new_leader_gives_every_node_the_whole_time() {
        let (mut table, start) = (Table::default(), Instant::now());
        let up = [NodeId::from("n1"), NodeId::from("n2")];
        assert!(silent(&mut table, &up, start).is_empty());
        assert!(silent(&mut table, &up, start + PATIENCE).is_empty());
        table.heard("n2".into(), start + PATIENCE);
        let late = start + PATIENCE + Duration::from_millis(1);
        assert_eq!(silent(&mut table, &up, late), [NodeId::from("n1")]);
    }

    #[test]
    fn a_node_that_comes_back_has_the_whole_time_again() {
        let (mut table, start) = (Table::default(), Instant::now());
        let up = [NodeId::from("n1")];
        silent(&mut table, &up, start);
        // Down meanwhile.
        silent(&mut table, &[], start + PATIENCE * 2);
        assert!(silent(&mut table, &up, start + PATIENCE * 3).is_empty());
    }
}
