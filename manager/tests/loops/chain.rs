//! All loops together, as the leader runs them, over workers that do what they are told.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use manager::leader;
use proto::model::*;
use raft_store::{Leadership, RaftId, Store, Tables, Term};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::*;

/// The image that no worker can run.
const BROKEN: &str = "broken";

struct Swarm {
    world: World,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Swarm {
    async fn start(nodes: usize) -> Self {
        let world = World::with_nodes(nodes).await;
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let (store, clock) = (world.store.clone(), world.clock.clone());
        tasks.spawn(leader::run(store.clone(), clock, leader::loops(), stop.clone()));
        let stopped = stop.clone();
        tasks.spawn(async move {
            stopped.run_until_cancelled(work(store)).await;
        });
        Self { world, stop, tasks }
    }

    async fn stop(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("nothing panics");
        }
    }

    /// Waits, in the test's time, until the condition holds.
    async fn until(&self, what: &str, condition: impl Fn(&Tables) -> bool) {
        let mut watch = self.world.store.watch();
        let holds = async {
            while !condition(&self.world.store.view()) {
                let _ = watch.next().await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(3600), holds).await.is_err() {
            let view = self.world.store.view();
            let seen = view.tasks().map(|t| (t.slot, t.desired, t.status.state, &t.status.err, &t.node));
            panic!("never {what}: {:#?}", seen.collect::<Vec<_>>());
        }
    }

    async fn runs(&self, service: &str, count: usize) {
        self.until(&format!("{count} of {service} run"), |view| running(view, service).count() == count)
            .await;
    }
}

fn running<'a>(view: &'a Tables, service: &str) -> impl Iterator<Item = &'a Arc<Task>> {
    let runs =
        |task: &&Arc<Task>| task.desired == TaskState::Running && task.status.state == TaskState::Running;
    view.tasks_by_service(&service.into()).filter(runs)
}

/// Every node at once: brings each task where it shall be.
async fn work(store: Store) {
    let mut watch = store.watch();
    loop {
        let view = store.view();
        let steps: Vec<(TaskId, TaskState)> =
            view.tasks().filter_map(|task| Some((task.id.clone(), next(&view, task)?))).collect();
        if steps.is_empty() {
            let _ = watch.next().await;
            continue;
        }
        let report = store.update(|tx| {
            for (id, state) in &steps {
                let Some(task) = tx.task(id).filter(|task| task.status.state < *state) else { continue };
                let mut task = Task::clone(task);
                task.status.state = *state;
                task.status.timestamp = tx.now();
                tx.update(task);
            }
            Ok::<_, std::convert::Infallible>(())
        });
        report.await.expect("workers report what may be");
    }
}

/// The state that the task's node brings it to; a node that is down does nothing.
fn next(view: &Tables, task: &Task) -> Option<TaskState> {
    let node = task.node.as_ref().and_then(|id| view.node(id))?;
    let active = (TaskState::Assigned..=TaskState::Running).contains(&task.status.state);
    if node.status.state != NodeState::Ready || !active {
        return None;
    }
    let state = match task.desired {
        TaskState::Running if task.spec.container.image == BROKEN => TaskState::Rejected,
        TaskState::Ready => TaskState::Ready,
        TaskState::Running => TaskState::Running,
        _ => TaskState::Shutdown,
    };
    (task.status.state < state).then_some(state)
}

fn attached(name: &str, replicas: u64, network: &str) -> Service {
    let mut service = service(name, replicas);
    attach(&mut service, network);
    service
}

#[tokio::test(start_paused = true)]
async fn a_hundred_replicas_run_after_a_handful_of_entries() {
    let swarm = Swarm::start(3).await;
    swarm.world.put(network("net", &["10.0.9.0/24"])).await;
    swarm.until("the network is there", |view| view.networks().all(|network| network.state.is_some())).await;
    let before = swarm.world.store.view().index();
    swarm.world.put(attached("web", 100, "net")).await;
    swarm.runs("web", 100).await;
    // The service, its tasks, its address, their addresses, their nodes, their running; and the same in two parts.
    let entries = swarm.world.store.view().index() - before;
    assert!(entries <= 8, "{entries} entries");
    swarm.stop().await;
}

#[tokio::test(start_paused = true)]
async fn tasks_of_a_node_that_is_down_are_replaced_and_their_addresses_are_not_reused() {
    let swarm = Swarm::start(3).await;
    swarm.world.put(network("net", &["10.0.9.0/24"])).await;
    swarm.world.put(attached("web", 6, "net")).await;
    swarm.runs("web", 6).await;
    let down = NodeId::from("n1");
    let old: Vec<Arc<Task>> = swarm.world.store.view().tasks_by_node(&down).cloned().collect();
    assert_eq!(old.len(), 2);
    swarm.world.change_node("n1", |node| node.status.state = NodeState::Down).await;
    swarm
        .until("all run elsewhere", |view| {
            running(view, "web").filter(|task| task.node.as_ref() != Some(&down)).count() == 6
        })
        .await;
    let view = swarm.world.store.view();
    let mut seen = BTreeSet::new();
    for address in running(&view, "web").chain(&old).flat_map(|task| addresses_of(task)) {
        assert!(seen.insert(address.clone()), "{address} is used twice");
    }
    swarm.world.change_node("n1", |node| node.status.state = NodeState::Ready).await;
    swarm
        .until("the old tasks are stopped", |view| {
            old.iter()
                .all(|task| view.task(&task.id).is_none_or(|task| task.status.state == TaskState::Shutdown))
        })
        .await;
    assert_eq!(running(&swarm.world.store.view(), "web").count(), 6);
    swarm.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_drained_node_loses_its_tasks() {
    let swarm = Swarm::start(2).await;
    swarm.world.put(service("web", 4)).await;
    swarm.runs("web", 4).await;
    swarm.world.change_node("n1", |node| node.spec.availability = Availability::Drain).await;
    let there = |task: &Arc<Task>| task.node.as_ref().is_some_and(|node| node.as_str() == "n2");
    swarm.until("all run on n2", |view| running(view, "web").filter(|task| there(task)).count() == 4).await;
    swarm.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_update_never_takes_more_than_its_share() {
    let swarm = Swarm::start(3).await;
    let mut web = service("web", 6);
    spec_of(&mut web).update.parallelism = 2;
    swarm.world.put(web).await;
    swarm.runs("web", 6).await;
    swarm.world.change_spec("web", |spec| set_image(spec, "web:2")).await;
    let mut watch = swarm.world.store.watch();
    loop {
        let view = swarm.world.store.view();
        assert!(running(&view, "web").count() >= 4);
        let state = view.service(&"web".into()).unwrap().update_status.as_ref().map(|status| status.state);
        if state == Some(UpdateState::Completed) {
            break;
        }
        let _ = watch.next().await;
    }
    let view = swarm.world.store.view();
    assert_eq!(running(&view, "web").filter(|task| task.spec.container.image == "web:2").count(), 6);
    swarm.stop().await;
}

#[tokio::test(start_paused = true)]
async fn scaled_to_none_nothing_is_left_but_the_service() {
    let swarm = Swarm::start(2).await;
    swarm.world.put(network("net", &["10.0.9.0/24"])).await;
    swarm.world.put(attached("web", 5, "net")).await;
    swarm.runs("web", 5).await;
    swarm.world.scale("web", 0).await;
    swarm.until("all tasks are gone", |view| view.tasks().len() == 0).await;
    let in_use = |view: &Tables| view.addresses_in_use(&"net".into()).count();
    assert_eq!(in_use(&swarm.world.store.view()), 2, "the gateway and the service");
    swarm.world.write(|tx| tx.remove(ServiceId::from("web"))).await;
    assert_eq!(in_use(&swarm.world.store.view()), 1);
    swarm.world.write(|tx| tx.remove(NetworkId::from("net"))).await;
    swarm.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_pool_goes_on_when_another_service_leaves() {
    let swarm = Swarm::start(2).await;
    swarm.world.put(network("small", &["10.0.9.0/29"])).await;
    swarm.world.put(attached("a", 3, "small")).await;
    swarm.runs("a", 3).await;
    swarm.world.put(attached("b", 2, "small")).await;
    let full = "network small: no free address in 10.0.9.0/29 (6 of 6 in use)";
    swarm
        .until("the tasks say that the pool is full", |view| {
            view.tasks_by_service(&"b".into()).filter(|task| task.status.err == full).count() == 2
        })
        .await;
    let index = swarm.world.store.view().index();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(swarm.world.store.view().index(), index, "who waits writes nothing");
    swarm.world.write(|tx| tx.remove(ServiceId::from("a"))).await;
    swarm.runs("b", 2).await;
    swarm.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_fits_nowhere_runs_when_a_node_joins() {
    let swarm = Swarm::start(1).await;
    let mut web = service("web", 2);
    task_spec_of(&mut web).placement.max_replicas = 1;
    swarm.world.put(web).await;
    let err = "no suitable node (max replicas per node reached on 1 node)";
    swarm.until("the task says why it waits", |view| view.tasks().any(|task| task.status.err == err)).await;
    swarm.world.put(node("n2")).await;
    swarm.runs("web", 2).await;
    swarm.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_image_that_nobody_can_run_does_not_make_the_service_spin() {
    let swarm = Swarm::start(3).await;
    let mut web = service("web", 1);
    set_image(spec_of(&mut web), BROKEN);
    swarm.world.put(web).await;
    let mut made = BTreeSet::new();
    let mut watch = swarm.world.store.watch();
    let _ = tokio::time::timeout(Duration::from_secs(600), async {
        loop {
            if let Ok(commit) = watch.next().await {
                made.extend(commit.view.tasks().map(|task| task.id.clone()));
            }
        }
    })
    .await;
    assert!((5..=16).contains(&made.len()), "{} tasks in ten minutes", made.len());
    assert!(swarm.world.tasks("web").len() <= 7, "history is limited");
    swarm.world.change_spec("web", |spec| set_image(spec, "web")).await;
    swarm.runs("web", 1).await;
    swarm.stop().await;
}

#[tokio::test(start_paused = true)]
async fn loops_end_with_their_term_and_go_on_in_the_next() {
    let swarm = Swarm::start(2).await;
    swarm.world.put(service("web", 2)).await;
    swarm.runs("web", 2).await;
    let other: RaftId = 2;
    swarm.world.store.set_leadership(Leadership { leading: None, leader: Some(other) });
    tokio::time::sleep(Duration::from_secs(1)).await;
    swarm.world.scale("web", 4).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(swarm.world.tasks("web").len(), 2, "only the leader plans");
    swarm.world.store.set_leadership(Leadership { leading: Some(Term(3)), leader: Some(1) });
    swarm.runs("web", 4).await;
    swarm.stop().await;
}

#[tokio::test(start_paused = true)]
async fn conflicts_hold_nothing_up() {
    let swarm = Swarm::start(2).await;
    for n in 1..=20 {
        swarm.world.put(service(&format!("s{n}"), 2)).await;
        swarm.world.store.inject_conflicts(3);
        tokio::task::yield_now().await;
    }
    swarm
        .until("all run", |view| view.tasks().filter(|t| t.status.state == TaskState::Running).count() == 40)
        .await;
    swarm.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_panics_starts_again() {
    let world = World::with_nodes(1).await;
    let stop = CancellationToken::new();
    let starts = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = Arc::clone(&starts);
    let fragile = leader::Loop::new("fragile", move |lead| {
        let nth = counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        async move {
            assert!(nth > 0, "the first start fails");
            lead.over.cancelled().await;
        }
    });
    let running = leader::run(world.store.clone(), world.clock.clone(), vec![fragile], stop.clone());
    let stopped = async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        stop.cancel();
    };
    tokio::join!(running, stopped);
    assert_eq!(starts.load(std::sync::atomic::Ordering::SeqCst), 2);
}
