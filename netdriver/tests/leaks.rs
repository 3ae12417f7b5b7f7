//! Descriptors and mounts, counted in a process in which nothing else runs.

#![allow(clippy::unwrap_used, reason = "tests")]

mod lab;

use lab::*;
use netdriver::{Config, Desired, Netdriver, SandboxKey, Scope};

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// One test, so that nothing else runs meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_leaked() {
    coming_and_going_leaks_nothing().await;
    copies_of_mounts_keep_no_namespace_alive().await;
    a_node_that_leaves_gives_up_its_directory().await;
}

async fn coming_and_going_leaks_nothing() {
    let (hosts, _switch) = hosts(1).await;
    let host = &hosts[0];
    let mut desired = joined(&hosts, "red", 9).remove(0);
    desired.sandboxes.values_mut().for_each(|sandbox| sandbox.outbound = true);
    ensure_all(host, &desired).await;
    let (sandbox, key) = (desired.sandboxes[&"t0".into()].clone(), SandboxKey::new("t1"));
    let round = async |desired: &mut Desired| {
        desired.sandboxes.insert(key.clone(), sandbox.clone());
        ensure(host, desired, Scope::sandbox(key.clone())).await;
        desired.sandboxes.remove(&key);
        ensure(host, desired, Scope::sandbox(key.clone())).await;
    };
    round(&mut desired).await;
    let before = descriptors();
    for _ in 0..100 {
        round(&mut desired).await;
    }
    eventually("all sockets and namespaces are closed", || descriptors() <= before).await;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let dir = host.dir().to_string_lossy().into_owned();
    let count = mounts.lines().filter(|line| line.contains(&dir)).count();
    assert_eq!(count, 3, "the directory, the network and one sandbox");
}

/// A shim or a container's start copies all mounts of the host.
async fn copies_of_mounts_keep_no_namespace_alive() {
    let (hosts, _switch) = hosts(1).await;
    let host = &hosts[0];
    ensure_all(host, &joined(&hosts, "red", 9).remove(0)).await;
    let mut copy = std::process::Command::new("unshare").args(["-m", "sleep", "60"]).spawn().unwrap();
    let path = host.driver.sandbox_path(&"t0".into()).to_string_lossy().into_owned();
    let mounts = || std::fs::read_to_string(format!("/proc/{}/mountinfo", copy.id())).unwrap();
    let private = || std::fs::read_link(format!("/proc/{}/ns/mnt", copy.id())).unwrap();
    let own = std::fs::read_link("/proc/self/ns/mnt").unwrap();
    eventually("the copy is made", || private() != own && mounts().contains(&path)).await;
    ensure_all(host, &Desired::default()).await;
    let left = mounts();
    copy.kill().unwrap();
    copy.wait().unwrap();
    assert!(!left.contains(&path), "{left}");
}

async fn a_node_that_leaves_gives_up_its_directory() {
    let dir = tempfile::Builder::new().prefix("nd-").tempdir().unwrap();
    let config = Config::new(dir.path().join("netns"));
    // Opened again, as by a restart.
    for _ in 0..2 {
        drop(Netdriver::open(config.clone()).await.unwrap());
    }
    Netdriver::open(config.clone()).await.unwrap().retire().unwrap();
    assert!(!config.netns_dir.exists());
}
