//! When a snapshot is taken and how far the log is cut off behind it, by the settings of the swarm.
//!
//! Raft itself would have to know both when it starts; the settings may change at any time and count at once, on every
//! manager, since they are part of the replicated state. Taking a snapshot is left to `replica`, cutting off to `log`.
//!
//! Invariant: the log goes back to the oldest snapshot that is kept, so that each of them can be started from; only the
//! one from a leader, and a change of the data key, leave nothing older.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::type_config::alias::WatchReceiverOf;
use proto::model::RaftConfig;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::host::blocking;
use crate::replica::Replica;
use crate::transport::Incoming;
use crate::types::{Group, LogId, Metrics, Raft};

/// A snapshot is asked for again after so long: one that was under way when it was asked for was made earlier.
const AGAIN: Duration = Duration::from_secs(1);

pub(crate) struct Compaction {
    raft: Raft,
    metrics: WatchReceiverOf<Group, Metrics>,
    replica: Replica,
    incoming: Arc<Incoming>,
    asked: Option<Instant>,
    /// Up to which entry it was asked for last. A leader does it when it has sent what it is sending.
    purging: Option<u64>,
    /// The number of older snapshots to which they were brought down last.
    trimmed: Option<u64>,
}

/// Indexes of the entries that follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reached {
    applied: u64,
    snapshot: u64,
    oldest_snapshot: u64,
    purged: u64,
}

impl Reached {
    fn snapshot_is_due(&self, config: &RaftConfig) -> bool {
        self.applied >= self.snapshot.saturating_add(config.snapshot_interval.max(1))
    }

    /// The last entry that is to go, if any is.
    fn purge_up_to(&self, config: &RaftConfig) -> Option<u64> {
        let kept = self.snapshot.saturating_sub(config.log_entries_for_slow_followers);
        let first = kept.min(self.oldest_snapshot);
        first.checked_sub(1).filter(|_| first > self.purged)
    }
}

/// Raft has stopped.
struct Stopped;

impl Compaction {
    pub(crate) fn new(raft: &Raft, replica: Replica, incoming: Arc<Incoming>) -> Self {
        let (raft, metrics) = (raft.clone(), raft.metrics());
        Self { raft, metrics, replica, incoming, asked: None, purging: None, trimmed: None }
    }

    pub(crate) async fn run(mut self, stop: CancellationToken) {
        while let Ok(()) = self.step().await {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                changed = self.metrics.changed() => if changed.is_err() { return },
                () = sleep(AGAIN), if self.asked.is_some() => {}
            }
        }
    }

    async fn step(&mut self) -> Result<(), Stopped> {
        let config = self.replica.config();
        if self.trimmed != Some(config.keep_old_snapshots) {
            self.trim(config.keep_old_snapshots).await;
        }
        let reached = self.reached();
        if let Some(applied) = reached.applied.checked_sub(1) {
            self.incoming.forget_up_to(applied);
        }
        if !reached.snapshot_is_due(&config) {
            self.asked = None;
        } else if self.asked.is_none_or(|asked| asked.elapsed() >= AGAIN) {
            self.asked = Some(Instant::now());
            self.raft.trigger().snapshot().await.map_err(|_| Stopped)?;
        }
        match reached.purge_up_to(&config).filter(|last| self.purging.is_none_or(|purging| *last > purging)) {
            Some(last) => {
                self.purging = Some(last);
                self.raft.trigger().purge_log(last).await.map_err(|_| Stopped)
            }
            None => Ok(()),
        }
    }

    async fn trim(&mut self, older: u64) {
        self.trimmed = Some(older);
        let replica = self.replica.clone();
        if let Ok(Err(error)) = blocking(move || replica.trim(older)).await {
            tracing::warn!(%error, "snapshots that are not to be kept any more are removed with the next one");
        }
    }

    fn reached(&self) -> Reached {
        let next = |at: &Option<LogId>| at.as_ref().map_or(0, |at| at.index + 1);
        let metrics = self.metrics.borrow_watched();
        let snapshot = next(&metrics.snapshot);
        let oldest_snapshot = self.replica.oldest_snapshot().map_or(snapshot, |oldest| oldest + 1);
        Reached {
            applied: next(&metrics.last_applied),
            snapshot,
            oldest_snapshot,
            purged: next(&metrics.purged),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(snapshot_interval: u64, log_entries_for_slow_followers: u64) -> RaftConfig {
        RaftConfig { snapshot_interval, log_entries_for_slow_followers, ..RaftConfig::default() }
    }

    #[test]
    fn a_snapshot_is_due_after_so_many_entries() {
        let at = |applied, snapshot| Reached { applied, snapshot, ..Reached::default() };
        for (reached, interval, due) in [
            (at(9, 0), 10, false),
            (at(10, 0), 10, true),
            (at(19, 10), 10, false),
            (at(20, 10), 10, true),
            (at(20, 20), 0, false),
            (at(21, 20), 0, true),
            (at(21, 20), u64::MAX, false),
        ] {
            assert_eq!(reached.snapshot_is_due(&config(interval, 0)), due, "{reached:?}, {interval}");
        }
    }

    #[test]
    fn the_log_goes_back_behind_the_snapshot_and_to_the_oldest_one() {
        let at =
            |snapshot, oldest_snapshot, purged| Reached { applied: 500, snapshot, oldest_snapshot, purged };
        for (reached, kept, last) in [
            (at(0, 0, 0), 0, None),
            (at(100, 100, 0), 0, Some(99)),
            (at(100, 100, 100), 0, None),
            (at(100, 100, 0), 30, Some(69)),
            (at(100, 100, 70), 30, None),
            (at(100, 100, 0), 1000, None),
            (at(100, 50, 0), 30, Some(49)),
            (at(100, 50, 50), 30, None),
            (at(100, 90, 0), 30, Some(69)),
        ] {
            assert_eq!(reached.purge_up_to(&config(10, kept)), last, "{reached:?}, {kept}");
        }
    }
}
