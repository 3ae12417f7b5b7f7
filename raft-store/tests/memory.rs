//! The store without Raft: the same verbs.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use common::objects;
use raft_store::{Lagged, Leadership, Store, Term, Transaction, UpdateError};

#[tokio::test]
async fn the_closure_runs_again_after_a_conflict_and_gives_up_after_many() {
    let store = Store::in_memory();
    store.inject_conflicts(3);
    let mut runs = 0;
    let create = |tx: &mut Transaction| {
        runs += 1;
        tx.create(objects::node("a"));
        Ok::<_, Infallible>(())
    };
    store.update(create).await.unwrap();
    assert_eq!(runs, 4);
    store.inject_conflicts(1000);
    let create = |tx: &mut Transaction| {
        tx.create(objects::node("b"));
        Ok::<_, Infallible>(())
    };
    assert_eq!(store.update(create).await, Err(UpdateError::Conflict));
}

#[tokio::test]
async fn nothing_is_committed_where_nothing_changes_or_the_closure_refuses() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let store = Store::in_memory_with_clock(Arc::new(move || now));
    let create = |tx: &mut Transaction| {
        tx.create(objects::node("a"));
        assert!(tx.node(&"a".into()).is_some(), "it sees its own writes");
        Ok::<_, Infallible>(())
    };
    store.update(create).await.unwrap();
    let view = store.view();
    let node = view.node(&"a".into()).unwrap().clone();
    assert_eq!((node.meta.version, node.meta.created_at), (1, now));

    let same = |tx: &mut Transaction| {
        let node = tx.node(&"a".into()).unwrap().clone();
        tx.update(node);
        tx.create(objects::node("b"));
        tx.remove(proto::model::NodeId::from("b"));
        tx.remove(proto::model::NodeId::from("c"));
        Ok::<_, Infallible>(())
    };
    store.update(same).await.unwrap();
    assert_eq!(store.view().index(), 1);
    let refuse = |tx: &mut Transaction| {
        tx.remove(proto::model::NodeId::from("a"));
        Err::<(), _>("no")
    };
    assert_eq!(store.update(refuse).await, Err(UpdateError::Aborted("no")));
    assert!(store.view().node(&"a".into()).is_some());

    // Read before somebody else's change: trying again cannot help.
    let change = |tx: &mut Transaction| {
        let mut changed = proto::model::Node::clone(&node);
        changed.role = proto::model::Role::Manager;
        tx.update(changed);
        Ok::<_, Infallible>(())
    };
    store.update(change).await.unwrap();
    assert_eq!(store.update(change).await, Err(UpdateError::Conflict));
    assert!(store.view().index() == 2 && view.index() == 1, "views never change");
}

#[tokio::test]
async fn a_watch_has_every_commit_and_a_slow_one_is_told() {
    let store = Store::in_memory();
    let mut watch = store.watch();
    for number in 0..10 {
        common::create_node(&store, &format!("node{number}")).await;
    }
    for index in 1..=10 {
        let commit = watch.next().await.unwrap();
        assert_eq!((commit.index, commit.view.nodes().count() as u64), (index, index));
        assert!(commit.changes[0].before.is_none());
    }
    assert_eq!(watch.try_next().unwrap().map(|commit| commit.index), None);
    for number in 0..5000 {
        common::create_node(&store, &format!("more{number}")).await;
    }
    assert!(matches!(watch.next().await, Err(Lagged { missed }) if missed >= 900));
    assert_eq!(store.watch().view.nodes().count(), 5010);
}

#[tokio::test]
async fn a_leaders_update_is_refused_once_it_leads_no_more() {
    let store = Store::in_memory();
    let term = store.leadership().borrow().leading.unwrap();
    let create = |id: &'static str| {
        move |tx: &mut Transaction| {
            tx.create(objects::node(id));
            Ok::<_, Infallible>(())
        }
    };
    store.update_as_leader(term, create("a")).await.unwrap();
    store.set_leadership(Leadership { leading: Some(Term(7)), leader: Some(1) });
    assert_eq!(store.update_as_leader(term, create("b")).await, Err(UpdateError::LostLeadership));
    store.update(create("c")).await.unwrap();
}
