//! The replicated object store: `view`, `update`, `watch`.
//!
//! A view is an immutable snapshot. An update runs its closure on a snapshot and makes a change set; the change set
//! is one Raft entry, and the state machine applies it only if the objects are still as they were read and the
//! invariants hold. A watch is a snapshot plus every commit after it. The only crate that knows openraft; what the
//! objects mean is left to the manager.
//!
//! Invariant: what an update returned survives any minority of managers dying at any instant.

mod change_set;
mod memory;
mod object;
mod state_machine;
mod tables;
mod transaction;
mod update;
mod violation;
mod watch;

use std::sync::Arc;
use std::time::SystemTime;

pub use object::{Kind, Object, ObjectId};
pub use tables::Tables;
pub use transaction::Transaction;
pub use update::Error as UpdateError;
pub use violation::{AddressOwner, Violation};
pub use watch::{Change, Commit, Lagged, View, Watch};

use crate::change_set::Proposal;
use crate::memory::Memory;
use crate::state_machine::Outcome;
use crate::watch::Feed;

/// A member of the Raft group: random, never used again.
pub type RaftId = u64;

/// A Raft term: at most one manager leads in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// This manager leads, and its view includes everything that was committed before its term.
    pub leading: Option<Term>,
    pub leader: Option<RaftId>,
}

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Cheap to clone; all clones are the same store.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    feed: Feed,
    clock: Clock,
    memory: Memory,
}

impl Store {
    /// A store without Raft and disk, with the real state machine. It leads, in term 1.
    pub fn in_memory() -> Self {
        Self::in_memory_with_clock(Arc::new(SystemTime::now))
    }

    pub fn in_memory_with_clock(clock: Clock) -> Self {
        Self(Arc::new(Inner { feed: Feed::new(View::default()), clock, memory: Memory::new() }))
    }

    /// For tests, in memory only: the next `count` proposals are answered with a conflict.
    pub fn inject_conflicts(&self, count: usize) {
        self.0.memory.inject_conflicts(count);
    }

    /// For tests, in memory only: what `leadership` tells from now on. Updates for another term are refused.
    pub fn set_leadership(&self, leadership: Leadership) {
        self.0.memory.leadership.send_replace(leadership);
    }

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

    /// Runs `change` on a view and commits what it wrote, from any manager. Once it returns, `view` includes the
    /// change. The closure runs again if objects that it wrote changed meanwhile.
    ///
    /// # Errors
    /// See [`UpdateError`]; but for `Unknown`, nothing was changed.
    pub async fn update<T, E>(
        &self,
        change: impl FnMut(&mut Transaction) -> Result<T, E> + Send,
    ) -> Result<T, UpdateError<E>> {
        update::update(self, None, change).await
    }

    /// The same, but only while this manager leads in `term`.
    ///
    /// # Errors
    /// See [`UpdateError`].
    pub async fn update_as_leader<T, E>(
        &self,
        term: Term,
        change: impl FnMut(&mut Transaction) -> Result<T, E> + Send,
    ) -> Result<T, UpdateError<E>> {
        update::update(self, Some(term), change).await
    }

    pub fn leadership(&self) -> tokio::sync::watch::Receiver<Leadership> {
        self.0.memory.leadership.subscribe()
    }

    pub(crate) fn now(&self) -> SystemTime {
        (self.0.clock)()
    }

    #[expect(clippy::unused_async, reason = "waits for Raft, where there is one")]
    pub(crate) async fn propose(&self, proposal: Proposal) -> Result<Outcome, update::Failure> {
        Ok(self.0.memory.propose(&proposal, &self.0.feed))
    }
}
