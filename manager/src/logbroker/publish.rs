//! A node publishes: each message is checked to be about a task of its own that the subscription means.

use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use proto::model::NodeId;
use proto::wire::{LogMessage, LogSelector, PublishLogsMessage, SubscribeLogsMessage};
use raft_store::{Store, Tables};
use tonic::Status;

use super::broker::{Broker, Publisher};
use super::selection;

pub async fn run(
    broker: &Arc<Broker>,
    store: &Store,
    node: &NodeId,
    mut published: impl Stream<Item = Result<PublishLogsMessage, Status>> + Unpin,
) -> Result<(), Status> {
    let mut publisher: Option<(String, Publisher)> = None;
    while let Some(message) = published.next().await {
        let PublishLogsMessage { subscription_id, messages, close } = message?;
        if publisher.as_ref().is_none_or(|(id, _)| *id != subscription_id) {
            let found = broker.publisher(&subscription_id, node);
            let found =
                found.ok_or_else(|| Status::not_found("nobody waits for this output: stop publishing"))?;
            publisher = Some((subscription_id, found));
        }
        let Some((_, open)) = &publisher else { continue };
        let messages = admitted(&store.view(), node, &open.selector, messages)?;
        if !messages.is_empty() && !open.send(SubscribeLogsMessage { messages }).await {
            return Ok(());
        }
        if close {
            publisher = None;
        }
    }
    Ok(())
}

/// Output of a task that is no more is dropped: it cannot be told whose it was.
fn admitted(
    tables: &Tables,
    node: &NodeId,
    selector: &LogSelector,
    messages: Vec<LogMessage>,
) -> Result<Vec<LogMessage>, Status> {
    let mut admitted = Vec::with_capacity(messages.len());
    for mut message in messages {
        let context = message.context.get_or_insert_default();
        let Some(task) = tables.task(&context.task_id.as_str().into()) else { continue };
        if task.node.as_ref() != Some(node) || !selection::selects(selector, task) {
            let denied = format!("task {} is not one of node {node} that was asked for", task.id);
            return Err(Status::permission_denied(denied));
        }
        context.node_id = node.to_string();
        context.service_id = task.service.to_string();
        admitted.push(message);
    }
    Ok(admitted)
}
