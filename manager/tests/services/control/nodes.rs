//! Nodes.

use proto::model::{NodeState, Role, TaskState};
use proto::wire;
use tonic::{Code, Status};

use super::*;
use crate::fixtures::{in_state, manager, node, node_id, put, task, task_id};

#[tokio::test]
async fn a_node_is_removed_when_it_is_down_or_by_force() {
    let swarm = Swarm::start().await;
    let mut control = control(&swarm);
    put(&swarm.store, [node(1), manager(2, "192.0.2.2:2377")]).await;
    let web = fixtures::service(1, &[]);
    put(&swarm.store, [web.clone()]).await;
    put(&swarm.store, [in_state(task(1, &web, 1, &[]), TaskState::Running)]).await;
    let remove = |id: &str, force| wire::RemoveNodeRequest { node_id: id.into(), force };
    let index = swarm.store.view().index();
    let up = control.remove_node(remove("node1", false)).await;
    refused(&swarm, index, up, Code::FailedPrecondition, "node node1 (host1) is not down");
    let leads = control.remove_node(remove("node2", true)).await;
    refused(&swarm, index, leads, Code::FailedPrecondition, "is a manager: demote it first");
    control.remove_node(remove("node1", true)).await.unwrap();
    let view = swarm.store.view();
    assert!(view.node(&node_id(1)).is_none());
    assert_eq!(view.task(&task_id(1)).unwrap().status.state, TaskState::Orphaned);
    swarm.stop().await;
}

#[tokio::test]
async fn a_node_with_more_tasks_than_fit_into_an_entry_is_removed_too() {
    let swarm = Swarm::start().await;
    put(&swarm.store, [node(1)]).await;
    let mut web = fixtures::service(1, &[]);
    let spec = std::sync::Arc::make_mut(&mut web.spec);
    std::sync::Arc::make_mut(&mut spec.task).container.env = vec!["x".repeat(900 << 10)];
    put(&swarm.store, [web.clone()]).await;
    for number in 1..=5 {
        put(&swarm.store, [in_state(task(number, &web, 1, &[]), TaskState::Running)]).await;
    }
    let remove = wire::RemoveNodeRequest { node_id: "node1".into(), force: true };
    control(&swarm).remove_node(remove).await.unwrap();
    assert!(swarm.store.view().node(&node_id(1)).is_none());
    swarm.stop().await;
}

async fn update_node(
    control: &mut Control,
    id: &str,
    change: impl FnOnce(&mut wire::NodeSpec),
) -> Result<(), Status> {
    let node = control
        .get_node(wire::GetNodeRequest { node_id: id.into() })
        .await
        .unwrap()
        .into_inner()
        .node
        .unwrap();
    let mut spec = node.spec.unwrap();
    change(&mut spec);
    let node_version = node.meta.unwrap().version;
    control
        .update_node(wire::UpdateNodeRequest { node_id: id.into(), node_version, spec: Some(spec) })
        .await
        .map(drop)
}

#[tokio::test]
async fn the_last_manager_stays_one() {
    let swarm = Swarm::start().await;
    let mut control = control(&swarm);
    put(&swarm.store, [node(1), manager(2, "192.0.2.2:2377")]).await;
    let demote = |spec: &mut wire::NodeSpec| spec.desired_role = wire::NodeRole::Worker.into();
    let index = swarm.store.view().index();
    let last = update_node(&mut control, "node2", demote).await;
    refused(&swarm, index, last, Code::FailedPrecondition, "node node2 (host2) is the last manager");
    update_node(&mut control, "node1", |spec| spec.desired_role = wire::NodeRole::Manager.into())
        .await
        .unwrap();
    assert_eq!(swarm.store.view().node(&node_id(1)).unwrap().spec.desired_role, Role::Manager);
    // It is to be one, but has no vote yet: the other cannot go.
    let index = swarm.store.view().index();
    let early = update_node(&mut control, "node2", demote).await;
    refused(&swarm, index, early, Code::FailedPrecondition, "no majority");
    swarm.store.membership().add(node_id(1), "192.0.2.1:2377".into()).await.unwrap();
    update_node(&mut control, "node2", demote).await.unwrap();
    let drain = |spec: &mut wire::NodeSpec| {
        spec.availability = wire::node_spec::Availability::Drain.into();
        spec.annotations.get_or_insert_default().labels.insert("zone".into(), "east".into());
    };
    update_node(&mut control, "node1", drain).await.unwrap();
    swarm.stop().await;
}

#[tokio::test]
async fn a_node_that_left_can_be_removed() {
    let swarm = Swarm::start().await;
    let mut control = control(&swarm);
    let mut down = node(1);
    down.status.state = NodeState::Down;
    put(&swarm.store, [down]).await;
    control.remove_node(wire::RemoveNodeRequest { node_id: "node1".into(), force: false }).await.unwrap();
    assert_eq!(swarm.store.view().nodes().len(), 0);
    swarm.stop().await;
}
