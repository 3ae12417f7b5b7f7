//! Which nodes tasks go to, and what is told when there is none.

use std::collections::BTreeMap;
use std::time::Duration;

use manager::allocator::Allocator;
use manager::orchestrator::Orchestrator;
use manager::scheduler::Scheduler;
use proto::model::*;

use crate::support::*;

async fn scheduled(world: &World, service: Service) {
    world.put(service).await;
    settle(world).await;
}

async fn settle(world: &World) {
    world.settle(&Orchestrator).await;
    world.settle(&Allocator).await;
    world.settle(&Scheduler).await;
}

/// Live tasks by node.
fn spread(world: &World, service: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for task in world.live(service) {
        *counts.entry(task.node.as_ref().map_or("none", NodeId::as_str).into()).or_default() += 1;
    }
    counts
}

fn counts(pairs: &[(&str, usize)]) -> BTreeMap<String, usize> {
    pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

#[tokio::test(start_paused = true)]
async fn tasks_spread_over_nodes_first_of_their_service_then_of_all() {
    let world = World::with_nodes(3).await;
    scheduled(&world, service("a", 7)).await;
    assert_eq!(spread(&world, "a").into_values().collect::<Vec<_>>().iter().max(), Some(&3));
    scheduled(&world, service("b", 2)).await;
    let (a, b) = (spread(&world, "a"), spread(&world, "b"));
    assert_eq!(b.len(), 2);
    assert!(b.keys().all(|node| a[node] == 2), "b avoids the node with three tasks: {a:?} {b:?}");
    let assigned = world.live("a");
    assert!(assigned.iter().all(|task| task.status.state == TaskState::Assigned));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_fits_nowhere_says_why_and_only_when_that_changes() {
    let world = World::with_nodes(4).await;
    world.change_node("n1", |node| node.spec.availability = Availability::Drain).await;
    world.change_node("n2", |node| node.status.state = NodeState::Down).await;
    world
        .change_node("n3", |node| {
            node.spec.annotations.labels.insert("zone".into(), "east".into());
        })
        .await;
    let mut web = service("web", 2);
    task_spec_of(&mut web).placement.constraints = vec!["node.labels.zone==east".into()];
    task_spec_of(&mut web).reservations.memory_bytes = 9 << 30;
    scheduled(&world, web).await;
    let err = "no suitable node (2 nodes not available for new tasks; \
               scheduling constraints not satisfied on 1 node; insufficient memory on 1 node)";
    for task in world.live("web") {
        assert_eq!((task.status.state, task.status.err.as_str()), (TaskState::Pending, err));
    }
    assert_eq!(world.settle(&Scheduler).await, 0);
    world.change_node("n3", |node| node.description.as_mut().unwrap().memory_bytes = 18 << 30).await;
    assert_eq!(world.settle(&Scheduler).await, 2);
    assert_eq!(spread(&world, "web"), counts(&[("n3", 2)]));
}

#[tokio::test(start_paused = true)]
async fn nodes_are_never_promised_more_than_they_have() {
    let world = World::with_nodes(2).await;
    let mut web = service("web", 5);
    task_spec_of(&mut web).reservations.nano_cpus = 2_000_000_000;
    scheduled(&world, web).await;
    assert_eq!(spread(&world, "web"), counts(&[("n1", 2), ("n2", 2), ("none", 1)]));
    let waiting = world.live("web").into_iter().find(|task| task.node.is_none()).unwrap();
    assert_eq!(waiting.status.err, "no suitable node (insufficient CPUs on 2 nodes)");
    // Stopping is not enough: the task must have ended.
    let other = world.live("web").into_iter().find(|task| task.node.is_some()).unwrap();
    world.change_task(&other.id, |task| task.desired = TaskState::Shutdown).await;
    assert_eq!(world.settle(&Scheduler).await, 0);
    world.observe(&other.id, TaskState::Shutdown).await;
    assert_eq!(world.settle(&Scheduler).await, 1);
}

#[tokio::test(start_paused = true)]
async fn platform_plugins_and_the_most_replicas_per_node_are_respected() {
    let world = World::with_nodes(3).await;
    world
        .change_node("n1", |node| node.description.as_mut().unwrap().platform.architecture = "aarch64".into())
        .await;
    world
        .change_node("n2", |node| {
            node.description.as_mut().unwrap().engine.plugins = vec![("Network".into(), "bridge".into())];
        })
        .await;
    world.put(network("net", &[])).await;
    let mut web = service("web", 2);
    attach(&mut web, "net");
    let placement = &mut task_spec_of(&mut web).placement;
    placement.platforms = vec![Platform { architecture: "amd64".into(), os: "linux".into() }];
    placement.max_replicas = 1;
    scheduled(&world, web).await;
    assert_eq!(spread(&world, "web"), counts(&[("n3", 1), ("none", 1)]));
    let err = "no suitable node (unsupported platform on 1 node; missing network plugin on 1 node; \
               max replicas per node reached on 1 node)";
    assert!(world.live("web").iter().any(|task| task.status.err == err));
}

#[tokio::test(start_paused = true)]
async fn preferences_spread_over_labels_before_nodes() {
    let world = World::with_nodes(4).await;
    for (node, zone) in [("n1", "east"), ("n2", "west"), ("n3", "west"), ("n4", "west")] {
        world
            .change_node(node, |node| {
                node.spec.annotations.labels.insert("zone".into(), zone.into());
            })
            .await;
    }
    let mut web = service("web", 6);
    task_spec_of(&mut web).placement.preferences = vec![Preference::Spread("node.labels.zone".into())];
    scheduled(&world, web).await;
    assert_eq!(spread(&world, "web"), counts(&[("n1", 3), ("n2", 1), ("n3", 1), ("n4", 1)]));
}

#[tokio::test(start_paused = true)]
async fn a_node_on_which_the_service_keeps_failing_comes_last() {
    let world = World::with_nodes(2).await;
    let mut web = service("web", 1);
    task_spec_of(&mut web).restart.delay = Duration::ZERO;
    scheduled(&world, web).await;
    let first = world.live("web")[0].node.clone();
    for _ in 0..5 {
        let task = &world.live("web")[0];
        assert_eq!(task.node, first);
        world.observe(&task.id, TaskState::Failed).await;
        settle(&world).await;
    }
    assert_ne!(world.live("web")[0].node, first);
}

#[tokio::test(start_paused = true)]
async fn a_task_of_a_global_service_is_checked_on_its_own_node_only() {
    let world = World::with_nodes(2).await;
    world.change_node("n1", |node| node.description.as_mut().unwrap().memory_bytes = 1 << 20).await;
    let mut agent = service("agent", 0);
    spec_of(&mut agent).mode = Mode::Global;
    task_spec_of(&mut agent).reservations.memory_bytes = 1 << 30;
    scheduled(&world, agent).await;
    let states: Vec<_> = world.live("agent").iter().map(|t| (t.status.state, t.status.err.clone())).collect();
    assert_eq!(
        states,
        [
            (TaskState::Pending, "no suitable node (insufficient memory on 1 node)".to_owned()),
            (TaskState::Assigned, String::new()),
        ]
    );
}

/// Says what kernels lack, if they do.
async fn lack(world: &World, node: &str, what: &str) {
    world
        .change_node(node, |node| {
            let description = node.description.as_mut().unwrap();
            description.engine.labels.insert(ENCRYPTION_LABEL.into(), what.into());
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn tasks_on_encrypted_networks_avoid_kernels_that_cannot_encrypt_and_say_what_is_missing() {
    let world = World::with_nodes(3).await;
    lack(&world, "n1", "").await;
    lack(&world, "n2", "ESP, AES-GCM (rfc4106)").await;
    let mut sealed = network("sealed", &[]);
    sealed.spec.driver.options.insert(ENCRYPTED.into(), String::new());
    world.put(sealed).await;
    let mut web = service("web", 4);
    attach(&mut web, "sealed");
    scheduled(&world, web).await;
    assert_eq!(spread(&world, "web"), counts(&[("n1", 2), ("n3", 2)]), "n3 has not said what it lacks");

    lack(&world, "n1", "ESP").await;
    lack(&world, "n3", "IPsec (XFRM)").await;
    let mut late = service("late", 1);
    attach(&mut late, "sealed");
    scheduled(&world, late).await;
    let told = "no suitable node (the kernel lacks AES-GCM (rfc4106), ESP, IPsec (XFRM) for encrypted networks on 3 nodes)";
    assert_eq!(world.live("late")[0].status.err, told);
}
