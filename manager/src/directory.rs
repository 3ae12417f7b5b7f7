//! The network directory: what a node must know of the networks that its tasks are attached to, and nothing else.
//!
//! Derived from tasks, services and nodes in the store; there is no memory of its own that could disagree with them.
//! A node needs a network while a task that is assigned to it and has not ended is attached to it: nobody can ask for
//! more. What a node does with the entries is the worker's.
//!
//! Invariant: applying a stream's updates in order gives, at each index, what `entry::complete` gives for that index.

mod entry;
mod need;
mod stream;
#[cfg(test)]
mod tests;
mod touched;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use proto::network::directory_server;
use proto::network::{WatchRequest, WatchResponse};
use raft_store::Store;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::dispatcher::Sessions;
use crate::fanout::{Hub, Pace, Subscription};
use crate::peers;
pub use stream::Known;

/// Changes that follow each other within this time are sent together.
const WINDOW: Duration = Duration::from_millis(25);

pub struct Directory {
    hub: Arc<Hub<Known>>,
    sessions: Arc<Sessions>,
}

impl Directory {
    /// The hub has to run while the directory serves.
    pub fn new(store: Store, sessions: Arc<Sessions>) -> (Self, Arc<Hub<Known>>) {
        let hub = Hub::new(store);
        (Self { hub: Arc::clone(&hub), sessions }, hub)
    }
}

type Updates = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

#[tonic::async_trait]
impl directory_server::Directory for Directory {
    type WatchStream = Updates;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Updates>, Status> {
        let node = peers::node_id(&request)?;
        let ended = self.sessions.find(&node, &request.get_ref().session_id)?;
        let subscription = self.hub.subscribe(node.clone(), Known::new(node));
        Ok(Response::new(Box::pin(updates(subscription, ended))))
    }
}

fn updates(
    subscription: Subscription<Known>,
    ended: CancellationToken,
) -> impl Stream<Item = Result<WatchResponse, Status>> + Send {
    async_stream::stream! {
        let mut pace = Pace::new(WINDOW);
        loop {
            // Entries are made without holding up the hub.
            let (due, view) = subscription.read(|view, known| (known.take_due(&view), view));
            let updates = due.updates(&view);
            if !updates.is_empty() {
                yield Ok(WatchResponse { updates });
            }
            if let Err(end) = subscription.due(&mut pace, &ended).await {
                yield Err(end);
                return;
            }
        }
    }
}
