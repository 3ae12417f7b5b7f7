//! SIGKILL at any instant: what was acknowledged is there.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{Manager, objects};
use raft_store::{Options, Store};

/// Where the child writes. Unset in a run of the tests.
const DIR: &str = "RAFT_STORE_CRASH_DIR";

fn child(dir: &Path) -> Child {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(program);
    command.args(["--exact", "writes_until_it_is_killed", "--ignored", "--nocapture"]);
    command.env(DIR, dir).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the child of the test below"]
async fn writes_until_it_is_killed() {
    let dir = std::env::var(DIR).unwrap();
    let small = |options: &mut Options| {
        options.snapshot_interval = 50;
        options.entries_for_slow_followers = 10;
    };
    let manager = Manager::start_with(Path::new(&dir), "a", "127.0.0.1:0", small).await;
    manager.store.bootstrap(vec![objects::cluster().into()]).await.unwrap();
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
        let mut writer = child(dir.path());
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
