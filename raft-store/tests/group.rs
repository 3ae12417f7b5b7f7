//! Three real stores over TCP.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use common::{Manager, bounded, create_node, eventually, files, group, has_node, leader, objects};
use proto::model::Reachability;
use raft_store::{Dial as _, Transaction, UpdateError, Violation, membership};
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn what_one_manager_writes_all_managers_have() {
    let dir = tempfile::tempdir().unwrap();
    let managers = group(dir.path(), &["a", "b", "c"]).await;
    for writer in &managers {
        let id = format!("by-{}", writer.name);
        create_node(&writer.store, &id).await;
        assert!(writer.store.view().node(&id.as_str().into()).is_some(), "the writer sees it at once");
        for reader in &managers {
            has_node(&reader.store, &id).await;
        }
    }
    let versions = |manager: &Manager| {
        manager.store.view().nodes().map(|node| (node.id.clone(), node.meta)).collect::<Vec<_>>()
    };
    assert_eq!(versions(&managers[0]), versions(&managers[1]));
    assert_eq!(versions(&managers[0]), versions(&managers[2]));

    // A violation comes back from the leader as it is there.
    let create = |tx: &mut Transaction| {
        tx.create(objects::network("net", "10.0.9.0/24"));
        Ok::<_, Infallible>(())
    };
    managers[1].store.update(create).await.unwrap();
    let overlapping = |tx: &mut Transaction| {
        tx.create(objects::network("other", "10.0.9.128/25"));
        Ok::<_, Infallible>(())
    };
    let refused = managers[2].store.update(overlapping).await.unwrap_err();
    assert!(matches!(refused, UpdateError::Violated(Violation::SubnetOverlap { .. })), "{refused}");
    assert_eq!(managers[0].store.membership().members().len(), 3);
    let seen = managers[2].store.membership().status().await;
    assert!(seen.iter().all(|member| member.voter && member.reachability == Reachability::Reachable));
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_leader_dies_writes_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut managers = group(dir.path(), &["a", "b", "c"]).await;
    create_node(&managers[1].store, "before").await;
    let dead = managers.remove(leader(&managers).await);
    assert_eq!(dead.name, "a");
    let term = dead.store.leadership().borrow().leading.unwrap();
    dead.kill().await;

    let died = Instant::now();
    create_node(&managers[0].store, "after").await;
    println!("a write waited {:?} for the next leader", died.elapsed());
    create_node(&managers[1].store, "after-too").await;
    for manager in &managers {
        for id in ["before", "after", "after-too"] {
            has_node(&manager.store, id).await;
        }
    }
    let leading = managers[leader(&managers).await].store.leadership().borrow().leading.unwrap();
    assert!(leading > term);

    // It comes back at another address with what it had, and catches up once the others know where it is.
    let back = Manager::start(dir.path(), "a").await;
    has_node(&back.store, "before").await;
    let raft_id = managers[0].store.membership().add("a".into(), back.addr.clone()).await.unwrap();
    assert_eq!(raft_id, back.store.raft_id());
    has_node(&back.store, "after-too").await;
    assert_eq!(back.store.membership().members().len(), 3);
    create_node(&back.store, "by-the-one-that-came-back").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_all_brings_everything_back() {
    let dir = tempfile::tempdir().unwrap();
    let managers = group(dir.path(), &["a", "b", "c"]).await;
    for number in 0..20 {
        create_node(&managers[number % 3].store, &format!("node{number}")).await;
    }
    let addrs: Vec<_> = managers.iter().map(|manager| (manager.name.clone(), manager.addr.clone())).collect();
    for manager in managers {
        manager.stop().await;
    }
    let mut managers = Vec::new();
    for (name, addr) in &addrs {
        managers.push(Manager::start_with(dir.path(), name, addr, |_| {}).await);
    }
    for manager in &managers {
        for number in 0..20 {
            has_node(&manager.store, &format!("node{number}")).await;
        }
    }
    create_node(&managers[1].store, "afterwards").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_joins_late_gets_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let first = Manager::start(dir.path(), "a").await;
    first.store.bootstrap(vec![objects::cluster_with_snapshots(20, 0, 5).into()]).await.unwrap();
    let create = |tx: &mut Transaction| {
        tx.create(objects::allocated("net", "10.0.9.0/24", 4097));
        tx.create(objects::service("web", &["net"]));
        tx.create(objects::attached(objects::task("task", "web", 1), "net", "10.0.9.7/24"));
        Ok::<_, Infallible>(())
    };
    first.store.update(create).await.unwrap();
    for number in 0..100 {
        create_node(&first.store, &format!("node{number}")).await;
    }
    eventually("a snapshot", || files(dir.path(), "a", "snapshot-0").pop()).await;

    let late = Manager::start(dir.path(), "b").await;
    let mut watch = late.store.watch();
    let raft_id = first.store.membership().add("b".into(), late.addr.clone()).await.unwrap();
    assert_eq!(raft_id, late.store.raft_id());
    has_node(&late.store, "node99").await;
    let view = late.store.view();
    assert_eq!(view.nodes().count(), 100);
    let subnet = "10.0.9.0/24".parse().unwrap();
    assert_eq!(view.last_address(&"net".into(), &subnet), Some("10.0.9.7".parse().unwrap()));
    // The watch has no gap either.
    let mut seen = BTreeSet::new();
    while seen.len() < 100 {
        let commit = bounded("a commit", watch.next()).await.unwrap();
        seen.extend(
            commit
                .changes
                .iter()
                .filter_map(|change| change.after.as_ref()?.as_node().cloned())
                .map(|n| n.id.clone()),
        );
    }
    // And again from its own disk.
    let addr = late.addr.clone();
    late.stop().await;
    let late = Manager::start_with(dir.path(), "b", &addr, |_| {}).await;
    has_node(&late.store, "node99").await;
    create_node(&late.store, "both-are-there").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn managers_leave_the_leader_too_but_not_the_last_ones_needed() {
    let dir = tempfile::tempdir().unwrap();
    let mut managers = group(dir.path(), &["a", "b", "c"]).await;
    // Asked of a follower, done by the leader, who hands over first.
    let leaving = leader(&managers).await;
    let asked = (leaving + 1) % 3;
    let raft_id = managers[leaving].store.raft_id();
    managers[asked].store.membership().remove(raft_id).await.unwrap();
    let gone = managers.remove(leaving);
    gone.stop().await;
    create_node(&managers[0].store, "two-are-left").await;
    eventually("two members", || (managers[0].store.membership().members().len() == 2).then_some(())).await;

    // With one of two dead there is no quorum: nothing is written, and it says so.
    let dead = managers.pop().unwrap();
    let dead_id = dead.store.raft_id();
    dead.kill().await;
    let alive = &managers[0].store;
    let create = |tx: &mut Transaction| {
        tx.create(objects::node("never"));
        Ok::<_, Infallible>(())
    };
    let asked = Instant::now();
    let error = alive.update(create).await.unwrap_err();
    assert!(matches!(error, UpdateError::NoQuorum(_) | UpdateError::Unknown(_)), "{error}");
    // Not only after the 10 s in which a leader must answer.
    assert!(asked.elapsed() < Duration::from_secs(8), "it took {:?}", asked.elapsed());
    assert!(error.is_retryable());
    assert_eq!(alive.leadership().borrow().leading, None);
    assert!(dead_id != alive.raft_id());
}

/// Nobody tells it that it is out: what it knows of the group is as old as the last entry that it got.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_put_out_knows_no_leader() {
    let dir = tempfile::tempdir().unwrap();
    let managers = group(dir.path(), &["a", "b", "c"]).await;
    let leading = leader(&managers).await;
    let out = &managers[(leading + 1) % 3].store;
    eventually("a leader that is heard", || out.leadership().borrow().leader).await;
    managers[leading].store.membership().remove(out.raft_id()).await.unwrap();
    eventually("no leader", || out.leadership().borrow().leader.is_none().then_some(())).await;
    assert!(out.membership().members().iter().all(|member| !member.leader));
    let other = &managers[(leading + 2) % 3].store;
    assert_eq!(other.leadership().borrow().leader, Some(managers[leading].store.raft_id()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_loses_the_quorum_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut managers = group(dir.path(), &["a", "b", "c"]).await;
    let leading = leader(&managers).await;
    let leader = managers.remove(leading);
    let dead = managers.pop().unwrap();
    let other = managers.pop().unwrap();
    let dead_id = dead.store.raft_id();
    dead.kill().await;
    let unreachable = || {
        let members = leader.store.membership().members();
        members
            .iter()
            .any(|m| m.raft_id == dead_id && m.reachability == Reachability::Unreachable)
            .then_some(())
    };
    eventually("the dead one is seen to be unreachable", unreachable).await;
    let refused = leader.store.membership().remove(other.store.raft_id()).await.unwrap_err();
    assert_eq!(refused, membership::Error::LosesQuorum { left: 1, of: 2, needed: 2 });
    leader.store.membership().remove(dead_id).await.unwrap();
    other.store.membership().remove(other.store.raft_id()).await.unwrap();
    other.stop().await;
    create_node(&leader.store, "alone").await;
    let refused = leader.store.membership().remove(leader.store.raft_id()).await.unwrap_err();
    assert_eq!(refused, membership::Error::LastManager);
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_is_handed_over_without_an_election_timeout() {
    let dir = tempfile::tempdir().unwrap();
    let mut managers = group(dir.path(), &["a", "b", "c"]).await;
    let first = leader(&managers).await;
    let term = managers[first].store.leadership().borrow().leading.unwrap();
    let started = Instant::now();
    let next = managers[(first + 1) % 3].store.membership().transfer_leadership().await.unwrap();
    println!("handed over in {:?}", started.elapsed());
    assert_ne!(next, managers[first].store.raft_id());
    let old = managers[first].store.clone();
    eventually("the old leader knows", || old.leadership().borrow().leading.is_none().then_some(())).await;
    let late = |tx: &mut Transaction| {
        tx.create(objects::node("late"));
        Ok::<_, Infallible>(())
    };
    let refused = old.update_as_leader(term, late).await.unwrap_err();
    assert_eq!(refused, UpdateError::LostLeadership);

    // A leader that is stopped in order hands over too.
    let stopped = managers.remove(leader(&managers).await);
    let started = Instant::now();
    stopped.stop().await;
    create_node(&managers[0].store, "after").await;
    println!("stopped and written elsewhere in {:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn joining_fails_in_time_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let managers = group(dir.path(), &["a"]).await;
    let membership = managers[0].store.membership();
    let nobody = membership.add("x".into(), "127.0.0.1:1".into()).await.unwrap_err();
    assert!(matches!(nobody, membership::Error::Unreachable { .. }), "{nobody}");
    let other = Manager::start(dir.path(), "b").await;
    let wrong = membership.add("x".into(), other.addr.clone()).await.unwrap_err();
    assert!(matches!(&wrong, membership::Error::OtherNode { found, .. } if found == "b"), "{wrong}");
    assert_eq!(membership.members().len(), 1);
    // Twice is as good as once.
    let raft_id = membership.add("b".into(), other.addr.clone()).await.unwrap();
    assert_eq!(membership.add("b".into(), other.addr.clone()).await.unwrap(), raft_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_obeys_members_only_each_from_its_own_node() {
    let dir = tempfile::tempdir().unwrap();
    let mut managers = group(dir.path(), &["a", "b", "c"]).await;
    let gone = managers.pop().unwrap();
    managers[0].store.membership().remove(gone.store.raft_id()).await.unwrap();
    for manager in &managers {
        let left = || (manager.store.membership().members().len() == 2).then_some(());
        eventually("two members", left).await;
    }
    let [a, b] = &managers[..] else { panic!("two are left") };
    let (a_id, b_id, c_id) = (a.store.raft_id(), b.store.raft_id(), gone.store.raft_id());
    for (caller, claimed, heard) in
        [("c", c_id, false), ("c", a_id, false), ("x", 1, false), ("a", a_id, true)]
    {
        let code = speak(caller, claimed, b, b_id).await;
        let expected = if heard { tonic::Code::Ok } else { tonic::Code::PermissionDenied };
        assert_eq!(code, [expected; 4], "{caller} as {claimed:x}");
    }
    gone.kill().await;
    create_node(&b.store, "afterwards").await;
}

/// Sends each kind of message of a leader or candidate of no term, which nobody heeds, and tells how it was received.
async fn speak(caller: &str, claimed: u64, to: &Manager, id: u64) -> [tonic::Code; 4] {
    use proto::raft as wire;
    let mut client = wire::raft_client::RaftClient::new(common::Tcp(caller.into()).channel(&to.addr));
    let vote = |committed| Some(proto::store::Vote { term: 0, candidate: claimed, committed });
    let code =
        |outcome: Result<(), tonic::Status>| outcome.err().map_or(tonic::Code::Ok, |status| status.code());
    let ballot = wire::VoteRequest { to: id, vote: vote(false), ..Default::default() };
    let voted = client.vote(ballot).await.map(drop);
    let append = wire::AppendRequest { to: id, vote: vote(true), ..Default::default() };
    let append = async {
        let mut answers = client.clone().append(tokio_stream::iter([append])).await?.into_inner();
        answers.message().await.map(drop)
    };
    let appended = append.await;
    let transfer = wire::TransferLeaderRequest { to: id, from: vote(true), ..Default::default() };
    let transferred = client.transfer_leader(transfer).await.map(drop);
    let header = wire::SnapshotHeader { to: id, vote: vote(true), ..Default::default() };
    let header = wire::SnapshotPart { part: Some(wire::snapshot_part::Part::Header(header)) };
    // Its format is known to nobody, which is told only to who may send one.
    let installed = match client.install_snapshot(tokio_stream::iter([header])).await {
        Err(status) if status.code() == tonic::Code::FailedPrecondition => Ok(()),
        outcome => outcome.map(drop),
    };
    [voted, appended, transferred, installed].map(code)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_away_while_others_took_over_finds_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut managers = group(dir.path(), &["a", "b", "c"]).await;
    let away = managers.pop().unwrap();
    let addr = away.addr.clone();
    away.kill().await;
    let new = Manager::start(dir.path(), "d").await;
    managers[0].store.membership().add("d".into(), new.addr.clone()).await.unwrap();
    let old = managers.remove(0);
    new.store.membership().remove(old.store.raft_id()).await.unwrap();
    old.stop().await;
    if !new.leads() {
        new.store.membership().transfer_leadership().await.unwrap();
    }
    eventually("the new one leads", || new.leads().then_some(())).await;
    create_node(&new.store, "by-a-stranger").await;
    let back = Manager::start_with(dir.path(), "c", &addr, |_| {}).await;
    has_node(&back.store, "by-a-stranger").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_on_all_managers_lose_nothing_and_share_no_address() {
    let dir = tempfile::tempdir().unwrap();
    let managers = group(dir.path(), &["a", "b", "c"]).await;
    let create = |tx: &mut Transaction| {
        tx.create(objects::allocated("net", "10.0.9.0/24", 4097));
        tx.create(objects::service("web", &["net"]));
        Ok::<_, Infallible>(())
    };
    managers[0].store.update(create).await.unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..12usize {
        let store = managers[writer % 3].store.clone();
        writers.spawn(async move {
            for number in 0..5 {
                allocate(&store, &format!("task{writer}-{number}")).await;
            }
        });
    }
    bounded("the writers", writers.join_all()).await;
    let view = managers[0].store.view();
    managers[1].store.applied(view.index()).await;
    let view = managers[1].store.view();
    let addresses: BTreeSet<_> = view.tasks().map(|task| task.attachments[0].addresses[0].addr()).collect();
    assert_eq!((view.tasks().count(), addresses.len()), (60, 60));
}

/// Takes the lowest free address: everybody wants the same one.
async fn allocate(store: &raft_store::Store, id: &str) {
    loop {
        let take = |tx: &mut Transaction| {
            let subnet: ipnet::Ipv4Net = "10.0.9.0/24".parse().unwrap();
            let free = subnet.hosts().find(|host| tx.address_owner(&"net".into(), (*host).into()).is_none());
            let address = format!("{}/24", free.unwrap());
            tx.create(objects::attached(objects::task(id, "web", 1), "net", &address));
            Ok::<_, Infallible>(())
        };
        match store.update(take).await {
            Ok(()) => return,
            Err(UpdateError::Violated(Violation::AddressTaken { .. })) => {}
            Err(error) => panic!("{error}"),
        }
    }
}
