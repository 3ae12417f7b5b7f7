//! The name server that each task finds at 127.0.0.11. See `docs/dns.md`.
//!
//! Decides whom a task is served, from when and until when; what names mean is told by the networks' books, which the
//! directory keeps. Leading 127.0.0.11 to the listener is the sandbox's rules' part (`netdriver`).
//!
//! Invariant: once [`Resolver::withdraw`] has returned, nothing here holds the task's namespace.

mod answer;
mod books;
mod forward;
mod names;
mod server;
mod upstream;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use netdriver::{ResolverSockets, SandboxKey};
use proto::model::TaskId;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use books::{Books, tellable};
pub use names::SHORT_ID;

use server::{Shared, Site};
use upstream::{NodeServers, Upstream};

use crate::backoff::Backoff;
use crate::network::{Kernel, Wish, sandbox_key};

/// Where a task finds its name server: Docker's address.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

const RETRY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));

/// Serves names to the tasks of a node.
#[derive(Clone)]
pub struct Resolver {
    shared: Arc<Shared>,
    serving: Arc<Mutex<BTreeMap<TaskId, Serving>>>,
    tracker: TaskTracker,
    stop: CancellationToken,
}

struct Serving {
    stop: CancellationToken,
    done: JoinHandle<()>,
}

impl Resolver {
    /// Serves until `stop`. `node_file` is the node's `resolv.conf`.
    pub fn new(kernel: Arc<dyn Kernel>, books: Books, node_file: &Path, stop: CancellationToken) -> Self {
        let servers = NodeServers::new(node_file);
        let waiting = Arc::new(Semaphore::new(server::WAITING_OF_NODE));
        let shared = Arc::new(Shared { kernel, books, servers, waiting });
        Self { shared, serving: Arc::default(), tracker: TaskTracker::new(), stop }
    }

    /// Serves a task whose sandbox exists. Once this has returned, its questions are heard.
    pub async fn serve(&self, task: &TaskId, wish: &Wish) -> io::Result<()> {
        self.withdraw(task).await;
        let sockets = self.shared.kernel.resolver_sockets(&sandbox_key(task)).await?;
        let site = self.site(task, wish);
        self.begin(task, |stop| server::serve(site, sockets, stop));
        Ok(())
    }

    /// Serves a task that runs already, as soon as that can be done. One that is served already stays so.
    pub fn keep(&self, task: &TaskId, wish: &Wish) {
        if self.is_serving(task) {
            return;
        }
        let site = self.site(task, wish);
        self.begin(task, |stop| async move {
            let sockets = stop.run_until_cancelled(patiently(&site.shared.kernel, &site.key)).await;
            if let Some(sockets) = sockets {
                server::serve(site, sockets, stop).await;
            }
        });
    }

    /// Whether one of the task's networks knows the name; none while a manager has not told them all.
    pub fn knows(&self, task: &TaskId, wish: &Wish, name: &str) -> Option<bool> {
        let zones = self.shared.books.zones(wish.places.iter().map(|place| place.network.as_ref()))?;
        let view = names::View { own: task, zones };
        Some(view.addresses(&name.to_ascii_lowercase()).is_some())
    }

    /// Who is asked for the names that no network of the task knows.
    pub fn forwards_to(&self, wish: &Wish) -> Vec<std::net::SocketAddr> {
        match Upstream::of(wish) {
            Upstream::Nobody => vec![],
            Upstream::Node => self.shared.servers.get().to_vec(),
            Upstream::Task(servers) => servers,
        }
    }

    /// Returns when the task's sockets are closed.
    pub async fn withdraw(&self, task: &TaskId) {
        let serving = self.serving().remove(task);
        end(serving).await;
    }

    pub async fn withdraw_all(&self) {
        let all = std::mem::take(&mut *self.serving());
        for serving in all.into_values() {
            end(Some(serving)).await;
        }
    }

    /// Resolves when all has ended after `stop`.
    pub async fn ended(&self) {
        self.stop.cancelled().await;
        self.tracker.close();
        self.tracker.wait().await;
    }

    fn is_serving(&self, task: &TaskId) -> bool {
        self.serving().contains_key(task)
    }

    fn site(&self, task: &TaskId, wish: &Wish) -> Arc<Site> {
        Arc::new(Site {
            shared: self.shared.clone(),
            key: sandbox_key(task),
            task: task.clone(),
            places: wish.places.clone(),
            upstream: Upstream::of(wish),
            waiting: Arc::new(Semaphore::new(server::WAITING_OF_TASK)),
        })
    }

    fn begin<F>(&self, task: &TaskId, work: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = self.stop.child_token();
        let done = self.tracker.spawn(work(stop.clone()));
        self.serving().insert(task.clone(), Serving { stop, done });
    }

    fn serving(&self) -> std::sync::MutexGuard<'_, BTreeMap<TaskId, Serving>> {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn end(serving: Option<Serving>) {
    let Some(Serving { stop, done }) = serving else { return };
    stop.cancel();
    // It ends in no other way.
    let _ = done.await;
}

async fn patiently(kernel: &Arc<dyn Kernel>, key: &SandboxKey) -> ResolverSockets {
    let mut backoff = RETRY;
    loop {
        match kernel.resolver_sockets(key).await {
            Ok(sockets) => return sockets,
            Err(error) => tracing::warn!(sandbox = %key, %error, "cannot serve names to a task yet"),
        }
        tokio::time::sleep(backoff.delay(rand::random())).await;
    }
}
