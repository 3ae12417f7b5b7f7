//! A client subscribes: what comes from the nodes here and from the other managers, as one stream.

use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{BoxStream, SelectAll, select_all};
use futures_util::{Stream, StreamExt};
use proto::model::NodeId;
use proto::wire::logs_client::LogsClient;
use proto::wire::{
    LogContext, LogMessage, LogSelector, LogSubscriptionOptions, SubscribeLogsMessage, SubscribeLogsRequest,
};
use raft_store::{Commit, Object, Tables};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status};

use super::{Logs, RELAYED, selection};

/// How long another manager may take to answer.
const RELAY_TIMEOUT: Duration = Duration::from_secs(3);

type Lines = BoxStream<'static, Result<SubscribeLogsMessage, Status>>;

/// What comes from the nodes here; for a client, also from those of the other managers.
///
/// Ends by itself once all nodes have sent what there is, unless it follows. Its last item is an error if some output
/// is missing. To a manager it first tells which nodes are heard here.
pub async fn stream(
    logs: Logs,
    selector: LogSelector,
    options: LogSubscriptionOptions,
    relayed: bool,
) -> impl Stream<Item = Result<SubscribeLogsMessage, Status>> + Send {
    let mut watch = logs.store.watch();
    let (subscription, input) = logs.broker.subscribe(&watch.view, selector.clone(), options.clone());
    let heard = subscription.heard();
    let relays = if relayed { Vec::new() } else { relay(&logs, &selector, &options).await };
    let silent =
        silent(&watch.view, &selector, heard.iter().chain(relays.iter().flat_map(|relay| &relay.nodes)));
    let mut missing = silent.filter(|_| !relayed && !options.follow);
    let mut lines: SelectAll<Lines> = select_all(relays.into_iter().map(|relay| relay.lines));
    lines.push(ReceiverStream::new(input).boxed());
    async_stream::stream! {
        if relayed {
            yield Ok(roll_call(&heard));
        }
        loop {
            tokio::select! {
                line = lines.next() => match line {
                    Some(Ok(line)) => yield Ok(line),
                    Some(Err(error)) => missing = Some(error),
                    None => break,
                },
                commit = watch.next(), if options.follow => match commit {
                    Ok(commit) => subscription.follow(new_nodes(&commit, &selector)),
                    Err(_) => {
                        watch = logs.store.watch();
                        subscription.follow(selection::nodes(&watch.view, &selector));
                    }
                },
                () = logs.stop.cancelled() => {
                    missing = Some(Status::unavailable("the manager is stopping"));
                    break;
                }
            }
        }
        if let Some(error) = missing {
            yield Err(error);
        }
    }
}

/// Nodes to which this commit brought tasks that are meant.
fn new_nodes(commit: &Commit, selector: &LogSelector) -> Vec<NodeId> {
    let tasks = commit.changes.iter().filter_map(|change| match &change.after {
        Some(Object::Task(task)) => Some(task),
        _ => None,
    });
    tasks.filter(|task| selection::selects(selector, task)).filter_map(|task| task.node.clone()).collect()
}

/// An error that names a node whose output is meant and that no manager hears.
fn silent<'a>(
    tables: &Tables,
    selector: &LogSelector,
    heard: impl Iterator<Item = &'a NodeId>,
) -> Option<Status> {
    let mut nodes = selection::nodes(tables, selector);
    for node in heard {
        nodes.remove(node);
    }
    let silent = nodes.first()?;
    let hostname = tables.node(silent).map_or("", |node| node.hostname());
    Some(Status::unavailable(format!(
        "the output on node {silent} ({hostname}) is missing: it does not answer"
    )))
}

/// Another manager's part.
struct Relay {
    nodes: Vec<NodeId>,
    lines: Lines,
}

/// The same subscription at each of the other managers. One that does not answer hears no node.
async fn relay(logs: &Logs, selector: &LogSelector, options: &LogSubscriptionOptions) -> Vec<Relay> {
    let relays = logs.other_managers().into_iter().map(|addr| async move {
        let asking = ask(logs, &addr, selector.clone(), options.clone());
        let answer = tokio::time::timeout(RELAY_TIMEOUT, asking).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")));
        answer
            .inspect_err(|error| tracing::info!(%addr, %error, "another manager does not relay output"))
            .ok()
    });
    join_all(relays).await.into_iter().flatten().collect()
}

async fn ask(
    logs: &Logs,
    addr: &str,
    selector: LogSelector,
    options: LogSubscriptionOptions,
) -> Result<Relay, Status> {
    let mut client = LogsClient::new(logs.peers.channel(addr)?);
    let mut request = Request::new(SubscribeLogsRequest { selector: Some(selector), options: Some(options) });
    request.metadata_mut().insert(RELAYED, MetadataValue::from_static("1"));
    let mut lines = client.subscribe_logs(request).await?.into_inner();
    let roll_call = lines.message().await?.unwrap_or_default();
    Ok(Relay { nodes: present(roll_call), lines: lines.boxed() })
}

/// The nodes that are heard, as messages without content.
fn roll_call(nodes: &[NodeId]) -> SubscribeLogsMessage {
    let messages = nodes.iter().map(|node| LogMessage {
        context: Some(LogContext { node_id: node.to_string(), ..Default::default() }),
        ..Default::default()
    });
    SubscribeLogsMessage { messages: messages.collect() }
}

fn present(roll_call: SubscribeLogsMessage) -> Vec<NodeId> {
    let contexts = roll_call.messages.into_iter().filter_map(|message| message.context);
    contexts.map(|context| context.node_id.into()).collect()
}
