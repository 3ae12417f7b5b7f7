//! What earlier versions wrote is read.
//!
//! `fixtures/<format>/` holds a manager's directory, with its data key, as the version wrote it that came with this
//! format of log, snapshot and hard state. They are never changed. When a format gets a new number, its fixture is
//! added beside the others: `FORMAT=<name> cargo nextest run -p raft-store --run-ignored all -E
//! 'test(=writes_a_fixture)'`, and its name is put into `FORMATS`.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::{Path, PathBuf};

use common::{Manager, create_node, eventually, objects};
use proto::model::Cluster;
use raft_store::{Object, Options, Transaction};

/// Oldest first.
const FORMATS: [&str; 1] = ["1"];

/// A snapshot holds the first ones, the log the others.
const NODES: u32 = 50;

fn fixture(format: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(format)
}

fn small(options: &mut Options) {
    options.segment_bytes = 1 << 10;
}

fn content(cluster: Cluster) -> Vec<Object> {
    let task = objects::attached(objects::task("task", "web", 1), "net", "10.0.9.3/24");
    vec![
        cluster.into(),
        objects::allocated("net", "10.0.9.0/24", 4097).into(),
        objects::service("web", &["net"]).into(),
        task.into(),
    ]
}

/// Its version and times are the store's.
fn without_meta(object: Object) -> Object {
    use proto::model::{Meta, Network, Service, Task};
    let meta = Meta::default();
    match object {
        Object::Cluster(object) => Cluster { meta, ..Cluster::clone(&object) }.into(),
        Object::Network(object) => Network { meta, ..Network::clone(&object) }.into(),
        Object::Service(object) => Service { meta, ..Service::clone(&object) }.into(),
        Object::Task(object) => Task { meta, ..Task::clone(&object) }.into(),
        other => other,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_every_earlier_version_wrote_is_read() {
    for format in FORMATS {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("a");
        std::fs::create_dir(&copy).unwrap();
        for file in std::fs::read_dir(fixture(format)).unwrap() {
            let path = file.unwrap().path();
            std::fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
        }
        let manager = Manager::start_with(dir.path(), "a", "127.0.0.1:0", small).await;
        create_node(&manager.store, "new").await;
        let view = manager.store.view();
        assert_eq!(view.nodes().count() as u32, NODES + 1, "format {format}");
        for number in 0..NODES {
            assert!(
                view.node(&format!("node{number}").as_str().into()).is_some(),
                "format {format}: {number}"
            );
        }
        let net = "net".into();
        let owner = view.address_owner(&net, "10.0.9.3".parse().unwrap());
        assert!(owner.is_some(), "format {format}: the task's address is free");
        let found: Vec<Object> = view.objects().map(without_meta).collect();
        for expected in content(objects::cluster()) {
            assert!(found.contains(&expected), "format {format}: {expected:?} is not in {found:?}");
        }
        assert_eq!(view.flaws(), [], "format {format}");
        manager.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "once a format: FORMAT=<name>"]
async fn writes_a_fixture() {
    let target = fixture(&std::env::var("FORMAT").unwrap());
    assert!(!target.exists(), "fixtures are never changed");
    let dir = tempfile::tempdir().unwrap();
    let manager = Manager::start_with(dir.path(), "a", "127.0.0.1:0", small).await;
    manager.store.bootstrap(content(objects::cluster_with_snapshots(20, 0, 5))).await.unwrap();
    for number in 0..NODES {
        create_node(&manager.store, &format!("node{number}")).await;
    }
    let change = |tx: &mut Transaction| {
        let node = proto::model::Node::clone(tx.node(&"node0".into()).unwrap());
        tx.update(node);
        let meta = tx.cluster().unwrap().meta;
        tx.update(Cluster { meta, ..objects::cluster() });
        Ok::<_, std::convert::Infallible>(())
    };
    manager.store.update(change).await.unwrap();
    let written = dir.path().join("a");
    let files = || std::fs::read_dir(&written).unwrap().map(|file| file.unwrap().path());
    let has =
        |start: &str| files().any(|path| path.file_name().unwrap().to_str().unwrap().starts_with(start));
    eventually("a snapshot", || has("snapshot-0").then_some(())).await;
    manager.stop().await;
    std::fs::create_dir_all(&target).unwrap();
    for path in files() {
        std::fs::copy(&path, target.join(path.file_name().unwrap())).unwrap();
    }
}
