//! What each node has confirmed to work by, and which tasks may therefore stop.
//!
//! Kept in memory, by every manager: nodes confirm to theirs, which tells the others (`tell`). Nothing is written to
//! the log, since an answer that is lost costs a stopping task some seconds and nothing else.
//!
//! Invariant: a task whose manager is asked waits at most [`PATIENCE`], whoever does not answer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::model::{NetworkId, NodeId, NodeState, TaskId};
use raft_store::{Store, Tables};
use tokio::sync::watch;

use super::entry::is_ending;

/// How long a task waits for nodes that do not confirm. Ordinarily all do within some tens of milliseconds; one that is
/// cut off is down only after three heartbeats.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked whether a node that has not confirmed still counts.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Nodes remembered beyond those that there are, before those are dropped.
const STRANGERS: usize = 64;

/// By node and network, the index of the last update that the node works by.
pub type Confirmed = BTreeMap<(NodeId, NetworkId), u64>;

pub struct Confirmations {
    confirmed: Mutex<HashMap<NodeId, BTreeMap<NetworkId, u64>>>,
    news: watch::Sender<()>,
}

impl Default for Confirmations {
    fn default() -> Self {
        Self { confirmed: Mutex::default(), news: watch::Sender::new(()) }
    }
}

impl Confirmations {
    pub fn add(&self, tables: &Tables, news: &Confirmed) {
        let mut confirmed = self.lock();
        for ((node, network), index) in news {
            let known = confirmed.entry(node.clone()).or_default();
            let known = known.entry(network.clone()).or_default();
            *known = (*known).max(*index);
        }
        if confirmed.len() > tables.nodes().count() + STRANGERS {
            confirmed.retain(|node, _| tables.node(node).is_some());
        }
        for node in news.keys().map(|(node, _)| node).collect::<BTreeSet<_>>() {
            let Some(networks) = confirmed.get_mut(node) else { continue };
            networks.retain(|network, _| tables.network(network).is_some());
        }
        drop(confirmed);
        self.news.send_replace(());
    }

    /// Returns once no node can send the task new connections, as far as nodes that are up are asked.
    pub async fn drained(&self, store: &Store, task: &TaskId) {
        let mut news = self.news.subscribe();
        let Some((index, mut outstanding)) = concerned(&store.view(), task) else { return };
        loop {
            news.borrow_and_update();
            self.strike_out(index, &mut outstanding);
            if outstanding.is_empty() {
                return;
            }
            let looking_again = tokio::time::timeout(LOOK_AGAIN, news.changed());
            if looking_again.await.is_err() {
                match concerned(&store.view(), task) {
                    Some((_, still)) => outstanding.retain(|pair| still.contains(pair)),
                    None => return,
                }
            }
        }
    }

    fn strike_out(&self, index: u64, outstanding: &mut BTreeSet<(NodeId, NetworkId)>) {
        let confirmed = self.lock();
        let by = |node: &NodeId, network: &NetworkId| confirmed.get(node)?.get(network).copied();
        outstanding.retain(|(node, network)| by(node, network).is_none_or(|known| known < index));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, BTreeMap<NetworkId, u64>>> {
        // Nothing that runs under the lock leaves the table half changed.
        self.confirmed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The nodes that may send the task connections, on which networks, and the index from which on they know better. None
/// if nobody has to be asked: the task is to go on, or its service is no more.
fn concerned(tables: &Tables, task: &TaskId) -> Option<(u64, BTreeSet<(NodeId, NetworkId)>)> {
    let task = tables.task(task).filter(|task| is_ending(task) && task.is_placed())?;
    tables.service(&task.service)?;
    let mut concerned = BTreeSet::new();
    for attachment in &task.attachments {
        let is_up =
            |node: &&NodeId| tables.node(node).is_some_and(|node| node.status.state != NodeState::Down);
        let up = tables.nodes_by_network(&attachment.network).filter(is_up);
        concerned.extend(up.map(|node| (node.clone(), attachment.network.clone())));
    }
    Some((task.meta.version, concerned))
}

#[cfg(test)]
mod tests {
    use proto::model::TaskState;

    use super::*;
    use crate::fixtures::{
        in_state, network, network_id, node, node_id, put, remove, service, store, task, task_id,
    };

    /// Task 1 on node 1 and task 2 on node 2, both of a service on network 1; task 1 is to stop.
    async fn stopping() -> Store {
        let store = store().await;
        put(&store, [node(1), node(2), node(3)]).await;
        put(&store, [network(1)]).await;
        let web = service(1, &[1]);
        put(&store, [web.clone()]).await;
        let running = |number, node| in_state(task(number, &web, node, &[1]), TaskState::Running);
        let mut first = running(1, 1);
        first.desired = TaskState::Shutdown;
        put(&store, [running(2, 2), first]).await;
        store
    }

    fn confirmed(node: u8, index: u64) -> Confirmed {
        [((node_id(node), network_id(1)), index)].into()
    }

    async fn waits(confirmations: &Confirmations, store: &Store) -> bool {
        tokio::time::timeout(Duration::from_secs(3), confirmations.drained(store, &task_id(1))).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_waits_for_every_node_of_its_networks_and_no_other() {
        let (store, confirmations) = (stopping().await, Confirmations::default());
        let version = store.view().task(&task_id(1)).unwrap().meta.version;
        assert!(waits(&confirmations, &store).await);
        confirmations.add(&store.view(), &confirmed(1, version));
        confirmations.add(&store.view(), &confirmed(2, version - 1));
        assert!(waits(&confirmations, &store).await, "node 2 has confirmed what was before");
        let (later, _) = tokio::join!(waits(&confirmations, &store), async {
            confirmations.add(&store.view(), &confirmed(2, version + 1));
        });
        assert!(!later);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_node_that_is_down_or_for_a_service_that_is_no_more() {
        let (store, confirmations) = (stopping().await, Confirmations::default());
        confirmations.add(&store.view(), &confirmed(1, u64::MAX));
        let mut down = node(2);
        down.status.state = NodeState::Down;
        let ((), waited) = tokio::join!(put(&store, [down]), waits(&confirmations, &store));
        assert!(!waited);

        let (store, confirmations) = (stopping().await, Confirmations::default());
        remove(&store, crate::fixtures::service_id(1)).await;
        assert!(!waits(&confirmations, &store).await);
    }

    #[tokio::test]
    async fn what_is_remembered_is_bounded_by_what_there_is() {
        let (store, confirmations) = (stopping().await, Confirmations::default());
        for number in 0..200 {
            let entry = ((NodeId::from(format!("gone{number}").as_str()), NetworkId::from("gone")), 1);
            confirmations.add(&store.view(), &[entry].into());
        }
        assert!(confirmations.lock().len() <= 3 + STRANGERS);
        assert!(confirmations.lock().values().all(BTreeMap::is_empty));
    }
}
