//! Reads that see everything that was committed before they were asked for, whichever manager serves them.
//!
//! Raft's read index: the leader has a majority confirm, after the question came, that it still leads, and answers up
//! to where it had committed; whoever asks waits until its own replica is there. No clock is trusted and nothing is
//! written. A majority that cannot be had is an error within `patience` or twice that, never a wait without end.
//!
//! Questions share rounds, on the manager that is asked as on the leader: while one round is under way, all that come
//! wait for the next.
//!
//! Invariant: a question is answered by a round that began after it came.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use openraft::ReadPolicy;
use proto::raft as wire;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::RaftId;
use crate::replicated::Replicated;
use crate::transport::Lane;
use crate::watch::Feed;

/// Before the leader is asked again, or looked for.
const PAUSE: Duration = Duration::from_millis(20);

/// How far this replica may lag behind what was committed.
const CATCH_UP: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(
        "no leader that reaches a majority within {} s: most managers must be up and reach each other", .0.as_secs()
    )]
    NoQuorum(Duration),
    #[error("this manager lacks what others have committed, and has not got it within {} s", .0.as_secs())]
    Behind(Duration),
    #[error("the store is stopped")]
    Stopped,
}

/// What one question after the other is put to. `T` is the answer that all of a round get.
pub(crate) struct Rounds<T: Clone> {
    /// The one that has not begun.
    next: Arc<Mutex<Option<Round<T>>>>,
    /// Held by the one that is under way.
    turn: Arc<tokio::sync::Mutex<()>>,
}

type Round<T> = Shared<BoxFuture<'static, T>>;

impl<T: Clone> Default for Rounds<T> {
    fn default() -> Self {
        Self { next: Arc::default(), turn: Arc::default() }
    }
}

impl<T: Clone + Send + Sync + 'static> Rounds<T> {
    /// The answer of the next round, which is `ask` if nobody has come before.
    pub(crate) async fn join(&self, ask: impl Future<Output = T> + Send + 'static) -> T {
        let round = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            next.get_or_insert_with(|| self.round(ask)).clone()
        };
        round.await
    }

    fn round(&self, ask: impl Future<Output = T> + Send + 'static) -> Round<T> {
        // Weak, since the round itself is kept there until it begins.
        let (next, turn) = (Arc::downgrade(&self.next), self.turn.clone());
        let round = async move {
            let _turn = turn.lock().await;
            // Who comes from here on may know of what this round does not see.
            let begun =
                next.upgrade().and_then(|next| next.lock().unwrap_or_else(PoisonError::into_inner).take());
            drop(begun);
            ask.await
        };
        round.boxed().shared()
    }
}

/// The questions of this manager's clients, and those that are put to it as the leader.
#[derive(Default)]
pub(crate) struct Reads {
    asked: Rounds<Result<u64, Error>>,
    led: Rounds<Option<u64>>,
}

/// Waits until `feed` has everything that was committed when this was called.
pub(crate) async fn linearize(member: &Arc<Replicated>, feed: &Feed) -> Result<(), Error> {
    let bound = bound(member);
    let asking = member.reads.asked.join(ask(Arc::downgrade(member)));
    // The round before may have had a leader that hung.
    let index = timeout(bound, asking).await.map_err(|_| Error::NoQuorum(bound))??;
    timeout(CATCH_UP, feed.applied(index)).await.map_err(|_| Error::Behind(CATCH_UP))
}

/// A leader that is heard may have died just now: the next one is waited for. Who has heard none for that long need
/// not.
fn bound(member: &Replicated) -> Duration {
    let patience = member.timing.patience();
    if member.leadership.borrow().leader.is_some() { patience * 2 } else { patience }
}

async fn ask(member: Weak<Replicated>) -> Result<u64, Error> {
    let member = member.upgrade().ok_or(Error::Stopped)?;
    let bound = bound(&member);
    let deadline = Instant::now() + bound;
    while Instant::now() < deadline {
        let mut changed = pin!(member.leadership_changed.notified());
        changed.as_mut().enable();
        if member.leadership.has_changed().is_err() {
            return Err(Error::Stopped);
        }
        let leader = member.leadership.borrow().leader;
        let index = match leader {
            Some(leader) if leader == member.raft_id => lead(&member).await,
            Some(leader) => ask_leader(&member, leader, deadline).await,
            None => None,
        };
        if let Some(index) = index {
            return Ok(index);
        }
        tokio::select! {
            biased;
            () = changed => {}
            () = sleep(PAUSE) => {}
        }
    }
    Err(Error::NoQuorum(bound))
}

/// None if it did not answer, or does not lead.
async fn ask_leader(member: &Replicated, leader: RaftId, deadline: Instant) -> Option<u64> {
    use wire::read_index_response::Result as Wire;
    let address = member.address_of(leader)?;
    let mut client = member.peers.client(&address.addr, Lane::Control);
    let answer = tokio::select! {
        biased;
        answer = timeout_at(deadline, client.read_index(wire::ReadIndexRequest {})) => answer.ok()?.ok()?,
        () = member.no_longer_leads(leader) => return None,
    };
    match answer.into_inner().result? {
        Wire::Index(index) => Some(index),
        Wire::NotLeader(_) => None,
    }
}

/// None if this manager does not lead, or no majority says so in time.
pub(crate) async fn lead(member: &Arc<Replicated>) -> Option<u64> {
    let leads = Arc::downgrade(member);
    let confirm = async move {
        let member = leads.upgrade()?;
        let confirmed = Box::pin(member.raft.get_read_linearizer(ReadPolicy::ReadIndex)).await.ok()?;
        Some(confirmed.read_log_id().index())
    };
    member.reads.led.join(confirm).await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::future::join_all;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn questions_share_rounds_and_none_joins_one_that_has_begun() {
        let (rounds, asked) = (Rounds::default(), Arc::new(AtomicU32::new(0)));
        let question = || {
            let asked = asked.clone();
            rounds.join(async move {
                let number = asked.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_secs(1)).await;
                number
            })
        };
        let late = |after| async move {
            sleep(Duration::from_millis(after)).await;
            question().await
        };
        let rounds_of = join_all((0..50).map(late)).await;
        assert_eq!(rounds_of[0], 0, "the first one has nobody to wait for");
        assert!(rounds_of[1..].iter().all(|round| *round == 1), "{rounds_of:?}");
        assert_eq!(question().await, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_that_everybody_left_stops_nobody() {
        let rounds = Rounds::default();
        let hangs = rounds.join(std::future::pending::<u32>());
        assert!(timeout(Duration::from_secs(1), hangs).await.is_err());
        // Nobody waits for the one that has begun; the one after it is ours.
        let answered = timeout(Duration::from_secs(1), rounds.join(async { 7 })).await;
        assert_eq!(answered, Ok(7));
    }
}
