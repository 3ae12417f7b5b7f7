//! The replicated object store: `view`, `update`, `watch`.
//!
//! A view is an immutable snapshot. An update runs its closure on a snapshot and makes a change set; the change set
//! is one Raft entry, and the state machine applies it only if the objects are still as they were read and the
//! invariants hold. A watch is a snapshot plus every commit after it. The only crate that knows openraft; what the
//! objects mean is left to the manager.
//!
//! Invariant: what an update returned survives any minority of managers dying at any instant.

pub mod backup;
mod change_set;
mod codec;
mod compaction;
mod disk;
#[cfg(test)]
#[path = "../tests/common/objects.rs"]
mod fixtures;
mod forward;
mod giving_way;
mod hard_state;
mod host;
mod key;
mod leadership;
mod log;
pub mod membership;
mod memory;
mod object;
mod options;
mod read;
mod refound;
mod rekey;
mod replica;
mod replicated;
#[cfg(test)]
mod simulation;
mod snapshot;
mod state_machine;
mod tables;
mod transaction;
mod transport;
mod types;
mod update;
mod violation;
mod watch;

use std::sync::Arc;
use std::time::SystemTime;

use proto::model::NodeId;
use proto::raft::raft_server::RaftServer;
use tonic::Extensions;

pub use key::Seal;
pub use leadership::Leadership;
pub use membership::Member;
pub use object::{Kind, Object, ObjectId};
pub use options::{Options, Timing};
pub use read::Error as ReadError;
pub use replicated::Error;
pub use tables::{Flaw, Tables};
pub use transaction::Transaction;
pub use transport::{Dial, Service};
pub use update::Error as UpdateError;
pub use violation::{AddressOwner, Violation};
pub use watch::{Change, Commit, Lagged, View, Watch};

use crate::backup::Backup;
use crate::change_set::Proposal;
use crate::membership::Membership;
use crate::memory::Memory;
use crate::replicated::Replicated;
use crate::state_machine::Outcome;
use crate::watch::Feed;

/// A member of the Raft group: random, never used again.
pub type RaftId = u64;

/// A Raft term: at most one manager leads in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Cheap to clone; all clones are the same store.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    feed: Arc<Feed>,
    clock: Clock,
    backend: Backend,
}

enum Backend {
    Memory(Box<Memory>),
    Replicated(Arc<Replicated>),
}

/// Making, opening and ending.
impl Store {
    /// Opens what is in the directory, or makes a new member there. A new member is part of no group: it must be
    /// bootstrapped, or added by the leader of another group, which then sends it everything.
    ///
    /// # Errors
    /// What is on disk cannot be read, is damaged or was written by a newer version; the error names the file.
    pub async fn open(options: Options) -> Result<Self, Error> {
        let feed = Arc::new(Feed::new(View::default()));
        let replicated = Arc::new(Replicated::open(&options, feed.clone()).await?);
        Ok(Self(Arc::new(Inner { feed, clock: options.clock, backend: Backend::Replicated(replicated) })))
    }

    /// Makes this manager the first one of a new swarm with these objects. May be called again if it was
    /// interrupted; does nothing if there is a swarm already.
    ///
    /// # Errors
    /// The store cannot be written, or the objects violate an invariant.
    pub async fn bootstrap(&self, objects: Vec<Object>) -> Result<(), Error> {
        if let Backend::Replicated(replicated) = &self.0.backend {
            replicated.initialize().await?;
        }
        let create = |transaction: &mut Transaction| {
            if transaction.cluster().is_none() {
                objects.iter().for_each(|object| transaction.create(object.clone()));
            }
            Ok::<_, std::convert::Infallible>(())
        };
        self.update(create).await.map_err(|error| Error::Raft(error.to_string()))
    }

    /// Makes a group of this member alone in place of one whose others are lost, with all that this one has. Nobody has the
    /// directory open. `change` is made at once with it; it gets the member's new id.
    ///
    /// # Errors
    /// What is on disk cannot be read, or there is nothing. The old group is as it was.
    pub async fn refound(
        options: &Options,
        change: impl FnOnce(&mut Transaction, RaftId) + Send,
    ) -> Result<(), Error> {
        refound::begin(options, refound::survivor(options).await?, change)
    }

    /// Makes a group of this member alone from a backup, in place of what is in the directory.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn restore(
        options: &Options,
        backup: Backup,
        change: impl FnOnce(&mut Transaction, RaftId),
    ) -> Result<(), Error> {
        refound::begin(options, backup.origin, change)
    }

    /// Hands the leadership over if this manager leads, and ends. What waits for an update gets `Stopped`.
    pub async fn shutdown(&self) {
        if let Backend::Replicated(replicated) = &self.0.backend {
            replicated.shutdown().await;
        }
    }

    /// Seals the data key on disk with `seal` besides what seals it now: either opens it.
    ///
    /// # Errors
    /// The file cannot be written; it is as it was.
    pub async fn seal_also(&self, seal: Option<Arc<dyn Seal>>) -> Result<(), Error> {
        self.with_key(move |key| key.admit(seal)).await
    }

    /// Seals the data key on disk with `seal` and nothing else. With a seal there comes a new data key: everything is
    /// written with it from now on, and what is there already is replaced in the background.
    ///
    /// # Errors
    /// The file cannot be written; it is as it was.
    pub async fn seal_only(&self, seal: Option<Arc<dyn Seal>>) -> Result<(), Error> {
        self.with_key(move |key| key.enclose(seal)).await?;
        if let Backend::Replicated(replicated) = &self.0.backend {
            replicated.rekeying.notify_one();
        }
        Ok(())
    }

    /// Whether what was encrypted with earlier data keys is still being replaced.
    pub fn is_rekeying(&self) -> bool {
        matches!(&self.0.backend, Backend::Replicated(replicated) if replicated.key.is_changing())
    }

    async fn with_key(
        &self,
        change: impl FnOnce(&key::DataKey) -> Result<(), key::Error> + Send + 'static,
    ) -> Result<(), Error> {
        let Backend::Replicated(replicated) = &self.0.backend else { return Ok(()) };
        let key = replicated.key.clone();
        let changing = tokio::task::spawn_blocking(move || change(&key));
        Ok(changing.await.map_err(|error| Error::Raft(error.to_string()))??)
    }

    /// Waits until the store has stopped by itself, since its disk failed, and says why. It must be opened again.
    pub async fn failed(&self) -> String {
        let Backend::Replicated(replicated) = &self.0.backend else { return std::future::pending().await };
        let mut failed = replicated.failed.clone();
        let reason = failed.wait_for(Option::is_some).await.map(|reason| reason.clone());
        match reason {
            Ok(reason) => reason.unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    /// A store without Raft and disk, with the real state machine. It leads, in term 1.
    pub fn in_memory() -> Self {
        Self::in_memory_with_clock(Arc::new(SystemTime::now))
    }

    pub fn in_memory_with_clock(clock: Clock) -> Self {
        let feed = Arc::new(Feed::new(View::default()));
        Self(Arc::new(Inner { feed, clock, backend: Backend::Memory(Box::new(Memory::new())) }))
    }

    /// For tests, in memory only: the next `count` proposals are answered with a conflict.
    pub fn inject_conflicts(&self, count: usize) {
        if let Backend::Memory(memory) = &self.0.backend {
            memory.inject_conflicts(count);
        }
    }

    /// For tests, in memory only: what `leadership` tells from now on. Updates for another term are refused.
    pub fn set_leadership(&self, leadership: Leadership) {
        if let Backend::Memory(memory) = &self.0.backend {
            memory.leadership.send_replace(leadership);
        }
    }
}

/// Reading and writing.
impl Store {
    pub fn view(&self) -> View {
        self.0.feed.view()
    }

    pub fn watch(&self) -> Watch {
        self.0.feed.watch()
    }

    /// Waits until the view includes `index`: a read after it sees that write.
    pub async fn applied(&self, index: u64) {
        self.0.feed.applied(index).await;
    }

    /// Waits until the view includes everything that was committed, through whichever manager, when this was called.
    ///
    /// # Errors
    /// No majority of the managers can be had, or this one does not get from them what it lacks.
    pub async fn linearize(&self) -> Result<(), ReadError> {
        match &self.0.backend {
            Backend::Memory(memory) => memory.linearize(),
            Backend::Replicated(replicated) => read::linearize(replicated, &self.0.feed).await,
        }
    }

    /// Runs `change` on a view and commits what it wrote, from any manager. Once it returns, `view` includes the
    /// change. The closure runs again if objects that it wrote changed meanwhile.
    ///
    /// # Errors
    /// See [`UpdateError`]; but for `Unknown` and `Stopped`, nothing was changed.
    pub async fn update<T, E>(
        &self,
        change: impl FnMut(&mut Transaction) -> Result<T, E> + Send,
    ) -> Result<T, UpdateError<E>> {
        update::update(self, None, host::random, change).await
    }

    /// The same, for a request that has an id: with it the change is made once, however often and on whichever
    /// managers this is called, as long as the group remembers it (8192 proposals). Later calls return as the one
    /// that made it; the closure must write the same each time.
    ///
    /// # Errors
    /// See [`UpdateError`].
    pub async fn update_once<T, E>(
        &self,
        request: u128,
        change: impl FnMut(&mut Transaction) -> Result<T, E> + Send,
    ) -> Result<T, UpdateError<E>> {
        // A proposal that was refused is never applied: the next one is another, and the same in every call.
        let mut next = request;
        let ids = move || {
            let id = next;
            next = next.wrapping_add(1);
            id
        };
        update::update(self, None, ids, change).await
    }

    /// The same as `update`, but only while this manager leads in `term`.
    ///
    /// # Errors
    /// See [`UpdateError`].
    pub async fn update_as_leader<T, E>(
        &self,
        term: Term,
        change: impl FnMut(&mut Transaction) -> Result<T, E> + Send,
    ) -> Result<T, UpdateError<E>> {
        update::update(self, Some(term), host::random, change).await
    }

    /// That this member is in.
    pub(crate) fn term(&self) -> Term {
        match &self.0.backend {
            Backend::Memory(memory) => memory.leadership.borrow().leading.unwrap_or_default(),
            Backend::Replicated(replicated) => Term(replicated.metrics().current_term),
        }
    }

    pub(crate) fn now(&self) -> SystemTime {
        (self.0.clock)()
    }

    pub(crate) async fn propose(&self, proposal: Proposal) -> Result<Outcome, update::Failure> {
        match &self.0.backend {
            Backend::Memory(memory) => memory.propose(&proposal, &self.0.feed),
            Backend::Replicated(replicated) => replicated.propose(&proposal).await,
        }
    }
}

/// The group.
impl Store {
    pub fn leadership(&self) -> tokio::sync::watch::Receiver<Leadership> {
        match &self.0.backend {
            Backend::Memory(memory) => memory.leadership.subscribe(),
            Backend::Replicated(replicated) => replicated.leadership.clone(),
        }
    }

    /// This member's own id.
    pub fn raft_id(&self) -> RaftId {
        match &self.0.backend {
            Backend::Memory(_) => memory::RAFT_ID,
            Backend::Replicated(replicated) => replicated.raft_id,
        }
    }

    pub fn membership(&self) -> Membership {
        Membership::of(self.clone())
    }

    /// What the other members call. A layer around it must keep out who is no manager; `caller` tells by the extensions
    /// of a request which node has sent it, so that nobody speaks for a member but the member itself.
    pub fn raft_service(
        &self,
        caller: impl Fn(&Extensions) -> Option<NodeId> + Send + Sync + 'static,
    ) -> RaftServer<Service> {
        let member = match &self.0.backend {
            Backend::Memory(_) => None,
            Backend::Replicated(replicated) => Some(replicated.clone()),
        };
        RaftServer::new(Service { member, caller: Arc::new(caller) })
            .max_decoding_message_size(transport::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(transport::MAX_MESSAGE_BYTES)
    }
}
