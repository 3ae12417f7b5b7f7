//! The driver that every control loop shares: view → plan → commit.
//!
//! A loop says which keys a change is about, plans them purely, and writes one action into a transaction. The driver
//! decides when: at once after a commit that concerns the loop, when a planned moment has come, and on a period over
//! everything. Changes that arrive while a commit is in flight are planned together afterwards. Actions travel in
//! entries of bounded size; what the store refuses is planned again later, from a newer view, and holds up nothing else.
//!
//! Nothing is remembered but the keys and moments to look at: a lost event is found by the next full pass, and
//! a new leader starts with one.

mod wakes;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use raft_store::{Change, Clock, Commit, Lagged, Store, Tables, Term, Transaction, UpdateError, Watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use tokio_util::sync::CancellationToken;

use self::wakes::Wakes;

/// Between two passes over everything.
const PERIOD: Duration = Duration::from_secs(30);

/// Actions in one entry of the log, so that none grows beyond what replicates quickly.
const BATCH: usize = 200;

const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_secs(2);

/// One control loop.
pub trait Plan: Send + Sync + 'static {
    const NAME: &'static str;
    /// What is planned on its own: usually the id of an object.
    type Key: Ord + Clone + Send + Sync;
    type Action: fmt::Debug + Send + Sync;

    /// What to look at after `change`; nothing for a change that cannot matter.
    /// `view` is the state after it.
    fn keys(&self, change: &Change, view: &Tables) -> Vec<Self::Key>;

    /// Pure. Once the actions are committed, planning again returns none.
    fn plan(
        &self,
        view: &Tables,
        scope: &Scope<Self::Key>,
        now: SystemTime,
    ) -> Planned<Self::Key, Self::Action>;

    /// Writes the action, or nothing if it no longer applies to what `tx` holds, which may be newer than the view
    /// of the plan.
    fn commit(&self, action: &Self::Action, now: SystemTime, tx: &mut Transaction);
}

/// What a plan looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope<K> {
    All,
    Keys(BTreeSet<K>),
}

#[derive(Debug)]
pub struct Planned<K, A> {
    pub actions: Vec<A>,
    /// When to plan which key again though nothing has changed.
    pub wakes: Vec<(SystemTime, K)>,
}

impl<K, A> Default for Planned<K, A> {
    fn default() -> Self {
        Self { actions: Vec::new(), wakes: Vec::new() }
    }
}

/// What a leader-only loop works with during one term.
#[derive(Clone)]
pub struct Lead {
    pub store: Store,
    pub term: Term,
    pub clock: Clock,
    /// Cancelled when the term is over for this manager.
    pub over: CancellationToken,
}

/// Runs the loop until the term is over.
pub async fn run<P: Plan>(lead: Lead, plan: P) {
    let over = lead.over.clone();
    let driver = Driver {
        watch: lead.store.watch(),
        lead,
        plan,
        scope: Scope::All,
        wakes: Wakes::default(),
        refused: Scope::default(),
        retry: Retry { after: FIRST_RETRY, at: None },
    };
    tokio::select! {
        () = over.cancelled() => {}
        () = driver.run() => {}
    }
    tracing::debug!("{} ends with its term", P::NAME);
}

struct Driver<P: Plan> {
    lead: Lead,
    plan: P,
    watch: Watch,
    /// Not yet looked at.
    scope: Scope<P::Key>,
    wakes: Wakes<P::Key>,
    /// Planned, but not all of it could be committed: looked at again later, so that it holds up nothing else.
    refused: Scope<P::Key>,
    retry: Retry,
}

struct Retry {
    after: Duration,
    at: Option<Instant>,
}

/// The term is over or the store has stopped.
struct Over;

impl<P: Plan> Driver<P> {
    async fn run(mut self) {
        let mut full_pass = interval_at(Instant::now() + PERIOD, PERIOD);
        full_pass.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.take_what_is_there();
            if self.scope.is_empty() {
                let until = self.next_look();
                tokio::select! {
                    news = self.watch.next() => self.take(news),
                    () = sleep_until(until) => {}
                    _ = full_pass.tick() => self.scope = Scope::All,
                }
            } else if let Err(Over) = self.pass().await {
                return;
            }
        }
    }

    fn take_what_is_there(&mut self) {
        while let Some(news) = self.watch.try_next().transpose() {
            self.take(news);
        }
        for key in self.wakes.due((self.lead.clock)()) {
            self.scope.add(key);
        }
        if self.retry.at.is_some_and(|at| at <= Instant::now()) {
            self.retry.at = None;
            self.scope.join(std::mem::take(&mut self.refused));
        }
    }

    /// When something is to be done without news.
    fn next_look(&self) -> Instant {
        let planned = self.wakes.next().map(|at| at.duration_since((self.lead.clock)()).unwrap_or_default());
        let planned = Instant::now() + planned.unwrap_or(PERIOD);
        self.retry.at.map_or(planned, |retry| retry.min(planned))
    }

    fn take(&mut self, news: Result<Arc<Commit>, Lagged>) {
        match news {
            Ok(commit) => {
                for key in commit.changes.iter().flat_map(|change| self.plan.keys(change, &commit.view)) {
                    self.scope.add(key);
                }
            }
            Err(lagged) => {
                tracing::debug!("{} {lagged}: it looks at everything", P::NAME);
                self.watch = self.lead.store.watch();
                self.scope = Scope::All;
            }
        }
    }

    async fn pass(&mut self) -> Result<(), Over> {
        let scope = std::mem::take(&mut self.scope);
        let now = (self.lead.clock)();
        let planned = self.plan.plan(&self.lead.store.view(), &scope, now);
        self.wakes.replace(&scope, planned.wakes);
        if self.commit(&planned.actions, now).await? {
            if self.refused.is_empty() {
                self.retry.after = FIRST_RETRY;
            }
        } else {
            self.refused.join(scope);
            self.retry.at = Some(Instant::now() + self.retry.after);
            self.retry.after = (self.retry.after * 2).min(LAST_RETRY);
        }
        Ok(())
    }

    /// Whether all of it was committed. A batch that is refused is split, so that one bad action holds up only itself.
    async fn commit(&self, actions: &[P::Action], now: SystemTime) -> Result<bool, Over> {
        let mut complete = true;
        let mut batches: Vec<&[P::Action]> = actions.chunks(BATCH).rev().collect();
        while let Some(batch) = batches.pop() {
            let Err(error) = self.commit_batch(batch, now).await else { continue };
            match error {
                UpdateError::LostLeadership | UpdateError::Stopped => return Err(Over),
                UpdateError::Violated(_) | UpdateError::TooLarge { .. } if batch.len() > 1 => {
                    let (first, second) = batch.split_at(batch.len() / 2);
                    batches.extend([second, first]);
                }
                error => {
                    tracing::warn!(%error, "{} plans again: {} actions were not committed", P::NAME, batch.len());
                    complete = false;
                }
            }
        }
        Ok(complete)
    }

    async fn commit_batch(
        &self,
        batch: &[P::Action],
        now: SystemTime,
    ) -> Result<(), UpdateError<Infallible>> {
        tracing::trace!(?batch, "{} commits", P::NAME);
        let write = |tx: &mut Transaction| {
            batch.iter().for_each(|action| self.plan.commit(action, now, tx));
            Ok(())
        };
        self.lead.store.update_as_leader(self.lead.term, write).await
    }
}

impl<K> Default for Scope<K> {
    fn default() -> Self {
        Self::Keys(BTreeSet::new())
    }
}

impl<K: Ord> Scope<K> {
    fn is_empty(&self) -> bool {
        matches!(self, Self::Keys(keys) if keys.is_empty())
    }

    fn add(&mut self, key: K) {
        if let Self::Keys(keys) = self {
            keys.insert(key);
        }
    }

    fn join(&mut self, other: Self) {
        match (self, other) {
            (Self::Keys(mine), Self::Keys(others)) => mine.extend(others),
            (mine, Self::All) => *mine = Self::All,
            (Self::All, _) => {}
        }
    }
}
