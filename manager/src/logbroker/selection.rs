//! Which tasks a selector means. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use proto::model::{NodeId, Task};
use proto::wire::LogSelector;
use raft_store::Tables;

use crate::api::limits;
use crate::error::Error;

/// A selector must name something, and all that it names must exist.
pub fn check(tables: &Tables, selector: &LogSelector) -> Result<(), Error> {
    let LogSelector { service_ids, node_ids, task_ids } = selector;
    limits::count("selector", service_ids.len() + node_ids.len() + task_ids.len())?;
    if service_ids.is_empty() && node_ids.is_empty() && task_ids.is_empty() {
        return Err(Error::invalid("selector", "", "a service, a node or a task is needed"));
    }
    let service = service_ids.iter().find(|id| tables.service(&id.as_str().into()).is_none());
    let node = node_ids.iter().find(|id| tables.node(&id.as_str().into()).is_none());
    let task = task_ids.iter().find(|id| tables.task(&id.as_str().into()).is_none());
    match (service, node, task) {
        (Some(id), ..) => Err(Error::not_found("service", id)),
        (_, Some(id), _) => Err(Error::not_found("node", id)),
        (_, _, Some(id)) => Err(Error::not_found("task", id)),
        (None, None, None) => Ok(()),
    }
}

pub fn selects(selector: &LogSelector, task: &Task) -> bool {
    let names = |ids: &[String], id: &str| ids.iter().any(|named| named == id);
    names(&selector.service_ids, task.service.as_str())
        || names(&selector.task_ids, task.id.as_str())
        || task.node.as_ref().is_some_and(|node| names(&selector.node_ids, node.as_str()))
}

/// The nodes that hold output of tasks that the selector means.
pub fn nodes(tables: &Tables, selector: &LogSelector) -> BTreeSet<NodeId> {
    let by_service = selector.service_ids.iter().flat_map(|id| tables.tasks_by_service(&id.as_str().into()));
    let by_node = selector.node_ids.iter().flat_map(|id| tables.tasks_by_node(&id.as_str().into()));
    let by_id = selector.task_ids.iter().filter_map(|id| tables.task(&id.as_str().into()));
    let holder = |task: &Arc<Task>| task.node.clone();
    by_service.chain(by_node).chain(by_id).filter_map(holder).collect()
}
