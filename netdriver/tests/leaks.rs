//! Descriptors and mounts, counted in a process in which nothing else runs.

#![allow(clippy::unwrap_used, reason = "tests")]

mod lab;

use lab::*;
use netdriver::{Desired, SandboxKey, Scope};

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
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
