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
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::model::NodeId;
use raft_store::{Commit, Store, Tables, View};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// What a subscriber has to look at again.
pub trait Marks: Send + 'static {
    /// What a commit means for all subscribers.
    type Touched: Send;
    /// What is kept of commits for those that subscribe later.
    type Journal: Journal<Touched = Self::Touched>;

    fn touched(commit: &Commit) -> Option<Self::Touched>;

    /// The only nodes whose subscribers it may concern; none if that is not known.
    fn nodes(touched: &Self::Touched) -> Option<impl Iterator<Item = &NodeId>>;

    /// Adds what concerns `node`. Whether anything does.
    fn mark(&mut self, node: &NodeId, touched: &Self::Touched) -> bool;

    /// Something was missed: everything is to be looked at.
    fn mark_all(&mut self);
}

/// What is kept of commits.
pub trait Journal: Default + Send {
    type Touched;

    /// From this view on every commit is noted. Whatever was before may have a gap.
    fn begin(&mut self, view: &Tables);

    fn note(&mut self, commit: &Commit, touched: Option<&Self::Touched>);
}

/// For whom nothing is kept.
pub struct Nothing<T>(PhantomData<fn(T)>);

impl<T> Default for Nothing<T> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T> Journal for Nothing<T> {
    type Touched = T;

    fn begin(&mut self, _: &Tables) {}

    fn note(&mut self, _: &Commit, _: Option<&T>) {}
}

pub struct Hub<M: Marks> {
    store: Store,
    inside: Mutex<Inside<M>>,
    /// Index of the last commit that marked.
    followed: watch::Sender<u64>,
}

/// Changes as one: a commit that is in the journal has marked everybody, and no other has marked anybody.
struct Inside<M: Marks> {
    /// One a node, the newest: what a node can make a manager keep is bounded.
    subscribers: HashMap<NodeId, Arc<Subscriber<M>>>,
    journal: M::Journal,
}

struct Subscriber<M> {
    marks: Mutex<M>,
    wake: Notify,
    replaced: CancellationToken,
}

impl<M: Marks> Hub<M> {
    pub fn new(store: Store) -> Arc<Self> {
        let view = store.view();
        let mut journal = M::Journal::default();
        journal.begin(&view);
        let inside = Inside { subscribers: HashMap::new(), journal };
        Arc::new(Self { store, inside: Mutex::new(inside), followed: watch::Sender::new(view.index()) })
    }

    /// Takes the place of the subscription that the node had.
    pub fn subscribe(self: &Arc<Self>, node: NodeId, marks: M) -> Subscription<M> {
        let replaced = CancellationToken::new();
        let subscriber = Arc::new(Subscriber { marks: Mutex::new(marks), wake: Notify::new(), replaced });
        if let Some(earlier) = self.lock().subscribers.insert(node.clone(), Arc::clone(&subscriber)) {
            earlier.replaced.cancel();
        }
        Subscription { hub: Arc::clone(self), node, subscriber }
    }

    /// Follows the store until cancelled.
    pub async fn run(&self, cancel: &CancellationToken) {
        let following = async {
            loop {
                let mut watch = self.store.watch();
                self.begin(&watch.view);
                while let Ok(commit) = watch.next().await {
                    self.mark(&commit);
                }
            }
        };
        cancel.run_until_cancelled(following).await;
    }

    /// Returns once the commits up to `index` have marked.
    pub async fn followed(&self, index: u64) {
        // The sender is alive as long as `self` is.
        let _ = self.followed.subscribe().wait_for(|followed| *followed >= index).await;
    }

    fn mark(&self, commit: &Commit) {
        let touched = M::touched(commit);
        self.mark_as(commit, touched);
        self.followed.send_replace(commit.index);
    }

    fn mark_as(&self, commit: &Commit, touched: Option<M::Touched>) {
        let inside = &mut *self.lock();
        inside.journal.note(commit, touched.as_ref());
        let (Some(touched), subscribers) = (touched, &inside.subscribers) else { return };
        match M::nodes(&touched) {
            Some(nodes) => {
                let concerned = nodes.filter_map(|node| subscribers.get_key_value(node));
                concerned.for_each(|(node, subscriber)| subscriber.mark(node, &touched));
            }
            None => subscribers.iter().for_each(|(node, subscriber)| subscriber.mark(node, &touched)),
        }
    }

    /// Commits up to this view may have been missed.
    fn begin(&self, view: &View) {
        let mut inside = self.lock();
        inside.journal.begin(view);
        for subscriber in inside.subscribers.values() {
            subscriber.marks().mark_all();
            subscriber.wake.notify_one();
        }
        self.followed.send_replace(view.index());
    }

    fn lock(&self) -> MutexGuard<'_, Inside<M>> {
        // Nothing that runs under the lock leaves the table half changed.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: Marks> Subscriber<M> {
    fn mark(&self, node: &NodeId, touched: &M::Touched) {
        if self.marks().mark(node, touched) {
            self.wake.notify_one();
        }
    }

    fn marks(&self) -> MutexGuard<'_, M> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub struct Subscription<M: Marks> {
    hub: Arc<Hub<M>>,
    node: NodeId,
    subscriber: Arc<Subscriber<M>>,
}

impl<M: Marks> Subscription<M> {
    /// Returns once there are marks that were not read.
    pub async fn changed(&self) {
        self.subscriber.wake.notified().await;
    }

    /// Returns once there are marks that were not read and the pace allows it. The error is what the stream ends with.
    pub async fn due(&self, pace: &mut Pace, ended: &CancellationToken) -> Result<(), Status> {
        let next = async {
            self.changed().await;
            pace.wait().await;
        };
        tokio::select! {
            () = next => Ok(()),
            () = ended.cancelled() => Err(Status::unavailable("the session has ended: register again")),
            () = self.subscriber.replaced.cancelled() => {
                Err(Status::aborted(format!("node {} has opened another stream of this kind", self.node)))
            }
        }
    }

    /// Reads the marks with the newest view and the journal; nobody is marked meanwhile.
    pub fn read<R>(&self, look: impl FnOnce(View, &mut M, &M::Journal) -> R) -> R {
        let inside = self.hub.lock();
        let mut marks = self.subscriber.marks();
        look(self.hub.store.view(), &mut marks, &inside.journal)
    }
}

impl<M: Marks> Drop for Subscription<M> {
    fn drop(&mut self) {
        let subscribers = &mut self.hub.lock().subscribers;
        if subscribers.get(&self.node).is_some_and(|current| Arc::ptr_eq(current, &self.subscriber)) {
            subscribers.remove(&self.node);
        }
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
