//! The one list of loops that run on the leader only: started together with a term, stopped together with it.
//!
//! Decides nothing else. Every write of a loop carries its term, so that a loop which has not heard yet that another
//! manager leads can no longer change anything.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use raft_store::{Clock, Store, Term};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::allocator::Allocator;
use crate::ca::rotation::Rotation;
use crate::keymanager::KeyManager;
use crate::orchestrator::{Orchestrator, Reaper};
use crate::reconcile::{self, Lead};
use crate::scheduler::Scheduler;

/// A loop may hear from the store that its term is over before leadership is seen to change.
const AFTER_END: Duration = Duration::from_millis(20);

/// A loop that panics must not take the machine with it.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// A loop of the leader: runs until `Lead::over`.
#[derive(Clone)]
pub struct Loop {
    name: &'static str,
    start: Arc<dyn Fn(Lead) -> BoxFuture<'static, ()> + Send + Sync>,
}

impl Loop {
    pub fn new<F>(name: &'static str, start: impl Fn(Lead) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self { name, start: Arc::new(move |lead| Box::pin(start(lead))) }
    }
}

/// In the order of a task's life. What needs more than the store (who beats, say) is added by the caller of `run`.
pub fn loops() -> Vec<Loop> {
    vec![
        Loop::new("orchestrator", |lead| reconcile::run(lead, Orchestrator)),
        Loop::new("allocator", |lead| reconcile::run(lead, Allocator)),
        Loop::new("key manager", |lead| {
            let keys = KeyManager::new((lead.clock)());
            reconcile::run(lead, keys)
        }),
        Loop::new("scheduler", |lead| reconcile::run(lead, Scheduler)),
        Loop::new("reaper", |lead| reconcile::run(lead, Reaper)),
        Loop::new("root rotation", |lead| reconcile::run(lead, Rotation)),
    ]
}

/// Runs `loops` whenever this manager leads, until `stop`.
pub async fn run(store: Store, clock: Clock, loops: Vec<Loop>, stop: CancellationToken) {
    let mut leadership = store.leadership();
    while !stop.is_cancelled() {
        let leading = leadership.borrow_and_update().leading;
        match leading {
            Some(term) => {
                let pause = lead(&store, &clock, &loops, term, &stop).await;
                stop.run_until_cancelled(tokio::time::sleep(pause)).await;
            }
            None => {
                tokio::select! {
                    () = stop.cancelled() => {}
                    changed = leadership.changed() => if changed.is_err() { return },
                }
            }
        }
    }
}

/// One term. Ends when leadership changes, on `stop`, or when a loop has ended by itself: then all start again, after
/// the pause that is returned.
async fn lead(
    store: &Store,
    clock: &Clock,
    loops: &[Loop],
    term: Term,
    stop: &CancellationToken,
) -> Duration {
    let over = stop.child_token();
    let mut running = JoinSet::new();
    for Loop { name, start } in loops {
        let (name, work) =
            (*name, start(Lead { store: store.clone(), term, clock: clock.clone(), over: over.clone() }));
        running.spawn(async move {
            work.await;
            name
        });
    }
    tracing::info!(term = term.0, "this manager leads");

    let mut leadership = store.leadership();
    let still = leadership.wait_for(|leadership| leadership.leading != Some(term));
    let pause = tokio::select! {
        () = stop.cancelled() => Duration::ZERO,
        _ = still => Duration::ZERO,
        Some(ended) = running.join_next() => report(ended),
    };
    over.cancel();
    while let Some(ended) = running.join_next().await {
        report(ended);
    }
    tracing::info!(term = term.0, "this manager no longer leads");
    pause
}

fn report(ended: Result<&'static str, JoinError>) -> Duration {
    match ended {
        Ok(name) => {
            tracing::debug!("{name} has ended");
            AFTER_END
        }
        Err(error) => {
            tracing::error!(%error, "a loop of the leader has failed");
            AFTER_FAILURE
        }
    }
}
