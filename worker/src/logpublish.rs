//! Sends the output of this node's tasks to a manager that has a client for it.
//!
//! Decides which tasks a subscription means and how much is under way at once; what output there is and in what order
//! is the runtime's. A subscription ends with the session, with its client, or when everything was sent.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::{BoxStream, SelectAll};
use proto::model::{NodeId, ServiceId, TaskId};
use proto::wire::log_broker_client::LogBrokerClient;
use proto::wire::{
    ListenSubscriptionsRequest, LogContext, LogMessage, LogSelector, LogStream, LogSubscriptionOptions,
    PublishLogsMessage, SubscriptionMessage,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::agent::SessionError;
use crate::logs::{LogLine, LogQuery, LogSource};
use crate::runtime::Runtime;
use crate::task::Roster;

/// Subscriptions served at once.
const SUBSCRIPTIONS: usize = 64;
/// Most lines in one message, and most messages on the way to the manager.
const LINES: usize = 100;
const MESSAGES: usize = 8;

/// Serves the log subscriptions of sessions.
#[derive(Clone)]
pub(crate) struct LogPublisher {
    pub node: NodeId,
    pub runtime: Arc<dyn Runtime>,
    pub roster: watch::Receiver<Roster>,
}

type Lines = SelectAll<BoxStream<'static, LogMessage>>;

impl LogPublisher {
    /// Serves until the manager ends the stream of subscriptions; with it end all that are under way.
    pub async fn serve(&self, channel: Channel) -> Result<Infallible, SessionError> {
        const CALL: &str = "ListenSubscriptions";
        let mut broker = LogBrokerClient::new(channel);
        let listening = broker.listen_subscriptions(ListenSubscriptionsRequest {}).await;
        let mut stream = listening.map_err(|status| SessionError::call(CALL, status))?.into_inner();
        let mut running = JoinSet::new();
        let mut open: BTreeMap<String, CancellationToken> = BTreeMap::new();
        loop {
            tokio::select! {
                message = stream.message() => {
                    let message = message.map_err(|status| SessionError::call(CALL, status))?;
                    let message = message.ok_or(SessionError::Ended(CALL))?;
                    self.follow(message, &broker, &mut running, &mut open);
                }
                Some(ended) = running.join_next() => {
                    if let Ok(id) = ended {
                        open.remove(&id);
                    }
                }
            }
        }
    }

    fn follow(
        &self,
        message: SubscriptionMessage,
        broker: &LogBrokerClient<Channel>,
        running: &mut JoinSet<String>,
        open: &mut BTreeMap<String, CancellationToken>,
    ) {
        let id = message.id.clone();
        if message.close {
            if let Some(close) = open.remove(&id) {
                close.cancel();
            }
        } else if open.len() >= SUBSCRIPTIONS {
            tracing::warn!(subscription = id, "too many log subscriptions at once; this one gets nothing");
        } else if !open.contains_key(&id) {
            let close = CancellationToken::new();
            open.insert(id.clone(), close.clone());
            let (publisher, broker) = (self.clone(), broker.clone());
            running.spawn(async move {
                close.run_until_cancelled(publisher.publish(message, broker)).await;
                id
            });
        }
    }

    async fn publish(&self, subscription: SubscriptionMessage, mut broker: LogBrokerClient<Channel>) {
        let (sender, messages) = mpsc::channel(MESSAGES);
        let reading = self.read(subscription, sender);
        let sending = broker.publish_logs(ReceiverStream::new(messages));
        let ((), sent) = tokio::join!(reading, sending);
        if let Err(status) = sent {
            tracing::debug!(reason = status.message(), "a log subscription ended early");
        }
    }

    async fn read(&self, subscription: SubscriptionMessage, sender: mpsc::Sender<PublishLogsMessage>) {
        let selector = subscription.selector.unwrap_or_default();
        let options = subscription.options.unwrap_or_default();
        let message = |messages, close| PublishLogsMessage {
            subscription_id: subscription.id.clone(),
            messages,
            close,
        };
        let mut roster = self.roster.clone();
        let mut joined = BTreeSet::new();
        let mut lines = Lines::new();
        loop {
            let tasks = roster.borrow_and_update().clone();
            self.join(tasks, &selector, &options, &mut joined, &mut lines);
            let mut chunks = (&mut lines).ready_chunks(LINES);
            tokio::select! {
                Some(chunk) = chunks.next() => {
                    if sender.send(message(chunk, false)).await.is_err() {
                        return;
                    }
                }
                Ok(()) = roster.changed(), if options.follow => {}
                () = sender.closed(), if options.follow => return,
                else => break,
            }
        }
        // Its client may be gone.
        let _ = sender.send(message(Vec::new(), true)).await;
    }

    /// Adds the output of those tasks that are selected and not there yet.
    fn join(
        &self,
        tasks: Roster,
        selector: &LogSelector,
        options: &LogSubscriptionOptions,
        joined: &mut BTreeSet<TaskId>,
        lines: &mut Lines,
    ) {
        for (task, service) in tasks {
            if selects(selector, &self.node, &task, &service) && joined.insert(task.clone()) {
                lines.push(self.lines(&task, service, options));
            }
        }
    }

    fn lines(
        &self,
        task: &TaskId,
        service: ServiceId,
        options: &LogSubscriptionOptions,
    ) -> BoxStream<'static, LogMessage> {
        let context = LogContext {
            service_id: service.into(),
            node_id: self.node.to_string(),
            task_id: task.to_string(),
        };
        let lines = self.runtime.logs(task.as_str(), query(options));
        let lines = lines.skip(usize::try_from(options.tail).unwrap_or(0));
        let messages = lines.filter_map(move |line| {
            let line = line.inspect_err(|error| tracing::warn!(%error, "cannot read the output of a task"));
            std::future::ready(line.ok().map(|line| message(&context, line)))
        });
        messages.boxed()
    }
}

fn message(context: &LogContext, line: LogLine) -> LogMessage {
    let stream = match line.source {
        LogSource::Stdout => LogStream::Stdout,
        LogSource::Stderr => LogStream::Stderr,
    };
    LogMessage {
        context: Some(context.clone()),
        timestamp: Some(line.time.into()),
        stream: stream.into(),
        data: line.data,
        attrs: Vec::new(),
    }
}

fn selects(selector: &LogSelector, node: &NodeId, task: &TaskId, service: &ServiceId) -> bool {
    let names = |ids: &[String], id: &str| ids.iter().any(|named| named == id);
    names(&selector.task_ids, task.as_str())
        || names(&selector.service_ids, service.as_str())
        || names(&selector.node_ids, node.as_str())
}

/// `tail` is SwarmKit's: 0 is everything, -1 nothing, -n-1 the last n lines; a positive number of lines is skipped.
fn query(options: &LogSubscriptionOptions) -> LogQuery {
    let wants = |stream: LogStream| options.streams.is_empty() || options.streams.contains(&stream.into());
    LogQuery {
        tail: (options.tail < 0).then(|| options.tail.unsigned_abs() - 1),
        since: options.since.and_then(|since| since.try_into().ok()),
        follow: options.follow,
        stdout: wants(LogStream::Stdout),
        stderr: wants(LogStream::Stderr),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_and_streams() {
        let options = |tail, streams: &[LogStream]| LogSubscriptionOptions {
            tail,
            streams: streams.iter().map(|stream| (*stream).into()).collect(),
            ..Default::default()
        };
        assert_eq!(query(&options(0, &[])), LogQuery::default());
        assert_eq!(query(&options(-1, &[])).tail, Some(0));
        assert_eq!(query(&options(-11, &[])).tail, Some(10));
        let only = query(&options(5, &[LogStream::Stderr]));
        assert_eq!((only.tail, only.stdout, only.stderr), (None, false, true));
    }

    #[test]
    fn a_task_is_selected_by_its_own_id_its_service_or_its_node() {
        let selected = |selector: LogSelector| selects(&selector, &"n1".into(), &"t1".into(), &"s1".into());
        assert!(selected(LogSelector { service_ids: vec!["s1".into()], ..Default::default() }));
        assert!(selected(LogSelector { task_ids: vec!["t1".into()], ..Default::default() }));
        assert!(selected(LogSelector { node_ids: vec!["n1".into()], ..Default::default() }));
        assert!(!selected(LogSelector { node_ids: vec!["t1".into()], ..Default::default() }));
    }
}
