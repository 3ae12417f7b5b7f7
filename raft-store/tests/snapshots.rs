//! When snapshots are taken, how many are kept, and what the older ones are good for.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Manager, Tcp, create_node, eventually, files, group, has_node, objects, set_snapshots};
use raft_store::{Options, Store};

/// Those that count.
fn snapshots(dir: &Path, manager: &str) -> Vec<PathBuf> {
    let mut paths = files(dir, manager, "snapshot-");
    paths.retain(|path| path.extension().is_none());
    paths
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_count_at_once_on_every_manager() {
    let dir = tempfile::tempdir().unwrap();
    let managers = group(dir.path(), &["a", "b", "c"]).await;
    let have = async |count: usize| {
        for manager in &managers {
            let what = format!("{count} snapshots on {}", manager.name);
            let have = || (snapshots(dir.path(), &manager.name).len() == count).then_some(());
            eventually(&what, have).await;
        }
    };
    for number in 0..30 {
        create_node(&managers[1].store, &format!("node{number}")).await;
    }
    have(0).await;
    set_snapshots(&managers[1].store, 10, 2, 0).await;
    have(1).await;
    for number in 30..90 {
        create_node(&managers[1].store, &format!("node{number}")).await;
    }
    have(3).await;
    set_snapshots(&managers[2].store, 1_000_000, 1, 0).await;
    have(2).await;
    set_snapshots(&managers[2].store, 1_000_000, 0, 0).await;
    have(1).await;
}

async fn open(dir: &Path) -> Result<Store, String> {
    let options = Options::new(dir.join("a"), "a".into(), "127.0.0.1:0".into(), Arc::new(Tcp("a".into())));
    Store::open(options).await.map_err(|error| error.to_string())
}

/// One byte in the middle.
fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

async fn written(dir: &Path, older: u64) {
    let manager = Manager::start(dir, "a").await;
    let cluster = objects::cluster_with_snapshots(10, older, 0);
    manager.store.bootstrap(vec![cluster.into()]).await.unwrap();
    for number in 0..60 {
        create_node(&manager.store, &format!("node{number}")).await;
    }
    let kept = older as usize + 1;
    eventually("all snapshots", || (snapshots(dir, "a").len() == kept).then_some(())).await;
    manager.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_is_replaced_by_an_older_one_and_the_log() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), 2).await;
    let kept = snapshots(dir.path(), "a");
    damage(&kept[2]);
    damage(&kept[1]);
    let manager = Manager::start(dir.path(), "a").await;
    for number in 0..60 {
        has_node(&manager.store, &format!("node{number}")).await;
    }
    assert_eq!(manager.store.view().flaws(), []);
    let aside: Vec<_> = kept[1..].iter().map(|path| path.with_extension("damaged")).collect();
    assert!(aside.iter().all(|path| path.exists()) && !kept[1].exists());
    // Until there is a newer one.
    for number in 60..100 {
        create_node(&manager.store, &format!("node{number}")).await;
    }
    eventually("nothing that is damaged", || (!aside.iter().any(|path| path.exists())).then_some(())).await;
    manager.stop().await;
    let manager = Manager::start(dir.path(), "a").await;
    has_node(&manager.store, "node99").await;
    manager.stop().await;

    // All of them: nothing is changed, and the newest is named.
    let kept = snapshots(dir.path(), "a");
    kept.iter().for_each(|path| damage(path));
    let refused = open(dir.path()).await.err().unwrap();
    let newest = kept.last().unwrap().display().to_string();
    assert!(refused.contains(&newest) && refused.contains("damaged"), "{refused}");
    assert_eq!(snapshots(dir.path(), "a"), kept);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_without_an_older_one_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), 0).await;
    let kept = snapshots(dir.path(), "a");
    damage(&kept[0]);
    let refused = open(dir.path()).await.err().unwrap();
    assert!(refused.contains(&kept[0].display().to_string()) && refused.contains("damaged"), "{refused}");
}
