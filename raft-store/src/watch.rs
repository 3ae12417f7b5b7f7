//! The change feed: the view of now, and every commit after it.
//!
//! Bounded: whoever falls behind is told so, and starts again from a new view. Nobody is waited for.

use std::ops::Deref;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::{Notify, broadcast};

use crate::{Object, ObjectId, Tables};

/// Commits that are kept for a slow consumer.
const BUFFERED: usize = 4096;

/// An immutable snapshot. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct View(Arc<Tables>);

impl Deref for View {
    type Target = Tables;

    fn deref(&self) -> &Tables {
        &self.0
    }
}

impl From<Tables> for View {
    fn from(tables: Tables) -> Self {
        Self(Arc::new(tables))
    }
}

/// What one entry of the log changed.
#[derive(Clone, Debug)]
pub struct Commit {
    pub index: u64,
    /// After the commit.
    pub view: View,
    pub changes: Vec<Change>,
}

/// One of the two is present, or both are.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub before: Option<Object>,
    pub after: Option<Object>,
}

impl Change {
    /// The object as it is now, or was at last.
    pub fn object(&self) -> &Object {
        self.after.as_ref().or(self.before.as_ref()).expect("a change has a before or an after")
    }

    pub fn id(&self) -> ObjectId {
        self.object().id()
    }
}

/// The consumer has missed commits: it must start again from a new watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("fell behind by {missed} commits")]
pub struct Lagged {
    pub missed: u64,
}

/// A view and what came after it, without a gap.
pub struct Watch {
    pub view: View,
    commits: broadcast::Receiver<Arc<Commit>>,
}

impl Watch {
    /// The next commit. May be dropped and called again. Once the store is gone it waits for ever: whoever runs on a
    /// store is stopped before it.
    pub async fn next(&mut self) -> Result<Arc<Commit>, Lagged> {
        match self.commits.recv().await {
            Ok(commit) => Ok(commit),
            Err(broadcast::error::RecvError::Lagged(missed)) => Err(Lagged { missed }),
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }

    /// The next commit, if it is already here.
    pub fn try_next(&mut self) -> Result<Option<Arc<Commit>>, Lagged> {
        match self.commits.try_recv() {
            Ok(commit) => Ok(Some(commit)),
            Err(broadcast::error::TryRecvError::Lagged(missed)) => Err(Lagged { missed }),
            Err(broadcast::error::TryRecvError::Empty | broadcast::error::TryRecvError::Closed) => Ok(None),
        }
    }
}

/// Where the state machine publishes.
pub(crate) struct Feed {
    current: RwLock<View>,
    commits: broadcast::Sender<Arc<Commit>>,
    applied: Notify,
}

impl Feed {
    pub(crate) fn new(view: View) -> Self {
        let commits = broadcast::Sender::new(BUFFERED);
        Self { current: RwLock::new(view), commits, applied: Notify::new() }
    }

    pub(crate) fn view(&self) -> View {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn watch(&self) -> Watch {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Watch { view: current.clone(), commits: self.commits.subscribe() }
    }

    pub(crate) fn publish(&self, tables: Tables, changes: Vec<Change>) {
        let view = View::from(tables);
        // The commit is sent under the lock, so that a new watch has it either in its view or in its queue.
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = view.clone();
        if !changes.is_empty() {
            // An error means that nobody watches.
            let _ = self.commits.send(Arc::new(Commit { index: view.index(), view, changes }));
        }
    }

    /// Wakes those who wait for an index. Once for many commits: they may be hundreds.
    pub(crate) fn announce(&self) {
        self.applied.notify_waiters();
    }

    /// Waits until the view includes `index`.
    pub(crate) async fn applied(&self, index: u64) {
        loop {
            // Waits from here on, so that nothing is missed between the look and the wait.
            let mut announced = std::pin::pin!(self.applied.notified());
            announced.as_mut().enable();
            if self.view().index() >= index {
                return;
            }
            announced.await;
        }
    }
}
