//! Containers go on when containerd or this process dies.

use std::time::Duration;

use nix::sys::signal::{Signal as Kill, kill};
use nix::unistd::Pid;
use worker::runtime::containerd::Containerd;
use worker::runtime::{Runtime, Status};

use crate::node::{Node, soon, until};

const COUNTING: &str = "i=0; while [ ! -e /tmp/stop ]; do i=$((i+1)); echo $i; sleep 0.05; done; exit 4";

#[tokio::test(flavor = "multi_thread")]
async fn containerd_is_killed_and_comes_back() {
    let node = Node::start().await;
    let runtime = node.runtime();
    let pid = node.start_container(&node.script("lives", COUNTING)).await;
    node.wrote("lives", "3").await;
    let old = runtime.containerd_pid().unwrap();
    let waiting = runtime.wait("lives");
    let crash = async {
        kill(Pid::from_raw(old.try_into().unwrap()), Kill::SIGKILL).unwrap();
        until("another containerd runs", || runtime.containerd_pid().is_some_and(|pid| pid != old)).await;
        soon(async {
            while runtime.list().await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        let state = runtime.inspect("lives").await.unwrap().unwrap();
        assert_eq!(state.status, Status::Running { pid });
        std::fs::write(format!("/proc/{pid}/root/tmp/stop"), "").unwrap();
    };
    let (exit, ()) = tokio::join!(soon(waiting), crash);
    assert_eq!(exit.unwrap().code, 4);
    let numbers: Vec<usize> = node
        .output("lives")
        .await
        .iter()
        .map(|line| String::from_utf8_lossy(&line.data).trim().parse().unwrap())
        .collect();
    assert_eq!(numbers, (1..=numbers.len()).collect::<Vec<_>>());
    runtime.remove("lives").await.unwrap();
    runtime.shutdown().await;
}

/// However far the start had come when it was given up, as by the death of the process that asked for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_broken_off_leaves_no_process() {
    let node = Node::start().await;
    let runtime = node.runtime();
    for delay_ms in (0..200).step_by(5) {
        let id = format!("broken-off-after-{delay_ms}");
        runtime.create(&node.script(&id, "sleep 1000")).await.unwrap();
        let _ = tokio::time::timeout(Duration::from_millis(delay_ms), runtime.start(&id)).await;
        soon(removed(&node, &id)).await;
    }
    nothing_runs(&node).await;
    runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_containerd_has_lost_is_ended() {
    let mut node = Node::start().await;
    for id in ["waited-for", "removed", "found"] {
        node.start_container(&node.script(id, "sleep 1000")).await;
        lose(&node, id);
    }
    let old = node.runtime().containerd_pid().unwrap();
    let waiting = async {
        let (exit, ()) = tokio::join!(node.runtime().wait("waited-for"), async {
            kill(Pid::from_raw(old.try_into().unwrap()), Kill::SIGKILL).unwrap();
            until("another containerd runs", || {
                node.runtime().containerd_pid().is_some_and(|pid| pid != old)
            })
            .await;
            removed(&node, "removed").await;
        });
        exit
    };
    assert_eq!(soon(waiting).await.unwrap().code, 137);
    let left: Vec<_> = node.runtime().list().await.unwrap().into_iter().map(|state| state.id).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert_eq!(shims(&node).len(), 1, "that of the one that nobody has looked at");

    node.runtime().shutdown().await;
    node.runtime = Some(Containerd::start(node.config.clone()).await.unwrap());
    nothing_runs(&node).await;
    node.runtime().shutdown().await;
}

/// As the runner of a task does: containerd may be away, or not yet done with what was broken off.
async fn removed(node: &Node, id: &str) {
    while node.runtime().remove(id).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Makes the next containerd know nothing of a container that runs.
fn lose(node: &Node, id: &str) {
    let tasks = node.config.exec_root.join("containerd/state/io.containerd.runtime.v2.task/swarm");
    std::fs::rename(tasks.join(id), node.place.root.join(id)).unwrap();
}

fn shims(node: &Node) -> Vec<u32> {
    let name = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    node.place.processes().into_iter().filter(|pid| name(pid).starts_with("containerd-shim")).collect()
}

async fn nothing_runs(node: &Node) {
    let containerd = node.runtime().containerd_pid().unwrap();
    until("only containerd is left", || node.place.processes() == [containerd]).await;
}

/// A process that is killed runs nothing more: here, its async runtime is dropped with everything in it.
#[test]
fn another_process_adopts_containerd_and_containers() {
    let mut node = Node::stopped();
    let start = || tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (first, config) = (start(), node.config.clone());
    let (old, pid) = first.block_on(async {
        let archive = crate::image::plain().oci_archive(crate::node::IMAGE);
        node.runtime = Some(Containerd::start(config).await.unwrap());
        node.runtime().load_image(Box::new(std::io::Cursor::new(archive))).await.unwrap();
        let pid = node.start_container(&node.script("adopted", COUNTING)).await;
        node.start_container(&node.script("ended", "exit 9")).await;
        soon(node.runtime().wait("ended")).await.unwrap();
        (node.runtime().containerd_pid().unwrap(), pid)
    });
    first.shutdown_timeout(Duration::ZERO);
    node.runtime = None;

    start().block_on(async {
        node.runtime = Some(Containerd::start(node.config.clone()).await.unwrap());
        let runtime = node.runtime();
        assert_eq!(runtime.containerd_pid(), Some(old));
        let mut states = runtime.list().await.unwrap();
        states.sort_by(|one, other| one.id.cmp(&other.id));
        assert_eq!(states[0].status, Status::Running { pid });
        assert!(matches!(&states[1].status, Status::Exited(exit) if exit.code == 9));
        std::fs::write(format!("/proc/{pid}/root/tmp/stop"), "").unwrap();
        assert_eq!(soon(runtime.wait("adopted")).await.unwrap().code, 4);
        // The adopted one is watched as well.
        kill(Pid::from_raw(old.try_into().unwrap()), Kill::SIGKILL).unwrap();
        until("another containerd runs", || runtime.containerd_pid().is_some_and(|pid| pid != old)).await;
        runtime.shutdown().await;
        assert_eq!(runtime.containerd_pid(), None);
    });
}
