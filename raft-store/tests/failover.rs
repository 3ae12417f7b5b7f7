//! Leaders are killed again and again while everybody writes.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use common::{Manager, bounded, create_node, eventually, group, leader, objects, set_snapshots};
use raft_store::{Store, Transaction, UpdateError};
use tokio_util::sync::CancellationToken;

/// Acknowledged, and perhaps made, as the store told.
#[derive(Default)]
struct Answers {
    made: BTreeSet<String>,
    unknown: BTreeSet<String>,
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_write_is_lost_and_no_refused_one_appears() {
    let dir = tempfile::tempdir().unwrap();
    let mut managers = group(dir.path(), &["a", "b", "c"]).await;
    set_snapshots(&managers[0].store, 50, 0, 10).await;
    let answers = Arc::new(Mutex::new(Answers::default()));
    for _ in 0..3 {
        let stop = CancellationToken::new();
        let mut writers = tokio::task::JoinSet::new();
        for manager in &managers {
            for _ in 0..2 {
                writers.spawn(write(manager.store.clone(), answers.clone(), stop.clone()));
            }
        }
        let count = || answers.lock().unwrap().made.len();
        let before = count();
        eventually("some writes", || (count() > before + 20).then_some(())).await;
        let dead = managers.remove(leader(&managers).await);
        let (name, addr) = (dead.name.clone(), dead.addr.clone());
        dead.kill().await;
        let before = count();
        eventually("writes without the dead leader", || (count() > before + 20).then_some(())).await;
        stop.cancel();
        bounded("the writers", writers.join_all()).await;
        managers.push(Manager::start_with(dir.path(), &name, &addr, |_| {}).await);
    }
    create_node(&managers[0].store, "last").await;
    let index = managers[0].store.view().index();
    for manager in &managers {
        bounded("everything is everywhere", manager.store.applied(index)).await;
    }
    let answers = answers.lock().unwrap();
    for manager in &managers {
        let view = manager.store.view();
        let there: BTreeSet<String> = view.nodes().map(|node| node.id.to_string()).collect();
        assert_eq!(answers.made.difference(&there).next(), None, "lost on {}", manager.name);
        let surprising =
            |id: &&String| !answers.made.contains(*id) && !answers.unknown.contains(*id) && *id != "last";
        assert_eq!(there.iter().find(surprising), None, "refused, yet there on {}", manager.name);
    }
    println!("{} writes, {} of unknown outcome", answers.made.len(), answers.unknown.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_manager_is_tried_again_with_pauses() {
    let dir = tempfile::tempdir().unwrap();
    let mut managers = group(dir.path(), &["a", "b", "c"]).await;
    let follower = (leader(&managers).await + 1) % 3;
    let dead = managers.remove(follower);
    let addr = dead.addr.clone();
    dead.kill().await;
    let tried = Arc::new(AtomicU32::new(0));
    let listener = tokio::net::TcpListener::bind(&addr).await.unwrap();
    let count = tried.clone();
    let mut hanging_up = tokio::task::JoinSet::new();
    hanging_up.spawn(async move {
        while listener.accept().await.is_ok() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let (begun, before) = (Instant::now(), tried.load(Ordering::Relaxed));
    for number in 0..50 {
        create_node(&managers[0].store, &format!("node{number}")).await;
    }
    let attempts = || tried.load(Ordering::Relaxed) - before;
    eventually("some attempts", || (attempts() >= 10).then_some(())).await;
    // One in 50 ms at the most for entries, and fewer for all else.
    let allowed = u32::try_from(begun.elapsed().as_millis() / 20).unwrap() + 20;
    assert!(attempts() <= allowed, "{} attempts in {:?}", attempts(), begun.elapsed());
}

async fn write(store: Store, answers: Arc<Mutex<Answers>>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let id = format!("{:032x}", rand::random::<u128>());
        let create = |tx: &mut Transaction| {
            tx.create(objects::node(&id));
            Ok::<_, Infallible>(())
        };
        let answer = store.update(create).await;
        let mut answers = answers.lock().unwrap();
        match answer {
            Ok(()) => answers.made.insert(id),
            // The store of a manager that was killed has no runtime any more.
            Err(UpdateError::Unknown(_) | UpdateError::Stopped) => {
                answers.unknown.insert(id);
                break;
            }
            Err(UpdateError::NoQuorum(_)) => false,
            Err(error) => panic!("{error}"),
        };
    }
}
