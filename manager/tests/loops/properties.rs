//! Whatever state the swarm is in: each planner comes to rest in one step, and what it leaves is sound.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use manager::allocator::Allocator;
use manager::orchestrator::{Orchestrator, Reaper};
use manager::scheduler::Scheduler;
use proptest::prelude::*;
use proto::model::*;

use crate::support::*;

const NODES: usize = 4;

#[derive(Clone, Debug)]
struct Given {
    global: bool,
    replicas: u64,
    order: UpdateOrder,
    parallelism: u64,
    condition: RestartCondition,
    max_attempts: u64,
    nodes: Vec<(NodeState, Availability)>,
    tasks: Vec<GivenTask>,
}

#[derive(Clone, Debug)]
struct GivenTask {
    slot: u64,
    node: Option<usize>,
    old: bool,
    observed: TaskState,
    desired: TaskState,
}

fn given_task() -> impl Strategy<Value = GivenTask> {
    let observed = prop::sample::select(vec![
        TaskState::New,
        TaskState::Pending,
        TaskState::Assigned,
        TaskState::Ready,
        TaskState::Running,
        TaskState::Running,
        TaskState::Complete,
        TaskState::Shutdown,
        TaskState::Failed,
        TaskState::Rejected,
        TaskState::Orphaned,
    ]);
    let desired = prop::sample::select(vec![
        TaskState::Ready,
        TaskState::Running,
        TaskState::Running,
        TaskState::Shutdown,
        TaskState::Remove,
    ]);
    (1..6u64, prop::option::weighted(0.8, 0..NODES), any::<bool>(), observed, desired).prop_map(
        |(slot, node, old, observed, desired)| {
            let node = if observed >= TaskState::Assigned { node.or(Some(0)) } else { None };
            GivenTask { slot, node, old, observed, desired }
        },
    )
}

fn given() -> impl Strategy<Value = Given> {
    let state =
        prop::sample::select(vec![NodeState::Ready, NodeState::Ready, NodeState::Down, NodeState::Unknown]);
    let availability = prop::sample::select(vec![
        Availability::Active,
        Availability::Active,
        Availability::Pause,
        Availability::Drain,
    ]);
    let order = prop::sample::select(vec![UpdateOrder::StopFirst, UpdateOrder::StartFirst]);
    let condition = prop::sample::select(vec![
        RestartCondition::Any,
        RestartCondition::None,
        RestartCondition::OnFailure,
    ]);
    let nodes = prop::collection::vec((state, availability), NODES);
    let tasks = prop::collection::vec(given_task(), 0..14);
    (any::<bool>(), 0..6u64, order, 0..4u64, condition, 0..3u64, nodes, tasks).prop_map(
        |(global, replicas, order, parallelism, condition, max_attempts, nodes, tasks)| Given {
            global,
            replicas,
            order,
            parallelism,
            condition,
            max_attempts,
            nodes,
            tasks,
        },
    )
}

fn wanted_service(given: &Given) -> Service {
    let mut web = service("web", given.replicas);
    if given.global {
        spec_of(&mut web).mode = Mode::Global;
    }
    spec_of(&mut web).update.order = given.order;
    spec_of(&mut web).update.parallelism = given.parallelism;
    task_spec_of(&mut web).restart.condition = given.condition;
    task_spec_of(&mut web).restart.max_attempts = given.max_attempts;
    attach(&mut web, "net");
    web.spec_version = 2;
    web
}

async fn build(given: &Given) -> World {
    let world = World::with_nodes(NODES).await;
    world.put(network("net", &["10.0.9.0/28"])).await;
    let web = wanted_service(given);
    world.put(web.clone()).await;
    for (n, (state, availability)) in given.nodes.iter().enumerate() {
        world
            .change_node(&format!("n{}", n + 1), |node| {
                (node.status.state, node.spec.availability) = (*state, *availability);
            })
            .await;
    }
    for (n, task) in given.tasks.iter().enumerate() {
        tokio::time::advance(Duration::from_secs(7)).await;
        let mut spec = TaskSpec::clone(&web.spec.task);
        if task.old {
            spec.container.image = "old".into();
        }
        let node = task.node.map(|n| NodeId::from(format!("n{}", n + 1)));
        let global_node = node.clone().or_else(|| Some(NodeId::from("n1")));
        world
            .put(Task {
                id: format!("given{n:02}").into(),
                meta: Meta::default(),
                spec: Arc::new(spec),
                spec_version: if task.old { 1 } else { 2 },
                service: web.id.clone(),
                slot: Slot(if given.global { 0 } else { task.slot }),
                node: if given.global { global_node } else { node },
                annotations: Annotations::default(),
                service_annotations: Annotations::default(),
                status: TaskStatus::new(task.observed, "given", world.now()),
                desired: task.desired,
                attachments: Vec::new(),
                endpoint: None,
                log_driver: None,
            })
            .await;
    }
    world
}

/// Live tasks of each place, by whether they are of the old spec.
fn places(world: &World) -> BTreeMap<(Slot, Option<NodeId>), Vec<bool>> {
    let mut places: BTreeMap<_, Vec<bool>> = BTreeMap::new();
    for task in world.live("web") {
        let node = task.node.clone().filter(|_| task.slot == Slot(0));
        places.entry((task.slot, node)).or_default().push(task.spec_version == 1);
    }
    places
}

/// Tasks that are told to run, and may, in one place: with stop-first never two.
fn told_to_run(world: &World) -> usize {
    let view = world.store.view();
    let mut counts: BTreeMap<(Slot, Option<NodeId>), usize> = BTreeMap::new();
    for task in view.tasks() {
        let up =
            task.node.as_ref().and_then(|id| view.node(id)).is_none_or(|n| n.status.state != NodeState::Down);
        let given = task.id.as_str().starts_with("given");
        let runs = task.desired == TaskState::Running && !task.status.state.is_terminal() && !given;
        let stops = task.desired > TaskState::Running
            && (TaskState::Assigned..=TaskState::Running).contains(&task.status.state)
            && up;
        if runs || stops {
            let node = task.node.clone().filter(|_| task.slot == Slot(0));
            let count = counts.entry((task.slot, node)).or_default();
            // However many were left to stop: they count once.
            *count = if runs { *count + 10 } else { (*count).max(1) };
        }
    }
    counts.into_values().max().unwrap_or_default()
}

async fn check(given: Given) {
    let world = build(&given).await;
    tokio::time::advance(Duration::from_secs(7)).await;
    let before: SystemTime = world.now();
    world.settle(&Orchestrator).await;
    assert_eq!(world.now(), before, "planning takes no time");
    let places = places(&world);
    if !given.global {
        let limit = usize::try_from(given.replicas).unwrap();
        assert!(places.len() <= limit, "{places:?}");
        if given.condition == RestartCondition::Any && given.max_attempts == 0 {
            assert_eq!(places.len(), limit);
        }
    }
    for live in places.values() {
        let old = live.iter().filter(|old| **old).count();
        assert!(old <= 1 && live.len() - old <= 1, "{places:?}");
    }
    if given.order == UpdateOrder::StopFirst {
        assert!(
            told_to_run(&world) <= 10,
            "a new task runs beside one that stops: {:#?}",
            world.tasks("web")
        );
    }
    world.settle(&Allocator).await;
    world.settle(&Scheduler).await;
    world.settle(&Reaper).await;
    assert!(world.actions(&Orchestrator).is_empty(), "what was reaped is missed");
    assert!(world.actions(&Allocator).is_empty());
    let mut seen = BTreeSet::new();
    for address in world.tasks("web").iter().flat_map(|task| addresses_of(task)) {
        assert!(seen.insert(address.clone()), "{address} has two holders");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn planners_come_to_rest_and_leave_sound_services(given in given()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(check(given));
    }
}
