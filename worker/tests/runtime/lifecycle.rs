//! From creation to removal.

use std::path::Path;
use std::time::{Duration, Instant};

use worker::logs::LogSource;
use worker::runtime::{ContainerConfig, Error, Runtime, Signal, Status};

use crate::node::{Node, soon};

#[tokio::test(flavor = "multi_thread")]
async fn a_container_runs_ends_and_leaves_nothing() {
    let node = Node::start().await;
    let runtime = node.runtime();
    let mut config = node.script("life", "echo out; echo err >&2; exit 7");
    config.labels.insert("a.b".into(), "x".repeat(10_000));
    runtime.create(&config).await.unwrap();
    let state = runtime.inspect("life").await.unwrap().unwrap();
    assert_eq!((state.status, &state.labels), (Status::Created, &config.labels));
    assert!(matches!(runtime.create(&config).await, Err(Error::Exists { .. })));
    assert!(matches!(runtime.wait("life").await, Err(Error::NotRunning { .. })));

    runtime.start("life").await.unwrap();
    let exit = soon(runtime.wait("life")).await.unwrap();
    assert_eq!((exit.code, exit.oom), (7, false));
    let listed = runtime.list().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].status, Status::Exited(exit));
    assert!(matches!(runtime.kill("life", Signal::TERM).await, Err(Error::NotRunning { .. })));
    runtime.stop("life", None, Duration::ZERO).await.unwrap();

    runtime.remove("life").await.unwrap();
    runtime.remove("life").await.unwrap();
    assert_eq!(runtime.list().await.unwrap(), []);
    assert!(matches!(runtime.wait("life").await, Err(Error::NoSuchContainer { .. })));
    assert_eq!(node.place.mounts(), Vec::<std::path::PathBuf>::new());
    let processes = node.place.processes();
    assert_eq!(processes, [runtime.containerd_pid().unwrap()]);

    let lines = node.output("life").await;
    let mut found: Vec<_> = lines.iter().map(|line| (line.source, line.data.as_slice())).collect();
    found.sort_by_key(|(source, _)| *source == LogSource::Stderr);
    assert_eq!(found, [(LogSource::Stdout, &b"out\n"[..]), (LogSource::Stderr, b"err\n")]);
    runtime.remove_logs("life").await.unwrap();
    assert_eq!(node.output("life").await, []);
    assert!(!node.config.data_root.join("containers/life").exists());
    runtime.shutdown().await;
    assert_eq!(node.place.processes(), Vec::<u32>::new());
}

/// As it is left where the OCI runtime was killed when it had made the group and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_control_group_without_a_task_goes_with_its_container() {
    let node = Node::start().await;
    let runtime = node.runtime();
    runtime.create(&node.script("early", "true")).await.unwrap();
    let group = Path::new("/sys/fs/cgroup/pids").join(node.config.cgroup_parent.trim_start_matches('/'));
    std::fs::create_dir_all(group.join("early")).unwrap();
    runtime.remove("early").await.unwrap();
    assert!(!group.join("early").exists());
    runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping() {
    let node = Node::start().await;
    let runtime = node.runtime();
    let trapping = |id: &str, signal: &str| {
        node.script(
            id,
            &format!("trap 'echo got {signal}; exit 3' {signal}; echo ready; while :; do sleep 0.1; done"),
        )
    };
    let stop = async |config: ContainerConfig, signal: Option<Signal>, grace: u64| {
        node.start_container(&config).await;
        node.wrote(&config.id, "ready").await;
        let begun = Instant::now();
        soon(runtime.stop(&config.id, signal, Duration::from_secs(grace))).await.unwrap();
        let code = runtime.wait(&config.id).await.unwrap().code;
        (code, begun.elapsed() < Duration::from_secs(5))
    };
    // The image's signal, the container's, the caller's.
    assert_eq!(stop(trapping("image", "USR1"), None, 30).await, (3, true));
    let own = ContainerConfig { stop_signal: Some("INT".parse().unwrap()), ..trapping("own", "INT") };
    assert_eq!(stop(own, None, 30).await, (3, true));
    assert_eq!(stop(trapping("given", "TERM"), Some(Signal::TERM), 30).await, (3, true));
    // Ones that do not listen.
    assert_eq!(stop(trapping("deaf", "TERM"), Some("HUP".parse().unwrap()), 0).await, (137, true));
    let deaf = node.script("deafer", "trap '' TERM; echo ready; while :; do sleep 0.1; done");
    assert_eq!(stop(deaf, Some(Signal::TERM), 1).await, (137, true));
    // Removal of one that runs.
    node.start_container(&node.script("running", "sleep 1000")).await;
    soon(runtime.remove("running")).await.unwrap();
    assert!(matches!(
        runtime.stop("running", None, Duration::ZERO).await,
        Err(Error::NoSuchContainer { .. })
    ));
    runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_at_once() {
    let node = Node::start().await;
    let ids: Vec<String> = (0..20).map(|number| format!("many-{number}")).collect();
    let run = async |id: &String| {
        let config = node.script(id, "cat /etc/marker; exit 5");
        let (exit, lines) = node.run(&config).await;
        node.runtime().remove(id).await.unwrap();
        (exit.code, lines.len())
    };
    let outcomes = futures_util::future::join_all(ids.iter().map(run)).await;
    assert_eq!(outcomes, [(5, 1)].repeat(20));
    assert_eq!(node.runtime().list().await.unwrap(), []);
    node.runtime().shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_waits_keeps_its_image() {
    let node = Node::start().await;
    let config = node.script("waiting", "echo here");
    node.runtime().create(&config).await.unwrap();
    // Collects what nothing refers to before it returns.
    node.runtime().remove_image(&config.image).await.unwrap();
    node.runtime().start("waiting").await.unwrap();
    assert_eq!(soon(node.runtime().wait("waiting")).await.unwrap().code, 0);
    node.runtime().shutdown().await;
}
