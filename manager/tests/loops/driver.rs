//! The driver, with a loop of its own: it pauses the nodes that carry a label.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use manager::reconcile::{self, Lead, Plan, Planned, Scope};
use proto::model::*;
use raft_store::{Change, Object, Store, Tables, Term, Transaction};
use tokio_util::sync::CancellationToken;

use crate::support::*;

#[derive(Default)]
struct Pauser {
    full_passes: Arc<AtomicUsize>,
}

impl Plan for Pauser {
    const NAME: &'static str = "pauser";
    type Key = NodeId;
    type Action = NodeId;

    fn keys(&self, change: &Change, _: &Tables) -> Vec<NodeId> {
        change.object().as_node().map(|node| node.id.clone()).into_iter().collect()
    }

    fn plan(&self, view: &Tables, scope: &Scope<NodeId>, _: SystemTime) -> Planned<NodeId, NodeId> {
        let nodes: Vec<NodeId> = match scope {
            Scope::All => {
                self.full_passes.fetch_add(1, Ordering::SeqCst);
                view.nodes().map(|node| node.id.clone()).collect()
            }
            Scope::Keys(keys) => keys.iter().cloned().collect(),
        };
        let due = |id: &NodeId| view.node(id).is_some_and(|node| is_due(node));
        Planned { actions: nodes.into_iter().filter(due).collect(), wakes: Vec::new() }
    }

    fn commit(&self, id: &NodeId, _: SystemTime, tx: &mut Transaction) {
        let Some(mut node) = tx.node(id).map(|node| Node::clone(node)) else { return };
        if node.spec.annotations.labels.contains_key("bad") {
            // The store refuses a second network of the name.
            tx.create(network("taken", &[]));
        }
        node.spec.availability = Availability::Pause;
        tx.update(node);
    }
}

fn is_due(node: &Node) -> bool {
    node.spec.annotations.labels.contains_key("pause") && node.spec.availability == Availability::Active
}

fn labelled(id: &str, labels: &[&str]) -> Node {
    let mut node = node(id);
    node.spec.annotations.labels = labels.iter().map(|label| ((*label).into(), String::new())).collect();
    node
}

fn lead(store: &Store, over: &CancellationToken) -> Lead {
    Lead { store: store.clone(), term: Term(1), clock: Arc::new(SystemTime::now), over: over.clone() }
}

fn due(store: &Store) -> Vec<String> {
    store.view().nodes().filter(|node| is_due(node)).map(|node| node.id.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_refused_action_holds_up_nothing_else() {
    let world = World::new();
    let mut taken = network("taken", &[]);
    taken.id = "other".into();
    world.put(taken).await;
    for n in 0..50 {
        world.put(labelled(&format!("n{n}"), &["pause"])).await;
    }
    world.put(labelled("n17-bad", &["pause", "bad"])).await;
    let over = CancellationToken::new();
    let story = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(due(&world.store), ["n17-bad"]);
        // The bad one is tried again and again by now, at growing intervals.
        tokio::time::sleep(Duration::from_secs(60)).await;
        for n in 50..60 {
            world.put(labelled(&format!("n{n}"), &["pause"])).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert_eq!(due(&world.store), ["n17-bad"]);
        }
        world.write(|tx| tx.remove(NetworkId::from("other"))).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(due(&world.store).is_empty());
        over.cancel();
    };
    tokio::join!(reconcile::run(lead(&world.store, &over), Pauser::default()), story);
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_falls_behind_looks_at_everything() {
    let world = World::new();
    let (over, pauser) = (CancellationToken::new(), Pauser::default());
    let full_passes = Arc::clone(&pauser.full_passes);
    let story = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(full_passes.load(Ordering::SeqCst), 1);
        world.put(labelled("n0", &["pause"])).await;
        // Nothing else runs meanwhile.
        tokio::task::unconstrained(async {
            for n in 0..5000 {
                world.write(|tx| tx.create(Object::from(node(&format!("m{n}"))))).await;
            }
        })
        .await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(full_passes.load(Ordering::SeqCst), 2);
        assert!(due(&world.store).is_empty());
        over.cancel();
    };
    tokio::join!(reconcile::run(lead(&world.store, &over), pauser), story);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_for_a_term_that_is_over() {
    let world = World::new();
    world.store.set_leadership(raft_store::Leadership { leading: Some(Term(2)), leader: Some(1) });
    world.put(labelled("n0", &["pause"])).await;
    // The loop was started for term 1 and ends by itself.
    let over = CancellationToken::new();
    reconcile::run(lead(&world.store, &over), Pauser::default()).await;
    assert_eq!(due(&world.store), ["n0"]);
}
