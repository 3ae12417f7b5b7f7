//! The network directory: what a node must know of the networks that its tasks are attached to, and nothing else.
//!
//! Derived from tasks, services and nodes in the store; there is no memory of its own that could disagree with them.
//! A node needs a network while a task that is assigned to it and has not ended is attached to it: nobody can ask for
//! more. What a node does with the entries is the worker's.
//!
//! A node that comes from another manager says up to which index it was told things; a manager that lags behind that
//! catches up before it tells anything, so that nothing goes back on the node. It also says which moment its knowledge of
//! each network is of: it is told what has changed since, if the manager's `journal` goes back so far, and everything
//! otherwise.
//!
//! Invariant: applying a stream's updates in order gives, at each index, what `entry::complete` gives for that index.

mod confirmations;
mod entry;
mod gate;
mod handover;
mod journal;
mod need;
mod report;
mod stream;
mod tell;
#[cfg(test)]
mod tests;
mod touched;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use proto::model::{NetworkId, NodeId};
use proto::network::directory_server;
use proto::network::{
    ConfirmRequest, ConfirmResponse, DrainRequest, DrainResponse, Moment, ReportKeysRequest,
    ReportKeysResponse, WatchRequest, WatchResponse,
};
use raft_store::Store;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::dispatcher::Sessions;
use crate::fanout::{Hub, Pace, Subscription};
use crate::peers::{self, Peers};
use confirmations::{Confirmations, Confirmed};
pub use entry::{is_ready, mac};
use gate::Gate;
pub use handover::is_over;
pub use need::members;
pub use stream::Known;
pub use tell::{Ear, Teller};

/// Changes that follow each other within this time are sent together.
const WINDOW: Duration = Duration::from_millis(25);

/// Networks that a node can name in one call.
const MOST_NAMED: usize = 10_000;
/// How long a manager may take to catch up with what a node knows. One that hears its leader lags by much less, unless the
/// swarm is one that was restored from a backup and knows less than its nodes.
const CATCH_UP: Duration = Duration::from_secs(10);

pub struct Directory {
    store: Store,
    hub: Arc<Hub<Known>>,
    sessions: Arc<Sessions>,
    confirmations: Arc<Confirmations>,
    gate: Gate,
    to_managers: mpsc::UnboundedSender<Confirmed>,
}

/// What has to run while the directory serves, and the ear for other managers.
pub struct Driver {
    pub hub: Arc<Hub<Known>>,
    pub teller: Teller,
    pub ear: Ear,
}

impl Directory {
    /// `own` is the node of this manager.
    pub fn new(store: Store, sessions: Arc<Sessions>, own: NodeId, peers: Peers) -> (Self, Driver) {
        let hub = Hub::new(store.clone());
        let confirmations = Arc::<Confirmations>::default();
        let (to_managers, news) = mpsc::unbounded_channel();
        let driver = Driver {
            hub: Arc::clone(&hub),
            teller: Teller { own, store: store.clone(), peers, news },
            ear: Ear { store: store.clone(), confirmations: Arc::clone(&confirmations) },
        };
        (Self { store, hub, sessions, confirmations, gate: Gate::default(), to_managers }, driver)
    }
}

type Updates = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

#[tonic::async_trait]
impl directory_server::Directory for Directory {
    type WatchStream = Updates;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Updates>, Status> {
        let node = peers::node_id(&request)?;
        let ended = self.sessions.find(&node, &request.get_ref().session_id)?;
        let WatchRequest { index, known, .. } = request.into_inner();
        if known.len() > MOST_NAMED {
            return Err(Status::invalid_argument(format!("known: at most {MOST_NAMED} are allowed")));
        }
        let known = known.into_iter().filter_map(|known| Some((known.network_id.into(), known.moment?)));
        let known: BTreeMap<NetworkId, Moment> = known.collect();
        let latest = known.values().map(|moment| moment.index).max().unwrap_or_default();
        let caught_up = catch_up(self.store.clone(), Arc::clone(&self.hub), index, latest);
        let subscription = self.hub.subscribe(node.clone(), Known::new(node.clone(), known));
        Ok(Response::new(Box::pin(updates(caught_up, subscription, node, ended))))
    }

    async fn confirm(&self, request: Request<ConfirmRequest>) -> Result<Response<ConfirmResponse>, Status> {
        let node = peers::node_id(&request)?;
        let ConfirmRequest { session_id, confirmed } = request.into_inner();
        self.sessions.find(&node, &session_id)?;
        if confirmed.len() > MOST_NAMED {
            return Err(Status::invalid_argument(format!("confirmed: at most {MOST_NAMED} are allowed")));
        }
        let entries = confirmed.into_iter();
        let entries = entries.map(|entry| ((node.clone(), entry.network_id.into()), entry.index));
        let confirmed: Confirmed = entries.collect();
        self.confirmations.add(&self.store.view(), &confirmed);
        // Nobody hears it while the manager stops.
        let _ = self.to_managers.send(confirmed);
        Ok(Response::new(ConfirmResponse {}))
    }

    async fn drain(&self, request: Request<DrainRequest>) -> Result<Response<DrainResponse>, Status> {
        let node = peers::node_id(&request)?;
        let DrainRequest { session_id, task_id } = request.into_inner();
        let ended = self.sessions.find(&node, &session_id)?;
        let task = task_id.into();
        if self.store.view().task(&task).is_some_and(|task| task.node.as_ref() == Some(&node)) {
            let drained = self.confirmations.drained(&self.store, &task);
            let drained = tokio::time::timeout(confirmations::PATIENCE, drained);
            match ended.run_until_cancelled(drained).await {
                Some(Ok(())) => {}
                Some(Err(_)) => tracing::warn!(%task, "stops though not all nodes have confirmed to know it"),
                None => return Err(Status::unavailable("the session has ended: register again")),
            }
        }
        Ok(Response::new(DrainResponse {}))
    }

    async fn report_keys(
        &self,
        request: Request<ReportKeysRequest>,
    ) -> Result<Response<ReportKeysResponse>, Status> {
        let node = peers::node_id(&request)?;
        let ReportKeysRequest { session_id, reports, index } = request.into_inner();
        let ended = self.sessions.find(&node, &session_id)?;
        // On an older view the reports would be taken for wrong ones.
        let caught_up = catch_up(self.store.clone(), Arc::clone(&self.hub), index, 0);
        ended.run_until_cancelled(caught_up).await.transpose()?;
        report::write(&self.store, &self.gate, &node, reports).await?;
        Ok(Response::new(ReportKeysResponse {}))
    }
}

/// Waits until the replica has what the node knows, up to `index`, and the journal the moments, of which `latest` is one.
async fn catch_up(store: Store, hub: Arc<Hub<Known>>, index: u64, latest: u64) -> Result<(), Status> {
    let following = async { tokio::join!(store.applied(index), hub.followed(latest)) };
    let caught_up = tokio::time::timeout(CATCH_UP, following).await.is_ok();
    if caught_up || store.leadership().borrow().leader.is_some() {
        return Ok(());
    }
    Err(Status::unavailable(format!("this manager has not caught up with index {index}: ask another one")))
}

fn updates(
    caught_up: impl Future<Output = Result<(), Status>> + Send,
    subscription: Subscription<Known>,
    node: NodeId,
    ended: CancellationToken,
) -> impl Stream<Item = Result<WatchResponse, Status>> + Send {
    async_stream::stream! {
        if let Some(Err(behind)) = ended.run_until_cancelled(caught_up).await {
            yield Err(behind);
            return;
        }
        let mut pace = Pace::new(WINDOW);
        loop {
            // Entries are made without holding up the hub.
            let (due, view, moment) =
                subscription.read(|view, known, recent| (known.take_due(&view, recent), view, recent.now()));
            let updates = due.updates(&view, &node);
            if !updates.is_empty() {
                yield Ok(WatchResponse { updates, moment: Some(moment) });
            }
            if let Err(end) = subscription.due(&mut pace, &ended).await {
                yield Err(end);
                return;
            }
        }
    }
}
