//! One watch of the store for many streams to nodes.
//!
//! A commit is looked at once: `Marks::touched` works out what it means, and each subscriber is marked with the part
//! that concerns its node. A subscriber then reads what became of the marked objects from the newest view. So a slow
//! stream costs no memory but its marks, and no stream scans the store because something changed elsewhere.
//!
//! Invariant: the view with which a subscriber reads its marks holds every commit by which it was marked, and each
//! later commit that concerns it marks it again. A commit may be in the view before it marks: looking at the same
//! object twice must be harmless.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::model::NodeId;
use raft_store::{Commit, Store, View};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What a subscriber has to look at again.
pub trait Marks: Send + 'static {
    /// What a commit means for all subscribers.
    type Touched: Send;

    fn touched(commit: &Commit) -> Option<Self::Touched>;

    /// Adds what concerns `node`. Whether anything does.
    fn mark(&mut self, node: &NodeId, touched: &Self::Touched) -> bool;

    /// Something was missed: everything is to be looked at.
    fn mark_all(&mut self);
}

pub struct Hub<M> {
    store: Store,
    subscribers: Mutex<Subscribers<M>>,
}

struct Subscribers<M> {
    all: HashMap<u64, Subscriber<M>>,
    next: u64,
}

struct Subscriber<M> {
    node: NodeId,
    marks: M,
    wake: Arc<Notify>,
}

impl<M: Marks> Hub<M> {
    pub fn new(store: Store) -> Arc<Self> {
        let subscribers = Mutex::new(Subscribers { all: HashMap::new(), next: 0 });
        Arc::new(Self { store, subscribers })
    }

    pub fn subscribe(self: &Arc<Self>, node: NodeId, marks: M) -> Subscription<M> {
        let wake = Arc::new(Notify::new());
        let mut subscribers = self.lock();
        let id = subscribers.next;
        subscribers.next += 1;
        subscribers.all.insert(id, Subscriber { node, marks, wake: Arc::clone(&wake) });
        Subscription { hub: Arc::clone(self), id, wake }
    }

    /// Follows the store until cancelled.
    pub async fn run(&self, cancel: &CancellationToken) {
        let following = async {
            loop {
                let mut watch = self.store.watch();
                self.mark_all();
                while let Ok(commit) = watch.next().await {
                    self.mark(&commit);
                }
            }
        };
        cancel.run_until_cancelled(following).await;
    }

    fn mark(&self, commit: &Commit) {
        let Some(touched) = M::touched(commit) else { return };
        for subscriber in self.lock().all.values_mut() {
            if subscriber.marks.mark(&subscriber.node, &touched) {
                subscriber.wake.notify_one();
            }
        }
    }

    fn mark_all(&self) {
        for subscriber in self.lock().all.values_mut() {
            subscriber.marks.mark_all();
            subscriber.wake.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Subscribers<M>> {
        // Nothing that runs under the lock leaves the table half changed.
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub struct Subscription<M: Marks> {
    hub: Arc<Hub<M>>,
    id: u64,
    wake: Arc<Notify>,
}

impl<M: Marks> Subscription<M> {
    /// Returns once there are marks that were not read.
    pub async fn changed(&self) {
        self.wake.notified().await;
    }

    /// Reads the marks with the newest view; nothing is marked meanwhile.
    pub fn read<R>(&self, look: impl FnOnce(View, &mut M) -> R) -> R {
        let mut subscribers = self.hub.lock();
        let subscriber =
            subscribers.all.get_mut(&self.id).expect("a subscriber is there until it is dropped");
        look(self.hub.store.view(), &mut subscriber.marks)
    }
}

impl<M: Marks> Drop for Subscription<M> {
    fn drop(&mut self) {
        self.hub.lock().all.remove(&self.id);
    }
}

/// Lets the first change through at once and gathers those that follow closely.
pub struct Pace {
    window: Duration,
    next: Instant,
}

impl Pace {
    pub fn new(window: Duration) -> Self {
        Self { window, next: Instant::now() }
    }

    pub async fn wait(&mut self) {
        tokio::time::sleep_until(self.next).await;
        self.next = Instant::now() + self.window;
    }
}

/// Waits until `find` finds something in the store.
pub async fn until<T>(store: &Store, mut find: impl FnMut(&View) -> Option<T>) -> T {
    loop {
        let mut watch = store.watch();
        if let Some(found) = find(&watch.view) {
            return found;
        }
        while let Ok(commit) = watch.next().await {
            if let Some(found) = find(&commit.view) {
                return found;
            }
        }
    }
}
