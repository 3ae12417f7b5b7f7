//! Groups that lost most of their members, and groups from a backup.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{BOUND, Manager, Tcp, bounded, create_node, eventually, group, has_node, leader, objects};
use raft_store::backup::Backup;
use raft_store::{Options, RaftId, Store, Transaction};

fn options(dir: &std::path::Path, name: &str) -> Options {
    Options::new(dir.join(name), name.into(), "127.0.0.1:0".into(), Arc::new(Tcp(name.into())))
}

fn add(name: &'static str) -> impl FnOnce(&mut Transaction, RaftId) {
    move |tx, _| tx.create(objects::node(name))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_survivor_goes_on_alone_with_all_that_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let mut managers = group(dir.path(), &["a", "b", "c"]).await;
    let first = leader(&managers).await;
    create_node(&managers[first].store, "n1").await;
    let survivor = managers.remove(first);
    let (name, index) = (survivor.name.clone(), survivor.store.view().index());
    let raft_id = survivor.store.raft_id();
    for lost in managers {
        lost.kill().await;
    }
    // Written where it cannot be committed. It is in the log of the survivor all the same.
    let lonely = create_node(&survivor.store, "n2");
    tokio::time::timeout(Duration::from_millis(300), lonely).await.unwrap_err();
    survivor.kill().await;

    bounded("a new group", Store::refound(&options(dir.path(), &name), add("n3"))).await.unwrap();
    let alone = Manager::start(dir.path(), &name).await;
    eventually("it leads", || alone.leads().then_some(())).await;
    for node in ["n1", "n3"] {
        has_node(&alone.store, node).await;
    }
    create_node(&alone.store, "n4").await;
    assert!(alone.store.view().index() > index + (1 << 31), "others may have been further");
    assert_ne!(alone.store.raft_id(), raft_id);
    assert_eq!(alone.store.membership().members().len(), 1);

    // It takes others in, who get all of it, and it survives a restart.
    let other = Manager::start(dir.path(), "d").await;
    let membership = alone.store.membership();
    bounded("another member", membership.add("d".into(), other.addr.clone())).await.unwrap();
    for node in ["n1", "n3", "n4"] {
        has_node(&other.store, node).await;
    }
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_were_lost_do_not_get_the_survivor_back() {
    let dir = tempfile::tempdir().unwrap();
    let managers = group(dir.path(), &["a", "b", "c"]).await;
    let addresses: Vec<String> = managers.iter().map(|manager| manager.addr.clone()).collect();
    create_node(&managers[0].store, "n1").await;
    for manager in &managers {
        has_node(&manager.store, "n1").await;
    }
    for manager in managers {
        manager.kill().await;
    }
    Store::refound(&options(dir.path(), "a"), add("mine")).await.unwrap();
    let start = async |name: &str, addr: &str| Manager::start_with(dir.path(), name, addr, |_| {}).await;
    let alone = start("a", &addresses[0]).await;
    let (b, c) = (start("b", &addresses[1]).await, start("c", &addresses[2]).await);
    eventually("the others go on without it", || (b.leads() || c.leads()).then_some(())).await;
    create_node(&b.store, "theirs").await;
    create_node(&alone.store, "n5").await;
    has_node(&c.store, "theirs").await;
    assert!(alone.leads() && alone.store.view().node(&"theirs".into()).is_none());
    assert!(b.store.view().node(&"mine".into()).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swarm_begins_again_from_a_backup() {
    let dir = tempfile::tempdir().unwrap();
    let managers = group(dir.path(), &["a"]).await;
    create_node(&managers[0].store, "n1").await;
    let (mut out, scratch) = (Vec::new(), dir.path().join("scratch"));
    Backup::write(&managers[0].store, "secret", &scratch, &mut out).unwrap();
    create_node(&managers[0].store, "later").await;

    let backup = Backup::read(&mut &out[..], "secret", &scratch).unwrap();
    Store::restore(&options(dir.path(), "z"), backup, add("n2")).unwrap();
    let restored = Manager::start(dir.path(), "z").await;
    eventually("it leads", || restored.leads().then_some(())).await;
    for node in ["n1", "n2"] {
        has_node(&restored.store, node).await;
    }
    assert!(restored.store.view().node(&"later".into()).is_none());
    let flaws = restored.store.view().flaws();
    assert!(flaws.is_empty(), "{flaws:?}");
    tokio::time::timeout(BOUND, restored.stop()).await.unwrap();
}

/// Nodes that have met the first swarm must not take the second one for older.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_restored_later_is_higher() {
    let dir = tempfile::tempdir().unwrap();
    let managers = group(dir.path(), &["a"]).await;
    create_node(&managers[0].store, "n1").await;
    let (mut out, scratch) = (Vec::new(), dir.path().join("scratch"));
    Backup::write(&managers[0].store, "", &scratch, &mut out).unwrap();
    let mut reached = managers[0].store.view().index();
    for name in ["x", "y", "z"] {
        let backup = Backup::read(&mut &out[..], "", &scratch).unwrap();
        Store::restore(&options(dir.path(), name), backup, add("n2")).unwrap();
        let restored = Manager::start(dir.path(), name).await;
        eventually("it leads", || restored.leads().then_some(())).await;
        has_node(&restored.store, "n2").await;
        let begun = restored.store.view().index();
        assert!(begun > reached, "{name} begins at {begun}, and {reached} was there before");
        for number in 0..20 {
            create_node(&restored.store, &format!("node{number}")).await;
        }
        reached = restored.store.view().index();
        restored.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_heard_nothing_begins_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let new = Manager::start(dir.path(), "a").await;
    new.kill().await;
    let refused = Store::refound(&options(dir.path(), "a"), |_, _| {}).await.unwrap_err();
    assert!(refused.to_string().contains("never heard"), "{refused}");
}
