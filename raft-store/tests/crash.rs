//! SIGKILL at any instant, and at each step of the log's and the snapshot's writes: what was acknowledged is there.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{Manager, objects};
use raft_store::{Options, Store};

/// No step has this name.
const NOWHERE: &str = "nowhere";

/// Where the child writes. Unset in a run of the tests.
const DIR: &str = "RAFT_STORE_CRASH_DIR";

fn child(dir: &Path, die_at: &str) -> Child {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(program);
    command.args(["--exact", "writes_until_it_is_killed", "--ignored", "--nocapture"]);
    command
        .env(DIR, dir)
        .env(failpoint::VARIABLE, die_at)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the child of the test below"]
async fn writes_until_it_is_killed() {
    let dir = std::env::var(DIR).unwrap();
    let small = |options: &mut Options| {
        options.segment_bytes = 4 << 10;
    };
    let manager = Manager::start_with(Path::new(&dir), "a", "127.0.0.1:0", small).await;
    manager.store.bootstrap(vec![objects::cluster_with_snapshots(50, 0, 10).into()]).await.unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let store = manager.store.clone();
        writers.spawn(async move { write(&store).await });
    }
    writers.join_all().await;
}

async fn write(store: &Store) {
    loop {
        let id = format!("{:032x}", rand::random::<u128>());
        common::create_node(store, &id).await;
        let mut out = std::io::stdout().lock();
        writeln!(out, "acknowledged {id}").unwrap();
        out.flush().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_sigkill() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for round in 1..=4 {
        let mut writer = child(dir.path(), NOWHERE);
        let lines = BufReader::new(writer.stdout.take().unwrap()).lines().map_while(Result::ok);
        // libtest may put the test's name before the first line.
        let ids = lines.filter_map(|line| Some(line.split_once("acknowledged ")?.1.to_owned()));
        let mut count = 0;
        for id in ids {
            acknowledged.push(id);
            count += 1;
            if count == 37 * round {
                writer.kill().unwrap();
            }
        }
        assert!(count >= 37 * round, "the child ended after {count} writes: {}", writer.wait().unwrap());
        writer.wait().unwrap();
    }
    let manager = Manager::start(dir.path(), "a").await;
    // Alone it needs nobody to lead again.
    common::create_node(&manager.store, "afterwards").await;
    let view = manager.store.view();
    let lost: Vec<_> = acknowledged.iter().filter(|id| view.node(&id.as_str().into()).is_none()).collect();
    assert!(lost.is_empty(), "{} of {} are lost: {lost:?}", lost.len(), acknowledged.len());
    println!("{} writes in four lives", acknowledged.len());
}

/// Each is reached by a manager that starts, writes, takes snapshots and purges its log. The process is killed just
/// before the step, so that a step's end is the next one's beginning.
#[cfg(debug_assertions)]
const STEPS: [(&str, &[u32]); 13] = [
    ("fsync data-key", &[1]),
    ("rename data-key", &[1]),
    ("fsync raft-state", &[1, 2, 3, 4]),
    ("rename raft-state", &[1, 2, 3, 4]),
    ("fsync log-", &[1, 2, 3, 60, 61, 62]),
    ("fsync of names", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
    ("fsync snapshot-", &[1, 2]),
    ("rename snapshot-", &[1, 2]),
    ("remove snapshot-", &[1, 2]),
    ("remove log-", &[1, 2]),
    ("raft-state", &[7, 8]),
    ("snapshot-", &[5, 6]),
    ("log-", &[90, 91]),
];

#[cfg(debug_assertions)]
#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_sigkill_at_every_step() {
    let mut dying = tokio::task::JoinSet::new();
    for (step, times) in STEPS {
        dying.spawn_blocking(move || die_at_each(step, times));
    }
    for (step, dir, acknowledged) in dying.join_all().await {
        let manager = Manager::start(dir.path(), "a").await;
        manager.store.bootstrap(vec![objects::cluster().into()]).await.unwrap();
        let view = manager.store.view();
        let lost: Vec<_> =
            acknowledged.iter().filter(|id| view.node(&id.as_str().into()).is_none()).collect();
        assert!(lost.is_empty(), "{step}: {} of {} are lost: {lost:?}", lost.len(), acknowledged.len());
        manager.stop().await;
    }
}

/// One life after the other on the same disk.
#[cfg(debug_assertions)]
fn die_at_each(step: &'static str, times: &[u32]) -> (&'static str, tempfile::TempDir, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for nth in times {
        let mut writer = child(dir.path(), &format!("{step}@{nth}"));
        let lines = BufReader::new(writer.stdout.take().unwrap()).lines().map_while(Result::ok);
        let ids = lines.filter_map(|line| Some(line.split_once("acknowledged ")?.1.to_owned()));
        let before = acknowledged.len();
        for id in ids {
            acknowledged.push(id);
            if acknowledged.len() - before == 3000 {
                writer.kill().unwrap();
                panic!("{step} was not reached {nth} times within 3000 writes");
            }
        }
        let status = writer.wait().unwrap();
        assert!(!status.success(), "{step}@{nth}: the child ended by itself");
    }
    (step, dir, acknowledged)
}
