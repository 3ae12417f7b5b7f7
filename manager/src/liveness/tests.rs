//! Silence is judged by the leader alone, by tokio's clock.

use std::future::Future;
use std::sync::Arc;

use proto::raft::liveness_server::Liveness as _;
use raft_store::{Leadership, RaftId};
use tonic::transport::Channel;

use super::*;
use crate::fixtures::{node, node_id, put, store};
use crate::peers::Connect;

struct Nowhere;

impl Connect for Nowhere {
    fn connect(&self, addr: &str) -> Result<Channel, Status> {
        Err(Status::unavailable(format!("{addr} is not to be reached in this test")))
    }
}

/// Runs `story` beside the loop; time passes only when all are idle.
async fn beside<F: Future<Output = ()>>(store: &Store, liveness: &Arc<Liveness>, story: F) {
    let cancel = CancellationToken::new();
    let peers = Peers::new(Arc::new(Nowhere));
    let story = Box::pin(async {
        story.await;
        cancel.cancel();
    });
    tokio::join!(liveness.run(store, &peers, &cancel), story);
}

fn state(store: &Store, number: u8) -> NodeState {
    store.view().node(&node_id(number)).unwrap().status.state
}

async fn is_down(store: &Store, number: u8) {
    let down = |view: &raft_store::View| {
        (view.node(&node_id(number))?.status.state == NodeState::Down).then_some(())
    };
    tokio::time::timeout(Duration::from_secs(60), crate::fanout::until(store, down))
        .await
        .expect("goes down");
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_is_down_after_three_periods() {
    let store = store().await;
    put(&store, [node(1), node(2)]).await;
    let liveness = Arc::new(Liveness::default());
    let period = heartbeat_period(&store.view());
    beside(&store, &liveness, async {
        let start = Instant::now();
        let beating = async {
            loop {
                liveness.heard(&node_id(2));
                tokio::time::sleep(period).await;
            }
        };
        tokio::select! {
            () = is_down(&store, 1) => {}
            () = beating => {}
        }
        let took = start.elapsed();
        assert!(took > period * MISSED && took <= period * MISSED + period, "{took:?}");
        assert_eq!(state(&store, 2), NodeState::Ready);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_comes_back_is_not_judged_by_its_old_silence() {
    let store = store().await;
    put(&store, [node(1)]).await;
    let liveness = Arc::new(Liveness::default());
    let period = heartbeat_period(&store.view());
    beside(&store, &liveness, async {
        is_down(&store, 1).await;
        // As its session does.
        put(&store, [node(1)]).await;
        tokio::time::sleep(period * 2).await;
        assert_eq!(state(&store, 1), NodeState::Ready);
        is_down(&store, 1).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_does_not_lead_decides_nothing() {
    let store = store().await;
    put(&store, [node(1)]).await;
    store.set_leadership(Leadership { leading: None, leader: Some(RaftId::from(9u8)) });
    let liveness = Arc::new(Liveness::default());
    let period = heartbeat_period(&store.view());
    beside(&store, &liveness, async {
        tokio::time::sleep(period * 10).await;
        assert_eq!(state(&store, 1), NodeState::Ready);
        let beat = BeatRequest { node_ids: vec!["node1".into()] };
        let refused = Listener(Arc::clone(&liveness)).beat(Request::new(beat)).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
        // A new leader gives the whole time.
        store.set_leadership(Leadership { leading: Some(Term(2)), leader: Some(1) });
        let start = Instant::now();
        is_down(&store, 1).await;
        assert!(start.elapsed() > period * MISSED);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn heartbeats_at_other_managers_count() {
    let store = store().await;
    put(&store, [node(1)]).await;
    let liveness = Arc::new(Liveness::default());
    let period = heartbeat_period(&store.view());
    beside(&store, &liveness, async {
        let listener = Listener(Arc::clone(&liveness));
        tokio::time::sleep(period).await;
        for _ in 0..6 {
            tokio::time::sleep(period).await;
            listener.beat(Request::new(BeatRequest { node_ids: vec!["node1".into()] })).await.unwrap();
        }
        assert_eq!(state(&store, 1), NodeState::Ready);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn as_many_nodes_as_there_are_go_down_at_once() {
    let store = store().await;
    let mut large = proto::model::EngineDescription::default();
    large.labels.insert("size".into(), "x".repeat(60 << 10));
    let nodes = (1..=100).map(|number| {
        let mut node = node(number);
        node.description.as_mut().unwrap().engine = large.clone();
        node
    });
    for node in nodes {
        put(&store, [node]).await;
    }
    beside(&store, &Arc::new(Liveness::default()), async {
        for number in 1..=100 {
            is_down(&store, number).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_manager_that_cannot_tell_the_leader_for_a_period_says_so_until_it_can() {
    let store = store().await;
    let liveness = Arc::new(Liveness::default());
    let mut reaches = liveness.reaches_leader();
    let period = heartbeat_period(&store.view());
    beside(&store, &liveness, async {
        tokio::time::sleep(period).await;
        assert!(*reaches.borrow());
        // The leader is not to be reached, or does not let this one speak, which was removed.
        store.set_leadership(Leadership { leading: None, leader: Some(RaftId::from(9u8)) });
        let lost = Instant::now();
        reaches.wait_for(|reaches| !reaches).await.unwrap();
        assert!((period..=period * 3 / 2).contains(&lost.elapsed()), "{:?}", lost.elapsed());
        store.set_leadership(Leadership { leading: Some(Term(2)), leader: Some(1) });
        let back = Instant::now();
        reaches.wait_for(|reaches| *reaches).await.unwrap();
        assert!(back.elapsed() <= period / ROUNDS);
    })
    .await;
}
