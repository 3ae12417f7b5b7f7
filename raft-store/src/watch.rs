//! The change feed: the view of now, and every commit after it.
//!
//! Bounded: whoever falls behind is told so, and starts again from a new view. Nobody is waited for.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::{broadcast, oneshot};

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
    /// Who waits for which index. Only those are woken whose index has come: of hundreds, a commit concerns one.
    waiting: Mutex<BTreeMap<u64, Vec<oneshot::Sender<()>>>>,
}

impl Feed {
    pub(crate) fn new(view: View) -> Self {
        let commits = broadcast::Sender::new(BUFFERED);
        Self { current: RwLock::new(view), commits, waiting: Mutex::default() }
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

    /// Wakes those whose index has come. Once for many commits.
    pub(crate) fn announce(&self) {
        let index = self.view().index();
        let mut waiting = self.waiting();
        let later = waiting.split_off(&(index + 1));
        let come = std::mem::replace(&mut *waiting, later);
        drop(waiting);
        for waiter in come.into_values().flatten() {
            // An error means that it has given up.
            let _ = waiter.send(());
        }
    }

    /// Waits until the view includes `index`.
    pub(crate) async fn applied(&self, index: u64) {
        while let Some(come) = self.wait_for(index) {
            // An error is none: whoever waits holds the feed.
            let _ = come.await;
        }
    }

    /// None if the view includes `index`. Looked at under the lock, so that no announcement is missed.
    fn wait_for(&self, index: u64) -> Option<oneshot::Receiver<()>> {
        let mut waiting = self.waiting();
        if self.view().index() >= index {
            return None;
        }
        let (waiter, come) = oneshot::channel();
        waiting.entry(index).or_default().push(waiter);
        Some(come)
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u64, Vec<oneshot::Sender<()>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
