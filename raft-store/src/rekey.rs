//! Replaces the data key on disk while everything goes on.
//!
//! Whatever is written after `DataKey::enclose` has the new key. What is left of the old one goes the way of all old
//! files: a snapshot is taken, the log is purged up to it, and older snapshots go. Then nothing needs the old key, and it
//! is forgotten. The key file tells that this is under way, so that a start goes on with it.
//!
//! Invariant: a key is forgotten only when no file that counts needs it.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::storage::RaftStateMachine as _;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::key::{self, DataKey};
use crate::log::Log;
use crate::replica::Replica;
use crate::snapshot;
use crate::transport::Incoming;
use crate::types::{LogId, Raft};

/// Between two looks at what is left.
const PAUSE: Duration = Duration::from_millis(200);
/// After a failure, such as a full disk.
const RETRY: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Key(#[from] key::Error),
    #[error("cannot write the log or a snapshot")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Snapshot(#[from] snapshot::Error),
    #[error("the store stops")]
    Stopped,
}

pub(crate) struct Rekey {
    pub(crate) raft: Raft,
    pub(crate) key: DataKey,
    pub(crate) log: Log,
    pub(crate) replica: Replica,
    pub(crate) incoming: Arc<Incoming>,
    /// Tells of another key.
    pub(crate) begun: Arc<Notify>,
}

impl Rekey {
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let work = async {
            loop {
                while self.key.is_changing() {
                    match self.finish().await {
                        Ok(()) => tracing::info!("the log and the snapshot have a new data key"),
                        Err(Error::Stopped) => return,
                        Err(error) => {
                            let cause = std::error::Error::source(&error).map(ToString::to_string);
                            tracing::warn!(%error, cause, "the old data key is still needed; tried again");
                            sleep(RETRY).await;
                        }
                    }
                }
                self.begun.notified().await;
            }
        };
        let _ = stop.run_until_cancelled(work).await;
    }

    async fn finish(&mut self) -> Result<(), Error> {
        let epoch = self.key.epoch();
        // What the log's thread was writing when the key changed is done after this.
        self.log.pass().await?;
        while self.log.oldest_epoch() < epoch {
            self.shorten().await?;
            sleep(PAUSE).await;
        }
        // Files that were begun before the key changed end with the old one.
        self.incoming.forget_before(epoch);
        while self.key.is_pinned_before(epoch) {
            sleep(PAUSE).await;
            self.incoming.forget_before(epoch);
        }
        self.replica.get_snapshot_builder().await.build().await?;
        let (replica, key) = (self.replica.clone(), self.key.clone());
        let retire = move || {
            replica.trim(0)?;
            Ok(key.retire(epoch)?)
        };
        tokio::task::spawn_blocking(retire).await.map_err(|_| Error::Stopped)?
    }

    /// Purges everything that is applied.
    async fn shorten(&self) -> Result<(), Error> {
        let applied = self.raft.metrics().borrow_watched().last_applied.map_or(0, |last| last.index);
        self.raft.trigger().snapshot().await.map_err(|_| Error::Stopped)?;
        let reached = |at: Option<LogId>| at.is_some_and(|at| at.index >= applied);
        let wait = || self.raft.wait(Some(RETRY));
        if wait().metrics(|metrics| reached(metrics.snapshot), "a snapshot").await.is_ok() {
            self.raft.trigger().purge_log(applied).await.map_err(|_| Error::Stopped)?;
            // A leader purges when it has sent what it is sending; else it is tried again.
            let _ = wait().metrics(|metrics| reached(metrics.purged), "a purged log").await;
        }
        Ok(())
    }
}
