//! Linearizable reads on real stores over TCP.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::time::Duration;

use common::{Manager, bounded, create_node, group, has_node, leader, objects};
use raft_store::{ReadError, Store};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// A majority is missed after a second; everything else is the machine's load.
const AT_ONCE: Duration = Duration::from_secs(5);

fn knows(store: &Store, id: &str) -> bool {
    store.view().node(&id.into()).is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_on_any_manager_sees_what_another_was_told_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let managers = group(dir.path(), &["a", "b", "c"]).await;
    for number in 0..60 {
        let id = format!("node{number}");
        create_node(&managers[number % 3].store, &id).await;
        for reader in [&managers[(number + 1) % 3], &managers[(number + 2) % 3]] {
            bounded("a read", reader.store.linearize()).await.unwrap();
            assert!(knows(&reader.store, &id), "{} lacks {id}", reader.name);
        }
    }
}

/// More at a time than rounds can be made, so that they share them, while others write.
#[tokio::test(flavor = "multi_thread")]
async fn many_reads_at_a_time_all_see_what_was_before_them() {
    let dir = tempfile::tempdir().unwrap();
    let managers = group(dir.path(), &["a", "b", "c"]).await;
    let mut clients = JoinSet::new();
    for client in 0..200 {
        let (writer, reader) = (managers[client % 3].store.clone(), managers[(client + 1) % 3].store.clone());
        clients.spawn(async move {
            let id = format!("node{client}");
            create_node(&writer, &id).await;
            bounded("a read", reader.linearize()).await.unwrap();
            assert!(knows(&reader, &id), "{id}");
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_goes_on_with_the_next_leader() {
    let dir = tempfile::tempdir().unwrap();
    let mut managers = group(dir.path(), &["a", "b", "c"]).await;
    create_node(&managers[0].store, "before").await;
    managers.remove(leader(&managers).await).kill().await;
    for manager in &managers {
        bounded("a read", manager.store.linearize()).await.unwrap();
        assert!(knows(&manager.store, "before"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_a_read_fails_at_once_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let mut managers = group(dir.path(), &["a", "b", "c"]).await;
    for manager in &managers {
        create_node(&manager.store, &format!("by-{}", manager.name)).await;
    }
    has_node(&managers[0].store, "by-c").await;
    let left = managers.remove(leader(&managers).await);
    for manager in managers {
        manager.kill().await;
    }
    // As the leader, and, once it has noticed, as one who knows of none.
    for _ in 0..3 {
        let asked = Instant::now();
        let refused = left.store.linearize().await.unwrap_err();
        assert!(matches!(refused, ReadError::NoQuorum(_)), "{refused}");
        assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
        assert!(knows(&left.store, "by-c"), "what it has it shows");
    }
    left.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_alone_has_its_majority() {
    let dir = tempfile::tempdir().unwrap();
    let manager = Manager::start(dir.path(), "a").await;
    manager.store.bootstrap(vec![objects::cluster().into()]).await.unwrap();
    create_node(&manager.store, "node").await;
    bounded("a read", manager.store.linearize()).await.unwrap();
    let store = manager.store.clone();
    manager.stop().await;
    assert_eq!(store.linearize().await, Err(ReadError::Stopped));
}
