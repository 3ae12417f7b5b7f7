//! Tasks: made and ended by the loops; here they are looked at and, at most, told to go.

use std::sync::Arc;

use proto::model::{Task, TaskState};
use proto::wire::{
    self, GetTaskRequest, GetTaskResponse, ListTasksRequest, ListTasksResponse, RemoveTaskRequest,
    RemoveTaskResponse,
};
use raft_store::Tables;
use tonic::Status;

use super::Control;
use super::filter::{any, common};
use super::services::{RUNTIME, is_up_to_date};
use crate::error::{Error, status};

pub(super) async fn get(api: &Control, request: GetTaskRequest) -> Result<GetTaskResponse, Status> {
    let view = api.store.view();
    let task = find(&view, &request.task_id)?;
    Ok(GetTaskResponse { task: Some((&**task).into()) })
}

pub(super) async fn list(api: &Control, request: ListTasksRequest) -> Result<ListTasksResponse, Status> {
    let view = api.store.view();
    let filters = request.filters.unwrap_or_default();
    let tasks = candidates(&view, &filters).into_iter().filter(|task| admits(&view, &filters, task));
    Ok(ListTasksResponse { tasks: tasks.map(|task| (&**task).into()).collect() })
}

/// The tasks that the narrowest index gives; each of them once.
fn candidates<'a>(tables: &'a Tables, filters: &wire::list_tasks_request::Filters) -> Vec<&'a Arc<Task>> {
    if let [service] = filters.service_ids.as_slice() {
        return tables.tasks_by_service(&service.as_str().into()).collect();
    }
    if let [node] = filters.node_ids.as_slice() {
        return tables.tasks_by_node(&node.as_str().into()).collect();
    }
    tables.tasks().collect()
}

fn admits(tables: &Tables, filters: &wire::list_tasks_request::Filters, task: &Task) -> bool {
    let desired = i32::from(wire::TaskState::from(task.desired));
    common!(filters).admit(task.id.as_str(), &task.annotations.name, &task.annotations.labels)
        && any(&filters.service_ids, |service| service == task.service.as_str())
        && any(&filters.node_ids, |node| task.node.as_ref().is_some_and(|id| id.as_str() == node))
        && any(&filters.desired_states, |state| *state == desired)
        && any(&filters.runtimes, |runtime| runtime == RUNTIME)
        && (!filters.up_to_date || is_up_to_date(tables, task))
}

/// A task that may still run keeps its addresses until its node has stopped it, and only then goes.
pub(super) async fn remove(api: &Control, request: RemoveTaskRequest) -> Result<RemoveTaskResponse, Status> {
    let removed = api.store.update(|tx| {
        let task = find(tx, &request.task_id)?;
        let never_ran = task.node.is_none() || task.status.state < TaskState::Assigned;
        if never_ran || task.status.state.is_terminal() {
            let id = task.id.clone();
            tx.remove(id);
        } else {
            let mut task = Task::clone(task);
            task.desired = TaskState::Remove;
            tx.update(task);
        }
        Ok(())
    });
    removed.await.map_err(status)?;
    Ok(RemoveTaskResponse {})
}

fn find<'a>(tables: &'a Tables, id: &str) -> Result<&'a Arc<Task>, Error> {
    tables.task(&id.into()).ok_or_else(|| Error::not_found("task", id))
}
