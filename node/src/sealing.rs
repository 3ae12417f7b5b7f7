//! Seals what a manager keeps on disk with the swarm's unlock key, and follows its changes.
//!
//! The cluster object decides; this file carries it out, in an order in which a crash at any instant leaves files that
//! one key opens: first the data key can be opened with both, then the node's key is sealed anew, then the data key opens
//! with the new one only. How files are sealed is `identity`'s and `raft_store`'s.

use std::sync::Arc;
use std::time::Duration;

use identity::{CertificateDir, UnlockKey};
use proto::model::Cluster;
use raft_store::{Seal, Store};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::error::{Error, chain};

/// After a failure, such as a full disk.
const RETRY: Duration = Duration::from_secs(5);
const PURPOSE: &[u8] = b"data-key";

/// Seals the replica's data key.
struct DataKeySeal(UnlockKey);

impl Seal for DataKeySeal {
    fn seal(&self, plaintext: &[u8]) -> Vec<u8> {
        self.0.seal(PURPOSE, plaintext)
    }

    fn open(&self, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        self.0.open(PURPOSE, sealed)
    }
}

pub fn seal(key: Option<UnlockKey>) -> Option<Arc<dyn Seal>> {
    key.map(|key| Arc::new(DataKeySeal(key)) as Arc<dyn Seal>)
}

pub struct Sealing {
    pub store: Store,
    pub certificates: CertificateDir,
}

/// What is to seal from now on, and the version of the cluster object that says so.
struct Change {
    key: Option<UnlockKey>,
    version: u64,
}

impl Sealing {
    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let _ = stop.run_until_cancelled(self.follow()).await;
    }

    async fn follow(&self) {
        loop {
            // A watch that falls behind begins anew.
            let mut watch = self.store.watch();
            let mut cluster = watch.view.cluster().cloned();
            loop {
                if let Some(change) = cluster.and_then(|cluster| self.plan(&cluster)) {
                    self.apply(change).await;
                }
                let Ok(commit) = watch.next().await else { break };
                cluster = commit.view.cluster().cloned();
            }
        }
    }

    /// Nothing if all is as the cluster object says, or if that is older than what was decided already.
    fn plan(&self, cluster: &Cluster) -> Option<Change> {
        let wanted = cluster.unlock_key.as_ref().map(|key| UnlockKey::from_bytes(key.expose()));
        // A key that is none would come from another version of the program: it must not open what is sealed.
        let key = wanted.transpose().ok()?;
        let (held, decided) = self.certificates.unlock_key();
        let same = match (&held, &key) {
            (None, None) => true,
            (Some(held), Some(key)) => held.matches(key),
            _ => false,
        };
        let version = cluster.meta.version;
        (!same && version > decided).then_some(Change { key, version })
    }

    async fn apply(&self, change: Change) {
        while let Err(error) = self.try_apply(&change).await {
            tracing::error!(error = chain(&error), "cannot seal this manager's keys; it is tried again");
            tokio::time::sleep(RETRY).await;
        }
        let locked = if change.key.is_some() { "sealed with the swarm's unlock key" } else { "not sealed" };
        tracing::info!("this manager's keys on disk are {locked}");
    }

    async fn try_apply(&self, change: &Change) -> Result<(), Error> {
        failpoint::reached("seal: data key with both");
        self.store.seal_also(seal(change.key.clone())).await?;
        failpoint::reached("seal: node key");
        let (certificates, key, version) = (self.certificates.clone(), change.key.clone(), change.version);
        let sealing = tokio::task::spawn_blocking(move || certificates.seal(key, version));
        sealing.await.map_err(|_| Error::Stopping)??;
        failpoint::reached("seal: data key");
        self.store.seal_only(seal(change.key.clone())).await?;
        failpoint::reached("seal: done");
        Ok(())
    }
}
