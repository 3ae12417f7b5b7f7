//! A leader that cannot write any more lets another manager lead, before it stops.
//!
//! Raft stops at the first failed write, and then the others would notice only after an election timeout. So the log
//! holds the bad news back for a moment: to Raft the write is merely slow, and Raft acknowledges nothing that is not
//! durable on a quorum. Meanwhile the leadership is handed over as at an orderly stop. When another manager stands for
//! election, this one cannot write its vote for it either, and stops; the others are a quorum without it, or nobody is.
//!
//! Invariant: nothing is told to be durable that is not; the news is held back for `BOUND` at most.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::RaftId;
use crate::log::Log;
use crate::membership::{self, lead};
use crate::types::{Metrics, Raft};

/// How long a hand-over may take.
const BOUND: Duration = Duration::from_secs(2);

/// Raised by whoever cannot write.
#[derive(Clone, Default)]
pub(crate) struct Alarm(Arc<Bells>);

#[derive(Default)]
struct Bells {
    raised: Notify,
    heeded: Notify,
}

impl Alarm {
    pub(crate) fn raise(&self) {
        self.0.raised.notify_one();
    }

    /// Returns when another manager leads, as far as that can be brought about.
    pub(crate) async fn raise_and_wait(&self) {
        let mut heeded = pin!(self.0.heeded.notified());
        heeded.as_mut().enable();
        self.raise();
        // Nobody heeds it any more while the store stops.
        let _ = timeout(2 * BOUND, heeded).await;
    }
}

pub(crate) struct GivingWay {
    pub(crate) raft: Raft,
    pub(crate) raft_id: RaftId,
    pub(crate) log: Log,
    pub(crate) patience: Duration,
}

impl GivingWay {
    pub(crate) async fn run(self, stop: CancellationToken) {
        let alarm = self.log.alarm();
        let work = async {
            loop {
                alarm.0.raised.notified().await;
                self.hand_over().await;
                alarm.0.heeded.notify_waiters();
                self.log.give_up();
            }
        };
        let _ = stop.run_until_cancelled(work).await;
    }

    async fn hand_over(&self) {
        let deadline = Instant::now() + BOUND;
        let leads =
            |metrics: &Metrics| metrics.running_state.is_ok() && metrics.current_leader == Some(self.raft_id);
        while Instant::now() < deadline {
            let metrics = self.raft.metrics().borrow_watched().clone();
            if !leads(&metrics) {
                return;
            }
            let members = membership::members(&metrics, self.raft_id, Some(self.raft_id), self.patience);
            let Some(successor) = lead::successor(&members, self.raft_id) else { return };
            tracing::warn!(
                "this manager leads and cannot write any more: hands the leadership to {successor:x}"
            );
            if self.raft.trigger().transfer_leader(successor).await.is_err() {
                return;
            }
            // One that lacks an entry at that moment, or misses the message, does nothing: it is told again.
            let over = |metrics: &Metrics| !leads(metrics);
            let _ = self.raft.wait(Some(BOUND / 4)).metrics(over, "another leader").await;
        }
    }
}
