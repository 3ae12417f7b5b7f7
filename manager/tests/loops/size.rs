//! How long plans take in a large swarm. Printed, not judged: machines differ. `cargo test -- --nocapture size`.

use std::sync::Arc;
use std::time::Instant;

use manager::allocator::Allocator;
use manager::orchestrator::{Orchestrator, Reaper};
use manager::reconcile::{Plan, Scope};
use manager::scheduler::Scheduler;
use proto::model::*;

use crate::support::*;

const NODES: usize = 1_000;
const TASKS: u64 = 10_000;

fn measure<P: Plan>(world: &World, plan: &P, scope: &Scope<P::Key>, what: &str) -> usize {
    let view = world.store.view();
    let start = Instant::now();
    let actions = plan.plan(&view, scope, world.now()).actions;
    println!("{:>13}: {:>8.2?} for {:>5} actions, {what}", P::NAME, start.elapsed(), actions.len());
    actions.len()
}

/// All tasks run, spread over the nodes, a thousand a service.
async fn large() -> World {
    let world = World::with_nodes(NODES).await;
    world.put(network("net", &["10.0.0.0/16"])).await;
    world.settle(&Allocator).await;
    for n in 0..TASKS / 1000 {
        let mut service = service(&format!("s{n}"), 1000);
        attach(&mut service, "net");
        world.put(service).await;
    }
    for plan in 0..3 {
        match plan {
            0 => world.settle(&Orchestrator).await,
            1 => world.settle(&Allocator).await,
            _ => world.settle(&Scheduler).await,
        };
    }
    world
        .write(|tx| {
            for task in tx.tasks().cloned().collect::<Vec<Arc<Task>>>() {
                let mut task = Task::clone(&task);
                task.status.state = TaskState::Running;
                tx.update(task);
            }
        })
        .await;
    world
}

#[tokio::test(start_paused = true)]
async fn a_thousand_nodes_and_ten_thousand_tasks() {
    let world = large().await;
    measure(&world, &Orchestrator, &Scope::All, "nothing to do");
    measure(&world, &Allocator, &Scope::All, "nothing to do");
    measure(&world, &Scheduler, &Scope::All, "nothing to do");
    measure(&world, &Reaper, &Scope::All, "nothing to do");
    let one = Scope::Keys([ServiceId::from("s1")].into());
    measure(&world, &Orchestrator, &one, "one service of 1,000");
    world.scale("s1", 1_100).await;
    assert_eq!(measure(&world, &Orchestrator, &one, "100 more replicas"), 100);
    world.settle(&Orchestrator).await;
    assert_eq!(measure(&world, &Allocator, &Scope::All, "100 more replicas"), 100);
    world.settle(&Allocator).await;
    assert_eq!(measure(&world, &Scheduler, &Scope::All, "100 more replicas"), 100);
    world.settle(&Scheduler).await;
    world.change_node("n7", |node| node.status.state = NodeState::Down).await;
    measure(&world, &Orchestrator, &Scope::All, "a node is down");
}
