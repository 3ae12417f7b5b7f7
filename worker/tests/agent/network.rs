//! When a task's network counts as complete, and what of the kernel is left alone.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use netdriver::{Desired, NetworkKey, SandboxKey, Scope, Subject};
use proto::network::network_update::Kind;
use proto::network::{NetworkDirectory, NetworkUpdate, WatchResponse};
use proto::wire::TaskState;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use worker::network::{Keeper, Kernel, Networks, Underlay, Wish};
use worker::runtime::fake::Call;

use super::kernel::FakeKernel;
use super::lab::{self, Node, endpoint, holds, task};
use super::manager::Manager;

const UNDERLAY: &str = "192.0.2.1 4789";

struct Actor {
    networks: Networks,
    _running: JoinSet<()>,
}

fn actor(kernel: Arc<dyn Kernel>, underlay: Option<Underlay>) -> Actor {
    let (networks, run) =
        Networks::new(kernel, "n1".into(), underlay, Keeper::none(), CancellationToken::new());
    let mut running = JoinSet::new();
    running.spawn(run);
    Actor { networks, _running: running }
}

fn wish(id: &str, host: u8) -> Wish {
    Wish::read(&task(id, host)).unwrap()
}

fn complete(peers: &[(&str, u8)]) -> WatchResponse {
    let endpoints = peers.iter().map(|(task, host)| endpoint(task, "n2", "192.0.2.2", *host)).collect();
    let directory = NetworkDirectory { endpoints, ..Default::default() };
    let kind = Some(Kind::Complete(directory));
    let update = NetworkUpdate { network_id: "net1".into(), index: 1, kind, confirm: false };
    WatchResponse { updates: vec![update], moment: None }
}

fn peers(world: &Desired) -> Vec<String> {
    world.networks.values().flat_map(|overlay| overlay.peers.keys()).map(ToString::to_string).collect()
}

#[tokio::test]
async fn a_task_starts_only_once_the_directory_of_its_network_is_in_the_kernel() {
    let (node, manager) = (Node::new(), Manager::start("m1").await);
    manager.told.silent_directory.store(true, Ordering::Relaxed);
    manager.assign(vec![task("t1", 3)]);
    let worker = node.start(&[&manager]);
    manager.reported("t1", TaskState::Preparing).await;
    holds("made", || node.runtime.config("t1").is_some()).await;
    assert!(node.runtime.calls().iter().all(|(call, _)| *call != Call::Start));
    worker.stop().await;

    manager.told.silent_directory.store(false, Ordering::Relaxed);
    manager.endpoints(vec![endpoint("t9", "n2", "192.0.2.2", 4)]);
    let worker = node.start(&[&manager]);
    manager.reported("t1", TaskState::Running).await;
    assert_eq!(peers(&node.kernel.world()), ["t9"]);
    manager.endpoints(vec![endpoint("t8", "n2", "192.0.2.2", 5)]);
    node.kernel.until("new peer", |world| peers(world) == ["t8"]).await;
    worker.stop().await;
}

#[tokio::test]
async fn what_is_kept_is_left_alone_until_the_directory_is_known() {
    let kernel = FakeKernel::new();
    let before = actor(kernel.clone(), None);
    before.networks.begin(Underlay::parse(UNDERLAY).unwrap());
    before.networks.update(complete(&[("t9", 4)])).await.unwrap();
    before.networks.attach("t1".into(), wish("t1", 3)).await.unwrap();
    let world = kernel.world();
    drop(before);
    kernel.put(Desired {
        sandboxes: world
            .sandboxes
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()))
            .chain([(SandboxKey::new("stray"), netdriver::Sandbox::default())])
            .collect(),
        ..world
    });

    let after = actor(kernel.clone(), Underlay::parse(UNDERLAY));
    after.networks.keep("t1".into(), wish("t1", 3));
    after.networks.settle();
    let (networks, attached) = (after.networks.clone(), wish("t2", 5));
    let mut attaching = JoinSet::new();
    attaching.spawn(async move { networks.attach("t2".into(), attached).await });
    // Something that needs no directory comes through and shows that the rest waits.
    after.networks.detach("gone".into(), Wish::default()).await.unwrap();
    assert_eq!(peers(&kernel.world()), ["t9"]);
    assert!(kernel.world().sandboxes.contains_key(&SandboxKey::new("stray")));
    assert!(!kernel.world().sandboxes.contains_key(&SandboxKey::new("t2")));

    after.networks.begin(Underlay::parse(UNDERLAY).unwrap());
    after.networks.update(complete(&[("t7", 6)])).await.unwrap();
    attaching.join_next().await.unwrap().unwrap().unwrap();
    kernel.until("stray gone", |world| !world.sandboxes.contains_key(&SandboxKey::new("stray"))).await;
    assert_eq!(peers(&kernel.world()), ["t7"]);
    assert_eq!(kernel.world().sandboxes.len(), 2);
}

#[tokio::test]
async fn the_last_task_takes_the_network_with_it() {
    let kernel = FakeKernel::new();
    let node = actor(kernel.clone(), None);
    node.networks.begin(Underlay::parse(UNDERLAY).unwrap());
    node.networks.update(complete(&[])).await.unwrap();
    for (id, host) in [("t1", 3), ("t2", 4)] {
        node.networks.attach(id.into(), wish(id, host)).await.unwrap();
    }
    node.networks.detach("t1".into(), wish("t1", 3)).await.unwrap();
    assert!(kernel.world().networks.contains_key(&NetworkKey::new("net1")));
    node.networks.detach("t2".into(), wish("t2", 4)).await.unwrap();
    assert_eq!(kernel.world(), Desired::default());
}

#[tokio::test]
async fn failures_are_answered_for_sandboxes_and_repeated_for_networks() {
    let kernel = FakeKernel::new();
    let node = actor(kernel.clone(), None);
    node.networks.begin(Underlay::parse(UNDERLAY).unwrap());
    node.networks.update(complete(&[])).await.unwrap();
    let refusal = (Subject::Sandbox(SandboxKey::new("t1")), "no buffer space".to_owned());
    kernel.faults.lock().unwrap().push(refusal.clone());
    let refused = node.networks.attach("t1".into(), wish("t1", 3)).await.unwrap_err();
    assert_eq!(refused.to_string(), "network: no buffer space");
    kernel.faults.lock().unwrap().push(refusal);
    node.networks.detach("t1".into(), wish("t1", 3)).await.unwrap_err();
    node.networks.detach("t1".into(), wish("t1", 3)).await.unwrap();

    node.networks.attach("t2".into(), wish("t2", 4)).await.unwrap();
    let refusal = (Subject::Network(NetworkKey::new("net1")), "busy".to_owned());
    kernel.faults.lock().unwrap().push(refusal);
    node.networks.update(complete(&[("t9", 9)])).await.unwrap();
    kernel.until("peer after another attempt", |world| peers(world) == ["t9"]).await;
}

#[tokio::test(start_paused = true)]
async fn the_node_is_looked_at_now_and_then_and_mending_is_counted() {
    let kernel = FakeKernel::new();
    let node = actor(kernel.clone(), None);
    node.networks.begin(Underlay::parse(UNDERLAY).unwrap());
    node.networks.update(complete(&[])).await.unwrap();
    node.networks.attach("t1".into(), wish("t1", 3)).await.unwrap();
    node.networks.settle();
    let all = |passes: &Vec<Scope>| passes.iter().filter(|scope| **scope == Scope::All).count();
    lab::seen(&kernel.passes, "first look", |passes| (all(passes) == 1).then_some(())).await;
    kernel.put(Desired::default());
    tokio::time::sleep(Duration::from_secs(61)).await;
    kernel.until("mended", |world| world.sandboxes.len() == 1).await;
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(node.networks.mended(), 1, "a pass that finds all in order counts nothing");
}

#[tokio::test]
async fn an_audit_that_is_asked_for_counts_only_what_nobody_had_to_do() {
    let kernel = FakeKernel::new();
    let node = actor(kernel.clone(), None);
    node.networks.begin(Underlay::parse(UNDERLAY).unwrap());
    node.networks.keep("t1".into(), wish("t1", 3));
    node.networks.settle();
    // The first look waits for the directory, and what it then has to do is no mending.
    let telling = async {
        tokio::task::yield_now().await;
        node.networks.update(complete(&[])).await.unwrap();
    };
    let (audited, ()) = tokio::join!(node.networks.audit(), telling);
    assert_eq!(audited.unwrap(), [""; 0]);
    kernel.put(Desired::default());
    assert_eq!(node.networks.audit().await.unwrap().len(), 1);
    assert_eq!(node.networks.audit().await.unwrap(), [""; 0]);
    assert_eq!(node.networks.mended(), 1);

    let refusal = (Subject::Network(NetworkKey::new("net1")), "busy".to_owned());
    kernel.faults.lock().unwrap().push(refusal);
    let told = node.networks.audit().await.unwrap_err().to_string();
    assert_eq!(told, "network: network net1: busy");
}
