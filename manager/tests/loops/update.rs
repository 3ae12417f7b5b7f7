//! Rolling updates, step by step.

use std::time::Duration;

use manager::orchestrator::Orchestrator;
use proto::model::*;
use tokio::time::advance;

use crate::orchestrator::run_all;
use crate::support::*;

const SECOND: Duration = Duration::from_secs(1);

async fn running(replicas: u64, update: UpdateConfig) -> World {
    let world = World::with_nodes(3).await;
    let mut web = service("web", replicas);
    spec_of(&mut web).update = update;
    set_image(spec_of(&mut web), "web:1");
    world.put(web).await;
    world.settle(&Orchestrator).await;
    run_all(&world, "web").await;
    world
}

fn status(world: &World) -> Option<UpdateState> {
    let view = world.store.view();
    view.service(&"web".into()).unwrap().update_status.as_ref().map(|status| status.state)
}

/// Slots whose live tasks are all of the image.
fn on_image(world: &World, image: &str) -> usize {
    world.live("web").iter().filter(|task| task.spec.container.image == image).count()
}

/// Tasks that were told to stop stop, tasks that shall run run.
async fn obey(world: &World) {
    for task in world.tasks("web") {
        if task.desired > TaskState::Running && !task.status.state.is_terminal() {
            world.observe(&task.id, TaskState::Shutdown).await;
        }
    }
    world.settle(&Orchestrator).await;
    for task in world.live("web") {
        if task.desired == TaskState::Running && task.status.state < TaskState::Running {
            run_all(world, "web").await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn slots_are_updated_so_many_at_a_time_and_after_the_delay() {
    let world =
        running(5, UpdateConfig { parallelism: 2, delay: 10 * SECOND, ..UpdateConfig::default() }).await;
    world.change_spec("web", |spec| set_image(spec, "web:2")).await;
    world.settle(&Orchestrator).await;
    assert_eq!((status(&world), on_image(&world, "web:2")), (Some(UpdateState::Updating), 2));
    assert!(world.live("web").iter().any(|task| task.desired == TaskState::Ready), "the old tasks still run");
    obey(&world).await;
    assert_eq!(world.settle(&Orchestrator).await, 0, "the delay has not passed");
    for expected in [4, 5] {
        advance(10 * SECOND).await;
        world.settle(&Orchestrator).await;
        assert_eq!(on_image(&world, "web:2"), expected);
        obey(&world).await;
    }
    assert_eq!(status(&world), Some(UpdateState::Updating), "the last tasks are still monitored");
    advance(5 * SECOND).await;
    world.settle(&Orchestrator).await;
    assert_eq!(status(&world), Some(UpdateState::Completed));
}

#[tokio::test(start_paused = true)]
async fn start_first_keeps_the_old_task_until_the_new_one_runs() {
    let config = UpdateConfig { parallelism: 0, order: UpdateOrder::StartFirst, ..UpdateConfig::default() };
    let world = running(3, config).await;
    world.change_spec("web", |spec| set_image(spec, "web:2")).await;
    world.settle(&Orchestrator).await;
    assert_eq!((on_image(&world, "web:1"), on_image(&world, "web:2")), (3, 3));
    assert!(world.live("web").iter().all(|task| task.desired == TaskState::Running));
    run_all(&world, "web").await;
    world.settle(&Orchestrator).await;
    assert_eq!((on_image(&world, "web:1"), on_image(&world, "web:2")), (0, 3));
}

#[tokio::test(start_paused = true)]
async fn a_newer_spec_takes_over() {
    let config = UpdateConfig { parallelism: 1, order: UpdateOrder::StartFirst, ..UpdateConfig::default() };
    let world = running(2, config).await;
    world.change_spec("web", |spec| set_image(spec, "web:2")).await;
    world.settle(&Orchestrator).await;
    world.change_spec("web", |spec| set_image(spec, "web:3")).await;
    for _ in 0..4 {
        world.settle(&Orchestrator).await;
        run_all(&world, "web").await;
    }
    assert_eq!((on_image(&world, "web:1"), on_image(&world, "web:2"), on_image(&world, "web:3")), (0, 0, 2));
}

#[tokio::test(start_paused = true)]
async fn an_update_whose_task_fails_pauses_and_says_why() {
    let world = running(3, UpdateConfig::default()).await;
    world.change_spec("web", |spec| set_image(spec, "web:bad")).await;
    world.settle(&Orchestrator).await;
    let bad = world.live("web").into_iter().find(|task| task.spec.container.image == "web:bad").unwrap();
    obey(&world).await;
    world
        .change_task(&bad.id, |task| {
            task.status.state = TaskState::Failed;
            task.status.err = "task: non-zero exit (1)".into();
        })
        .await;
    world.settle(&Orchestrator).await;
    let view = world.store.view();
    let told = view.service(&"web".into()).unwrap().update_status.clone().unwrap();
    assert_eq!(told.state, UpdateState::Paused);
    let id = &bad.id;
    assert_eq!(
        told.message,
        format!("update paused due to failure or early termination of task {id}: task: non-zero exit (1)")
    );
    assert_eq!((on_image(&world, "web:1"), on_image(&world, "web:bad")), (2, 1));
    advance(600 * SECOND).await;
    world.settle(&Orchestrator).await;
    assert_eq!(on_image(&world, "web:1"), 2, "a paused update leaves the other slots alone");
    world.change_spec("web", |spec| set_image(spec, "web:1")).await;
    world.settle(&Orchestrator).await;
    assert_eq!(on_image(&world, "web:1"), 3);
}

#[tokio::test(start_paused = true)]
async fn one_that_never_became_healthy_has_failed_however_long_it_took() {
    for (succeeded, expected) in [(false, UpdateState::Paused), (true, UpdateState::Updating)] {
        let world = running(3, UpdateConfig { parallelism: 1, ..UpdateConfig::default() }).await;
        world.change_spec("web", |spec| set_image(spec, "web:2")).await;
        world.settle(&Orchestrator).await;
        let new = world.live("web").into_iter().find(|task| task.spec.container.image == "web:2").unwrap();
        obey(&world).await;
        advance(1200 * SECOND).await;
        let now = world.now();
        let health = Health { state: HealthState::Unhealthy, succeeded, ..Health::default() };
        world
            .change_task(&new.id, |task| {
                (task.status.state, task.status.timestamp) = (TaskState::Failed, now);
                task.status.container =
                    Some(ContainerStatus { health: Some(health.clone()), ..ContainerStatus::default() });
            })
            .await;
        world.settle(&Orchestrator).await;
        assert_eq!(status(&world), Some(expected));
    }
}

#[tokio::test(start_paused = true)]
async fn failures_do_not_stop_an_update_that_shall_continue() {
    let config = UpdateConfig { failure_action: FailureAction::Continue, ..UpdateConfig::default() };
    let world = running(2, config).await;
    world.change_spec("web", |spec| set_image(spec, "web:2")).await;
    world.settle(&Orchestrator).await;
    obey(&world).await;
    let new = world.live("web").into_iter().find(|task| task.spec.container.image == "web:2").unwrap();
    world.observe(&new.id, TaskState::Failed).await;
    world.settle(&Orchestrator).await;
    assert_eq!(status(&world), Some(UpdateState::Updating));
    for _ in 0..3 {
        advance(60 * SECOND).await;
        world.settle(&Orchestrator).await;
        obey(&world).await;
    }
    assert_eq!(on_image(&world, "web:2"), 2);
}

#[tokio::test(start_paused = true)]
async fn raising_the_counter_replaces_tasks_though_nothing_else_changed() {
    let world = running(1, UpdateConfig::default()).await;
    let old = world.live("web")[0].id.clone();
    world.change_spec("web", |spec| std::sync::Arc::make_mut(&mut spec.task).force_update += 1).await;
    world.settle(&Orchestrator).await;
    assert_ne!(world.live("web")[0].id, old);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_has_ended_for_good_is_tried_again_with_a_new_spec() {
    let mut web = service("web", 1);
    task_spec_of(&mut web).restart.condition = RestartCondition::None;
    let world = World::with_nodes(1).await;
    world.put(web).await;
    world.settle(&Orchestrator).await;
    run_all(&world, "web").await;
    world.observe(&world.live("web")[0].id, TaskState::Failed).await;
    world.settle(&Orchestrator).await;
    assert!(world.live("web").is_empty());
    world.change_spec("web", |spec| set_image(spec, "web:2")).await;
    world.settle(&Orchestrator).await;
    assert_eq!(world.live("web").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_rollback_says_so() {
    let world = running(1, UpdateConfig::default()).await;
    world.change_spec("web", |spec| set_image(spec, "web:0")).await;
    world
        .write(|tx| {
            let mut web = Service::clone(tx.service_by_name("web").unwrap());
            web.update_status = Some(UpdateStatus {
                state: UpdateState::RollbackStarted,
                started_at: Some(tx.now()),
                completed_at: None,
                message: String::new(),
            });
            tx.update(web);
        })
        .await;
    world.settle(&Orchestrator).await;
    assert_eq!(on_image(&world, "web:0"), 1);
    obey(&world).await;
    advance(5 * SECOND).await;
    world.settle(&Orchestrator).await;
    assert_eq!(status(&world), Some(UpdateState::RollbackCompleted));
}
