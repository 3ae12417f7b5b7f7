//! Brings an image here from its registry: documents and layers into the content store, then unpacked.

use futures_util::{StreamExt, TryStreamExt};
use tokio::sync::watch;

use super::content::{self, CHUNK_BYTES, Ingest, Labels};
use super::info::{self, ImageInfo, damaged};
use super::manifest::{Descriptor, Document, Manifest};
use super::name::Name;
use super::registry::{Fetched, Session};
use super::unpack::unpack;
use crate::runtime::client::Client;
use crate::runtime::{Error, PullPhase, PullProgress};
use crate::timed::timed;

/// Blobs under way at the same time, as in Docker.
const PARALLEL: usize = 3;

/// Where a pull works, and whom it tells.
pub(super) struct Pull<'a> {
    /// Holds a lease.
    pub client: Client,
    pub snapshotter: &'a str,
    pub session: Session,
    pub name: &'a Name,
    pub progress: &'a watch::Sender<PullProgress>,
}

impl Pull<'_> {
    /// Fetches what `top` leads to and unpacks it.
    pub(super) async fn fetch(&self, top: Fetched) -> Result<ImageInfo, Error> {
        let image = self.name.full();
        let (index, fetched) = match info::parse(&image, &top.document)? {
            Document::Manifest(_) => (None, top),
            Document::Index(manifests) => {
                let chosen = info::choose(&image, &manifests)?.clone();
                let fetched = self.session.manifest(Some(&chosen.digest)).await?;
                (Some(top), fetched)
            }
        };
        let Document::Manifest(manifest) = info::parse(&image, &fetched.document)? else {
            return Err(damaged(&image, "an index within an index".to_owned()));
        };
        timed(&image, "download", self.blobs(&manifest)).await?;
        let config = content::get(&self.client, &manifest.config.digest).await?;
        let config = config.ok_or_else(|| damaged(&image, "the configuration is gone".to_owned()))?;
        let info = info::from_documents(&image, manifest.clone(), &config, fetched.document.len() as u64)?;
        keep(&self.client, self.snapshotter, index, fetched, &manifest, &config, &info).await?;
        timed(&image, "unpack", self.unpack(&info)).await?;
        Ok(info)
    }

    pub(super) async fn unpack(&self, info: &ImageInfo) -> Result<(), Error> {
        let layers = info.layers.len();
        self.progress.send_modify(|progress| {
            (progress.phase, progress.layers, progress.layers_done) = (PullPhase::Extracting, layers, 0);
        });
        let done = || self.progress.send_modify(|progress| progress.layers_done += 1);
        unpack(&self.client, self.snapshotter, &info.layers, &info.diff_ids, done).await.map(drop)
    }

    async fn blobs(&self, manifest: &Manifest) -> Result<(), Error> {
        self.progress.send_modify(|progress| {
            progress.phase = PullPhase::Downloading;
            progress.layers = manifest.layers.len();
            progress.total_bytes = manifest.layers.iter().map(|layer| layer.size).sum();
        });
        // The configuration is labelled once the layers are known; until then the lease holds it.
        let config = std::iter::once((&manifest.config, false));
        let layers = manifest.layers.iter().map(|layer| (layer, true));
        futures_util::stream::iter(config.chain(layers).map(Ok))
            .try_for_each_concurrent(PARALLEL, |(blob, layer)| self.blob(blob, layer))
            .await
    }

    async fn blob(&self, blob: &Descriptor, layer: bool) -> Result<(), Error> {
        let advance = |bytes: u64, layers: usize| {
            self.progress.send_modify(|progress| {
                progress.done_bytes += bytes;
                progress.layers_done += layers;
            });
        };
        let Some(ingest) = Ingest::open(&self.client, &blob.digest, blob.size).await? else {
            advance(if layer { blob.size } else { 0 }, usize::from(layer));
            return Ok(());
        };
        self.download(ingest, blob, |bytes| advance(if layer { bytes } else { 0 }, 0)).await?;
        advance(0, usize::from(layer));
        Ok(())
    }

    async fn download(
        &self,
        mut ingest: Ingest,
        blob: &Descriptor,
        advance: impl Fn(u64),
    ) -> Result<(), Error> {
        let broken = |reason: String| Error::Pull { image: self.name.full(), reason, retry: true };
        let mut stream = self.session.blob(blob).await?.stream;
        let mut chunk = Vec::with_capacity(CHUNK_BYTES.min(blob.size as usize));
        loop {
            let piece = stream.next().await.transpose().map_err(|error| {
                broken(format!("layer {}: {}", blob.digest, crate::runtime::client::deepest(&error)))
            })?;
            let ended = piece.is_none();
            chunk.extend(piece.into_iter().flatten());
            if ingest.offset() + chunk.len() as u64 > blob.size {
                return Err(broken(format!("layer {} is longer than announced", blob.digest)));
            }
            if !chunk.is_empty() && (ended || chunk.len() >= CHUNK_BYTES) {
                let bytes = chunk.len() as u64;
                ingest.write(std::mem::take(&mut chunk)).await?;
                advance(bytes);
            }
            if ended {
                return ingest.commit(Labels::new()).await;
            }
        }
    }
}

/// The label by which whatever has it keeps a snapshot from being collected.
pub(in crate::runtime) fn holds_snapshot(snapshotter: &str) -> String {
    format!("containerd.io/gc.ref.snapshot.{snapshotter}")
}

/// Keeps the documents with the labels that hold what they refer to: index → manifest → configuration and
/// layers, configuration → snapshots. The blobs themselves are there.
pub(super) async fn keep(
    client: &Client,
    snapshotter: &str,
    index: Option<Fetched>,
    manifest: Fetched,
    parsed: &Manifest,
    config: &[u8],
    info: &ImageInfo,
) -> Result<(), Error> {
    let label = |key: String, value: &str| (key, value.to_owned());
    let mut labels =
        Labels::from([label("containerd.io/gc.ref.content.config".into(), &parsed.config.digest)]);
    for (number, layer) in parsed.layers.iter().enumerate() {
        labels.extend([label(format!("containerd.io/gc.ref.content.l.{number}"), &layer.digest)]);
    }
    content::put(client, &manifest.document, labels).await?;
    if !info.snapshot.is_empty() {
        let key = holds_snapshot(snapshotter);
        let digest = content::put(client, config, Labels::new()).await?;
        content::label(client, &digest, key, &info.snapshot).await?;
    }
    if let Some(index) = index {
        let labels = Labels::from([label("containerd.io/gc.ref.content.m.0".into(), &manifest.digest)]);
        content::put(client, &index.document, labels).await?;
    }
    Ok(())
}
