//! The node's network as its tasks need it: assignments and directory in, `netdriver::Desired` out.
//!
//! Decides when a task's sandbox counts as complete and what of the kernel may be touched; how the kernel is
//! brought there is `netdriver`'s. A network exists here exactly while a task is attached to it.
//!
//! Invariant: once [`Networks::detach`] has succeeded, no address of the task is in this kernel any more.

mod actor;
mod book;
mod confirm;
mod corruption;
mod directory;
mod encryption;
mod keeper;
mod kernel;
mod memory;
mod services;
mod state;
mod underlay;
mod wish;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ipnet::IpNet;
use proto::model::{NetworkId, NodeId, TaskId};
use proto::network::{WatchRequest, WatchResponse};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

pub(crate) use actor::{Known, Told};
pub use book::{Bearer, Book, Endpoint, VirtualIp};
pub use confirm::Confirmed;
pub use directory::Error as DirectoryError;
pub use encryption::KeysReport;
pub use keeper::Keeper;
pub use kernel::{Kernel, Outcome};
pub use memory::Write;
pub use state::Underlay;
pub use underlay::{local_towards, mtu_problem, path_mtu};
pub use wish::{OverlayNetwork, Place, Wish};
pub(crate) use wish::{network_key, sandbox_key};

use actor::{Actor, Request};

use crate::dns::{Books, Resolver};

/// How long an audit waits for what else is to be done.
const AUDIT_PATIENCE: Duration = Duration::from_secs(20);
/// Where the node's own name servers are named.
const NODE_FILE: &str = "/etc/resolv.conf";

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("network: {0}")]
    Kernel(String),
    #[error("network: cannot serve names to the task: {0}")]
    Resolver(String),
    #[error("network: no manager has told yet what this node's networks are to be")]
    Untold,
    #[error("network: other changes did not come to an end within {0:?}")]
    Busy(Duration),
    #[error("network: this node is stopping")]
    Stopped,
}

/// Speaks to the one actor that owns the node's network.
#[derive(Clone)]
pub struct Networks {
    requests: mpsc::UnboundedSender<Request>,
    kernel: Arc<dyn Kernel>,
    resolver: Resolver,
    mended: Arc<AtomicU64>,
    corruption: watch::Receiver<Option<String>>,
    confirmed: watch::Receiver<Confirmed>,
    reports: watch::Receiver<BTreeMap<NetworkId, KeysReport>>,
}

impl Networks {
    /// The handle, and the actor's run until `stop`. `underlay` is the last known one, if any.
    pub fn new(
        kernel: Arc<dyn Kernel>,
        own: NodeId,
        underlay: Option<Underlay>,
        keeper: Keeper,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (requests, received) = mpsc::unbounded_channel();
        let mended = Arc::<AtomicU64>::default();
        let books = Books::default();
        let (reporting, reports) = watch::channel(BTreeMap::new());
        let actor =
            Actor::new(kernel.clone(), own, underlay, books.clone(), mended.clone(), reporting, keeper);
        let confirmed = actor.confirmed();
        let resolver = Resolver::new(kernel.clone(), books, Path::new(NODE_FILE), stop.clone());
        let serving = resolver.clone();
        let (told, corruption) = watch::channel(None);
        let watching = corruption::watch(kernel.clone(), told, stop.clone());
        let run = async move {
            tokio::join!(actor.run(received, stop), serving.ended(), watching);
        };
        (Self { requests, kernel, resolver, mended, corruption, confirmed, reports }, run)
    }

    /// Where the namespace of a task is, whether it exists or not.
    pub fn sandbox_path(&self, task: &TaskId) -> PathBuf {
        self.kernel.sandbox_path(&wish::sandbox_key(task))
    }

    /// What this node routes by itself, without its overlays.
    pub async fn routes(&self) -> BTreeSet<IpNet> {
        self.kernel.routes().await
    }

    /// The task runs already: its sandbox stays as it is.
    pub fn keep(&self, task: TaskId, wish: Wish) {
        self.resolver.keep(&task, &wish);
        self.send(Request::Keep(task, wish));
    }

    /// Makes the task's sandbox. Resolves when it exists, its networks are what the managers say now, and names are
    /// served there; waits for a manager if none is connected.
    pub async fn attach(&self, task: TaskId, wish: Wish) -> Result<(), Error> {
        self.ask(|reply| Request::Attach(task.clone(), wish.clone(), reply)).await??;
        self.resolver.serve(&task, &wish).await.map_err(|error| Error::Resolver(error.to_string()))
    }

    /// Takes the sandbox away, and the networks that no other task here needs. Succeeds if there is none. An error
    /// means that something may be left: ask again.
    pub async fn detach(&self, task: TaskId, wish: Wish) -> Result<(), Error> {
        self.resolver.withdraw(&task).await;
        self.ask(|reply| Request::Detach(task, wish, reply)).await?
    }

    /// A session began: its directory stream will tell everything anew, or what has changed.
    pub fn begin(&self, underlay: Underlay) {
        self.send(Request::Begin(underlay));
    }

    /// What to ask of the directory in a session: nothing older than was told before, and of the networks that are known
    /// only what has changed.
    pub async fn watch_request(&self, session_id: &str) -> WatchRequest {
        // A stopped actor needs no directory.
        let (index, known) = self.ask(Request::Known).await.unwrap_or_default();
        WatchRequest { session_id: session_id.to_owned(), index, known }
    }

    /// The highest index at which anything was told.
    pub async fn told_up_to(&self) -> u64 {
        self.ask(Request::Known).await.map_or(0, |(index, _)| index)
    }

    /// Takes what the directory stream told. An error means that the stream cannot be trusted any more.
    pub async fn update(&self, told: WatchResponse) -> Result<(), DirectoryError> {
        self.ask(|reply| Request::Update(told, reply)).await.unwrap_or(Ok(()))
    }

    /// Which updates the kernel works by, of those that a manager has asked about.
    pub fn confirmed(&self) -> watch::Receiver<Confirmed> {
        self.confirmed.clone()
    }

    /// What this node goes by for a task of its own, and on one of its networks; none if it has no such task.
    pub(crate) async fn known(&self, task: &TaskId, network: Option<&NetworkId>) -> Option<Known> {
        self.ask(|reply| Request::Know(task.clone(), network.cloned(), reply)).await.ok().flatten()
    }

    pub(crate) fn kernel(&self) -> &Arc<dyn Kernel> {
        &self.kernel
    }

    pub(crate) fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// All tasks of this node are known: what nobody wants is removed, and the node is looked at periodically.
    pub fn settle(&self) {
        self.send(Request::Settle);
    }

    /// Looks at the whole node as soon as nothing else is to be done; what had to be mended, a line each.
    pub async fn audit(&self) -> Result<Vec<String>, Error> {
        let audited = tokio::time::timeout(AUDIT_PATIENCE, self.ask(Request::Audit)).await;
        audited.map_err(|_| Error::Busy(AUDIT_PATIENCE))??
    }

    /// Removes everything.
    pub async fn clear(&self) -> Result<(), Error> {
        self.resolver.withdraw_all().await;
        self.ask(Request::Clear).await?
    }

    /// What is to be reported to the managers of encrypted networks.
    pub fn reports(&self) -> watch::Receiver<BTreeMap<NetworkId, KeysReport>> {
        self.reports.clone()
    }

    /// Changes made so far by audits, which should have found nothing to do.
    pub fn mended(&self) -> u64 {
        self.mended.load(Ordering::Relaxed)
    }

    /// What is wrong with the packets that tasks get, in one line.
    pub fn corruption(&self) -> Option<String> {
        self.corruption.borrow().clone()
    }

    fn send(&self, request: Request) {
        // The actor is gone only while the worker stops; then nothing more is to be done.
        let _ = self.requests.send(request);
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.send(request(reply));
        answer.await.map_err(|_| Error::Stopped)
    }
}
