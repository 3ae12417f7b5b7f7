//! What follows a task that is over, and when.

use std::time::Duration;

use manager::orchestrator::{Orchestrator, Reaper};
use proto::model::*;
use tokio::time::advance;

use crate::orchestrator::run_all;
use crate::support::*;

const SECOND: Duration = Duration::from_secs(1);

async fn running(policy: RestartPolicy) -> World {
    let world = World::with_nodes(2).await;
    let mut web = service("web", 1);
    task_spec_of(&mut web).restart = policy;
    world.put(web).await;
    world.settle(&Orchestrator).await;
    run_all(&world, "web").await;
    world
}

/// Ends the live task and has it seen to.
async fn end(world: &World, state: TaskState) {
    world.observe(&world.live("web")[0].id, state).await;
    world.settle(&Orchestrator).await;
    world.settle(&Reaper).await;
}

/// How long the live task is held back, to the second.
async fn held_back(world: &World) -> u64 {
    for waited in 0..=600 {
        if world.live("web")[0].desired == TaskState::Running {
            return waited;
        }
        advance(SECOND).await;
        world.settle(&Orchestrator).await;
    }
    panic!("the task never starts: {:?}", world.tasks("web"));
}

#[tokio::test(start_paused = true)]
async fn a_failing_task_is_replaced_in_its_slot_later_each_time() {
    let world = running(RestartPolicy::default()).await;
    let mut delays = Vec::new();
    for _ in 0..7 {
        end(&world, TaskState::Failed).await;
        assert_eq!(world.live("web").len(), 1);
        assert_eq!(world.live("web")[0].slot, Slot(1));
        delays.push(held_back(&world).await);
        run_all(&world, "web").await;
    }
    assert_eq!(delays, [5, 10, 20, 40, 60, 60, 60]);
    // It held for long: the next failure is a new story.
    advance(200 * SECOND).await;
    end(&world, TaskState::Failed).await;
    assert_eq!(held_back(&world).await, 5);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_completes_is_followed_after_the_same_delay_every_time() {
    let world = running(RestartPolicy { delay: 2 * SECOND, ..RestartPolicy::default() }).await;
    for _ in 0..4 {
        end(&world, TaskState::Complete).await;
        assert_eq!(held_back(&world).await, 2);
        run_all(&world, "web").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_cannot_be_prepared_is_not_followed_by_another_attempt_before_the_delay() {
    let world = running(RestartPolicy::default()).await;
    for delay in [5, 10, 20] {
        end(&world, TaskState::Rejected).await;
        // A task that is only ready would be prepared already.
        assert!(world.live("web").is_empty());
        advance((delay - 1) * SECOND).await;
        assert!(world.actions(&Orchestrator).is_empty());
        advance(SECOND).await;
        world.settle(&Orchestrator).await;
        assert_eq!((world.live("web")[0].slot, world.live("web")[0].desired), (Slot(1), TaskState::Running));
    }
    // Another spec is another chance.
    end(&world, TaskState::Rejected).await;
    world.change_spec("web", |spec| set_image(spec, "other")).await;
    world.settle(&Orchestrator).await;
    assert_eq!(world.live("web").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_delay_goes_on_under_another_leader() {
    let world = running(RestartPolicy::default()).await;
    end(&world, TaskState::Failed).await;
    advance(3 * SECOND).await;
    // A planner that was never asked before.
    assert!(world.actions(&Orchestrator).is_empty());
    assert_eq!(held_back(&world).await, 2);
}

#[tokio::test(start_paused = true)]
async fn the_condition_says_which_ends_are_followed() {
    for (condition, state, followed) in [
        (RestartCondition::None, TaskState::Failed, false),
        (RestartCondition::None, TaskState::Complete, false),
        (RestartCondition::OnFailure, TaskState::Complete, false),
        (RestartCondition::OnFailure, TaskState::Failed, true),
        (RestartCondition::OnFailure, TaskState::Rejected, true),
        (RestartCondition::Any, TaskState::Complete, true),
    ] {
        let world = running(RestartPolicy { condition, ..RestartPolicy::default() }).await;
        end(&world, state).await;
        advance(5 * SECOND).await;
        world.settle(&Orchestrator).await;
        assert_eq!(!world.live("web").is_empty(), followed, "{condition:?} {state:?}");
        assert!(!world.tasks("web").is_empty(), "the last task of a slot is kept");
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_are_limited_within_their_window() {
    let policy = RestartPolicy { max_attempts: 2, window: 100 * SECOND, ..RestartPolicy::default() };
    let world = running(policy.clone()).await;
    for expected in [1, 1, 0] {
        end(&world, TaskState::Failed).await;
        assert_eq!(world.live("web").len(), expected);
        advance(20 * SECOND).await;
        world.settle(&Orchestrator).await;
        run_all(&world, "web").await;
    }
    let world = running(policy).await;
    for _ in 0..6 {
        advance(100 * SECOND).await;
        end(&world, TaskState::Failed).await;
        assert_eq!(world.live("web").len(), 1);
        held_back(&world).await;
        run_all(&world, "web").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_is_replaced_at_once_when_its_node_is_down() {
    let world = running(RestartPolicy::default()).await;
    let old = world.live("web")[0].clone();
    let node = old.node.clone().unwrap();
    world.change_node(node.as_str(), |node| node.status.state = NodeState::Down).await;
    world.settle(&Orchestrator).await;
    let new = world.live("web")[0].clone();
    assert_eq!((new.slot, new.desired), (old.slot, TaskState::Running));
    assert_eq!(world.store.view().task(&old.id).unwrap().desired, TaskState::Shutdown);
    // The node is back with its old task: one too many, but the new one is not touched.
    world.change_node(node.as_str(), |node| node.status.state = NodeState::Ready).await;
    assert_eq!(world.settle(&Orchestrator).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_drained_node_stops_its_task_before_the_next_one_starts() {
    let world = running(RestartPolicy::default()).await;
    let old = world.live("web")[0].clone();
    let node = old.node.clone().unwrap();
    world.change_node(node.as_str(), |node| node.spec.availability = Availability::Drain).await;
    world.settle(&Orchestrator).await;
    assert_eq!(world.live("web")[0].desired, TaskState::Ready);
    world.observe(&old.id, TaskState::Shutdown).await;
    world.settle(&Orchestrator).await;
    assert_eq!(world.live("web")[0].desired, TaskState::Running);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_does_not_stop_is_not_waited_for_for_ever() {
    let world = running(RestartPolicy::default()).await;
    let node = world.live("web")[0].node.clone().unwrap();
    world.change_node(node.as_str(), |node| node.spec.availability = Availability::Drain).await;
    world.settle(&Orchestrator).await;
    assert_eq!(held_back(&world).await, 70);
}
