//! Leases: what is made under one is not collected before something else refers to it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use containerd_client::services::v1::{CreateRequest, DeleteRequest, ListRequest};

use crate::logs::timestamp;
use crate::runtime::Error;
use crate::runtime::client::{Client, failed, or_absent};

const PREFIX: &str = "swarm-import-";
/// A lease that nobody gave back, because this process was killed, ends by itself.
const EXPIRY: Duration = Duration::from_secs(24 * 3600);

/// To be given back with [`release`](Self::release).
pub(super) struct Lease {
    client: Client,
    id: String,
}

impl Lease {
    pub(super) async fn take(client: &Client) -> Result<Self, Error> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let id = format!("{PREFIX}{}-{}-{count}", std::process::id(), started.as_millis());
        let expiry = timestamp::format(SystemTime::now() + EXPIRY);
        let labels = HashMap::from([("containerd.io/gc.expire".to_owned(), expiry)]);
        let request = CreateRequest { id: id.clone(), labels };
        client.leases().create(request).await.map_err(failed("take a lease"))?;
        Ok(Self { client: client.clone(), id })
    }

    /// A client whose work is held by the lease.
    pub(super) fn client(&self) -> Client {
        self.client.leased(&self.id)
    }

    /// Best effort: a lease left behind ends by itself.
    pub(super) async fn release(self) {
        let request = DeleteRequest { id: self.id, sync: false };
        if let Err(status) = or_absent(self.client.leases().delete(request).await) {
            tracing::warn!(error = %status, "lease was not given back");
        }
    }
}

/// Gives back the leases of a former process. To be called before any lease is taken.
pub(super) async fn release_stale(client: &Client) -> Result<(), Error> {
    let leases = client.leases().list(ListRequest::default()).await.map_err(failed("list leases"))?;
    for lease in leases.into_inner().leases.into_iter().filter(|lease| lease.id.starts_with(PREFIX)) {
        Lease { client: client.clone(), id: lease.id }.release().await;
    }
    Ok(())
}
