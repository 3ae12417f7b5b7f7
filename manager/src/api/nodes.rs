//! Nodes.

use std::sync::Arc;

use proto::convert::Within;
use proto::model::{
    Membership, Node, NodeId, NodeSpec, NodeState, Reachability, Role, Task, TaskState, TaskStatus,
};
use proto::wire::{
    self, GetNodeRequest, GetNodeResponse, ListNodesRequest, ListNodesResponse, RemoveNodeRequest,
    RemoveNodeResponse, UpdateNodeRequest, UpdateNodeResponse,
};
use raft_store::{Member, Tables, Transaction, UpdateError};
use tonic::Status;

use super::filter::{any, common, labelled};
use super::{Control, limits, quorum, validate};
use crate::error::{Error, status};

pub(super) async fn get(api: &Control, request: GetNodeRequest) -> Result<GetNodeResponse, Status> {
    let members = api.managers.status().await;
    let view = api.store.view();
    let node = find(&view, &request.node_id)?;
    Ok(GetNodeResponse { node: Some(shown(&members, node)) })
}

pub(super) async fn list(api: &Control, request: ListNodesRequest) -> Result<ListNodesResponse, Status> {
    let members = api.managers.status().await;
    let view = api.store.view();
    let filters = request.filters.unwrap_or_default();
    let nodes = view.nodes().filter(|node| admits(&filters, node));
    Ok(ListNodesResponse { nodes: nodes.map(|node| shown(&members, node)).collect() })
}

/// A node goes by the name of its host. `labels` are those of its engine, `node_labels` those that the operator gave.
fn admits(filters: &wire::list_nodes_request::Filters, node: &Node) -> bool {
    let none = Default::default();
    let engine_labels = node.description.as_ref().map_or(&none, |description| &description.engine.labels);
    let membership = i32::from(wire::node_spec::Membership::from(node.spec.membership));
    let role = i32::from(wire::NodeRole::from(node.role));
    common!(filters).admit(node.id.as_str(), node.hostname(), engine_labels)
        && labelled(&filters.node_labels, &node.spec.annotations.labels)
        && any(&filters.memberships, |wanted| *wanted == membership)
        && any(&filters.roles, |wanted| *wanted == role)
}

/// With what is only known at this moment: who leads, who is reached, and how far behind each is.
fn shown(members: &[Member], node: &Node) -> wire::Node {
    let mut shown = wire::Node::from(node);
    if let Some(status) = &mut shown.manager_status {
        let member = members.iter().find(|member| member.raft_id == status.raft_id);
        // One that left the group without a word is nobody whom the others reach.
        let reachability = member.map_or(Reachability::Unreachable, |member| member.reachability);
        status.lag = member.and_then(|member| member.lag);
        status.leader = member.is_some_and(|member| member.leader);
        status.reachability = wire::raft_member_status::Reachability::from(reachability).into();
    }
    shown
}

pub(super) async fn update(api: &Control, request: UpdateNodeRequest) -> Result<UpdateNodeResponse, Status> {
    let version = request.node_version.unwrap_or_default().index;
    let spec = request.spec.ok_or_else(|| Error::from(proto::convert::Error::missing("spec")))?;
    limits::spec_size("spec", &spec).map_err(Status::from)?;
    let spec = NodeSpec::try_from(spec).within("spec").map_err(Error::from)?;
    check(&spec)?;
    let id = NodeId::from(request.node_id);
    let members = api.managers.status().await;
    let updated = api.store.update(|tx| {
        let current = find(tx, id.as_str())?;
        if current.meta.version != version {
            return Err(Error::OutOfSequence { kind: "node", id: id.to_string() });
        }
        let node = Node { spec: spec.clone(), ..Node::clone(current) };
        if current.spec.desired_role == Role::Manager && spec.desired_role == Role::Worker {
            quorum::check_demotion(tx, current, &members)?;
            // Two demotions at the same time must not each count on the other manager.
            managers(tx).for_each(|manager| tx.expect_unchanged(manager));
        }
        tx.update(node);
        Ok(())
    });
    updated.await.map_err(status)?;
    let view = api.store.view();
    Ok(UpdateNodeResponse { node: view.node(&id).map(|node| shown(&members, node)) })
}

fn managers(tables: &Tables) -> impl Iterator<Item = NodeId> + use<> {
    let managers = tables.nodes().filter(|node| node.spec.desired_role == Role::Manager);
    managers.map(|node| node.id.clone()).collect::<Vec<_>>().into_iter()
}

fn check(spec: &NodeSpec) -> Result<(), Error> {
    if !spec.annotations.name.is_empty() {
        validate::object_name("spec.annotations.name", &spec.annotations.name)?;
    }
    validate::labels("spec.annotations", &spec.annotations)?;
    if spec.membership == Membership::Accepted {
        return Ok(());
    }
    Err(Error::invalid("spec.membership", "pending", "a node that was accepted stays so: remove it instead"))
}

pub(super) async fn remove(api: &Control, request: RemoveNodeRequest) -> Result<RemoveNodeResponse, Status> {
    let mut removed = remove_with(api, &request, orphan_tasks).await;
    if let Err(UpdateError::TooLarge { .. }) = removed {
        // The reaper orphans tasks without a node, so many at a time.
        removed = remove_with(api, &request, |_, _| {}).await;
    }
    removed.map_err(status)?;
    Ok(RemoveNodeResponse {})
}

async fn remove_with(
    api: &Control,
    request: &RemoveNodeRequest,
    with_tasks: fn(&mut Transaction, &NodeId),
) -> Result<(), UpdateError<Error>> {
    let removed = api.store.update(|tx| {
        let node = Arc::clone(find(tx, &request.node_id)?);
        check_removable(&node, request.force)?;
        with_tasks(tx, &node.id);
        tx.remove(&node.id);
        Ok(())
    });
    removed.await
}

fn check_removable(node: &Node, force: bool) -> Result<(), Error> {
    let named = format!("node {} ({})", node.id, node.hostname());
    if node.role == Role::Manager || node.spec.desired_role == Role::Manager || node.manager.is_some() {
        return Err(Error::Precondition(format!("{named} is a manager: demote it first, then remove it")));
    }
    if node.status.state == NodeState::Down || force {
        return Ok(());
    }
    Err(Error::Precondition(format!("{named} is not down: let it leave the swarm, or remove it with force")))
}

/// Nobody will ever report of them again.
fn orphan_tasks(tx: &mut Transaction, node: &NodeId) {
    let live = tx.tasks_by_node(node).filter(|task| !task.status.state.is_terminal());
    for task in live.cloned().collect::<Vec<_>>() {
        let message = "the task's node was removed from the swarm";
        let mut task = Task::clone(&task);
        task.status = TaskStatus {
            container: task.status.container.take(),
            ..TaskStatus::new(TaskState::Orphaned, message, tx.now())
        };
        tx.update(task);
    }
}

fn find<'a>(tables: &'a Tables, id: &str) -> Result<&'a Arc<Node>, Error> {
    tables.node(&id.into()).ok_or_else(|| Error::not_found("node", id))
}
