//! Task output on its way from the nodes that hold it to a client that asked for it.
//!
//! A node hears of subscriptions from the manager that serves it, and that need not be the one the client asked: so
//! that one asks the other managers the same, for the nodes that they serve. What a node publishes is believed only
//! for its own tasks, and only as far as the subscription asked for them.
//!
//! Invariant: buffers are bounded; a client that reads slowly slows the nodes down, and one that goes ends it all.

mod broker;
mod publish;
mod selection;
mod subscribe;

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use identity::Peer;
use proto::model::{NodeId, Role};
use proto::wire::{
    ListenSubscriptionsRequest, PublishLogsMessage, PublishLogsResponse, SubscribeLogsMessage,
    SubscribeLogsRequest, SubscriptionMessage, log_broker_server, logs_server,
};
use raft_store::Store;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::managers::Managers;
use crate::peers::{self, Peers};
use broker::Broker;

/// Says that a manager asks, for the nodes that the other one serves and for no more.
const RELAYED: &str = "swarm-logs-relayed";

#[derive(Clone)]
pub struct Logs {
    node: NodeId,
    store: Store,
    peers: Peers,
    broker: Arc<Broker>,
    stop: CancellationToken,
}

impl Logs {
    /// `node` is the one on which this manager runs. All streams end with `stop`.
    pub fn new(node: NodeId, store: Store, peers: Peers, stop: CancellationToken) -> Self {
        Self { node, store, peers, broker: Arc::default(), stop }
    }

    fn other_managers(&self) -> Vec<String> {
        Managers::of(&self.store).other_addrs(&self.node)
    }
}

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl logs_server::Logs for Logs {
    type SubscribeLogsStream = Messages<SubscribeLogsMessage>;

    async fn subscribe_logs(
        &self,
        request: Request<SubscribeLogsRequest>,
    ) -> Result<Response<Self::SubscribeLogsStream>, Status> {
        let by_manager = matches!(Peer::of(request.extensions()), Peer::Node { role: Role::Manager, .. });
        let relayed = by_manager && request.metadata().contains_key(RELAYED);
        let SubscribeLogsRequest { selector, options } = request.into_inner();
        let (selector, options) = (selector.unwrap_or_default(), options.unwrap_or_default());
        selection::check(&self.store.view(), &selector)?;
        let stream = subscribe::stream(self.clone(), selector, options, relayed).await;
        Ok(Response::new(Box::pin(stream)))
    }
}

#[tonic::async_trait]
impl log_broker_server::LogBroker for Logs {
    type ListenSubscriptionsStream = Messages<SubscriptionMessage>;

    async fn listen_subscriptions(
        &self,
        request: Request<ListenSubscriptionsRequest>,
    ) -> Result<Response<Self::ListenSubscriptionsStream>, Status> {
        let node = peers::node_id(&request)?;
        let mut listener = self.broker.listen(node, &self.store.view());
        let stop = self.stop.clone();
        let stream = async_stream::stream! {
            while let Some(Some(message)) = stop.run_until_cancelled(listener.next()).await {
                yield Ok(message);
            }
        };
        Ok(Response::new(Box::pin(stream)))
    }

    async fn publish_logs(
        &self,
        request: Request<Streaming<PublishLogsMessage>>,
    ) -> Result<Response<PublishLogsResponse>, Status> {
        let node = peers::node_id(&request)?;
        let publishing = publish::run(&self.broker, &self.store, &node, request.into_inner());
        let stopping = || Status::unavailable("the manager is stopping");
        self.stop.run_until_cancelled(publishing).await.ok_or_else(stopping)??;
        Ok(Response::new(PublishLogsResponse {}))
    }
}
