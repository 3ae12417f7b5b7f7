//! Turns the layers of an image into a chain of snapshots.

use std::sync::atomic::{AtomicU64, Ordering};

use containerd_client::services::v1::ApplyRequest;
use containerd_client::services::v1::snapshots::{
    CommitSnapshotRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
};
use containerd_client::types::Descriptor;
use tonic::Code;

use super::manifest::{self, chain_ids};
use crate::runtime::Error;
use crate::runtime::client::{Client, failed, or_absent};

const ACTION: &str = "unpack the image";

/// Makes the snapshots that are missing; `layer` hears of each that is there. Returns the topmost one's name,
/// empty for an image without layers.
pub(super) async fn unpack(
    client: &Client,
    snapshotter: &str,
    layers: &[manifest::Descriptor],
    diff_ids: &[String],
    mut layer_done: impl FnMut(),
) -> Result<String, Error> {
    if layers.len() != diff_ids.len() {
        let reason = format!("{} layers, but {} in the configuration", layers.len(), diff_ids.len());
        return Err(Error::Containerd { action: ACTION, reason });
    }
    let mut parent = String::new();
    for ((layer, diff_id), chain_id) in layers.iter().zip(diff_ids).zip(chain_ids(diff_ids)) {
        if !exists(client, snapshotter, &chain_id).await? {
            extract(client, snapshotter, &parent, &chain_id, layer, diff_id).await?;
        }
        parent = chain_id;
        layer_done();
    }
    Ok(parent)
}

pub(super) async fn exists(client: &Client, snapshotter: &str, key: &str) -> Result<bool, Error> {
    let request = StatSnapshotRequest { snapshotter: snapshotter.to_owned(), key: key.to_owned() };
    let found = or_absent(client.snapshots().stat(request).await).map_err(failed("look for a snapshot"))?;
    Ok(found.is_some())
}

async fn extract(
    client: &Client,
    snapshotter: &str,
    parent: &str,
    chain_id: &str,
    layer: &manifest::Descriptor,
    diff_id: &str,
) -> Result<(), Error> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    // Two images that share the layer may unpack it at the same time: the first to commit wins.
    let key = format!("swarm-extract-{}-{count}-{chain_id}", std::process::id());
    let outcome = apply(client, snapshotter, parent, &key, layer, diff_id).await;
    let committed = match outcome {
        Ok(()) => commit(client, snapshotter, &key, chain_id).await,
        Err(error) => Err(error),
    };
    if !matches!(committed, Ok(true)) {
        let request = RemoveSnapshotRequest { snapshotter: snapshotter.to_owned(), key };
        let _ = client.snapshots().remove(request).await;
    }
    committed.map(drop)
}

async fn apply(
    client: &Client,
    snapshotter: &str,
    parent: &str,
    key: &str,
    layer: &manifest::Descriptor,
    diff_id: &str,
) -> Result<(), Error> {
    let request = PrepareSnapshotRequest {
        snapshotter: snapshotter.to_owned(),
        key: key.to_owned(),
        parent: parent.to_owned(),
        ..PrepareSnapshotRequest::default()
    };
    let prepared = client.snapshots().prepare(request).await.map_err(failed(ACTION))?;
    let diff = Descriptor {
        media_type: layer.media_type.clone(),
        digest: layer.digest.clone(),
        size: layer.size.try_into().unwrap_or(i64::MAX),
        ..Descriptor::default()
    };
    let mounts = prepared.into_inner().mounts;
    let request = ApplyRequest { diff: Some(diff), mounts, ..ApplyRequest::default() };
    let applied = client.diff().apply(request).await.map_err(failed(ACTION))?.into_inner().applied;
    let found = applied.map(|applied| applied.digest).unwrap_or_default();
    if found == diff_id {
        return Ok(());
    }
    Err(Error::Containerd { action: ACTION, reason: format!("layer {} is not {diff_id}", layer.digest) })
}

/// False if somebody else has made the same snapshot.
async fn commit(client: &Client, snapshotter: &str, key: &str, chain_id: &str) -> Result<bool, Error> {
    let request = CommitSnapshotRequest {
        snapshotter: snapshotter.to_owned(),
        name: chain_id.to_owned(),
        key: key.to_owned(),
        ..CommitSnapshotRequest::default()
    };
    match client.snapshots().commit(request).await {
        Ok(_) => Ok(true),
        Err(status) if status.code() == Code::AlreadyExists => Ok(false),
        Err(status) => Err(failed(ACTION)(status)),
    }
}
