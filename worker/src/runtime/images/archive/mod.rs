//! Loads images from an archive: an OCI layout or what `docker save` writes, as tar, also gzipped.
//!
//! The archive is put on disk first, because its table of contents may come last.

mod docker;
mod oci;
mod tarball;

use containerd_client::types::Descriptor;
use tokio::io::AsyncRead;

use super::content::{CHUNK_BYTES, Ingest, Labels};
use super::info;
use super::manifest::{self, Manifest};
use super::name::Name;
use super::pull::keep;
use super::registry::Fetched;
use super::unpack::unpack;
use crate::runtime::Error;
use crate::runtime::client::Client;
use tarball::Tarball;

/// An image that is complete but for its names.
pub(super) struct Loaded {
    /// Full names.
    pub names: Vec<String>,
    pub target: Descriptor,
}

/// An image as the archive describes it, its blobs not yet stored.
struct Found {
    names: Vec<String>,
    /// The index that leads to the manifest, if the archive has one.
    index: Option<Fetched>,
    manifest: Fetched,
    parsed: Manifest,
    /// Paths of the layers in the archive, lowest first.
    layers: Vec<String>,
    config: Vec<u8>,
}

/// Stores and unpacks all images of the archive. `client` holds a lease.
pub(super) async fn load(
    client: &Client,
    snapshotter: &str,
    scratch: &std::path::Path,
    archive: Box<dyn AsyncRead + Send + Unpin>,
) -> Result<Vec<Loaded>, Error> {
    let tarball = Tarball::receive(scratch, archive).await?;
    let repo_tags = docker::read_table(&tarball).await?;
    let found = match oci::read(&tarball, &repo_tags).await? {
        Some(found) => found,
        None if repo_tags.is_empty() => {
            return Err(unusable("it has neither index.json nor manifest.json".to_owned()));
        }
        None => docker::read(&tarball, &repo_tags).await?,
    };
    let mut loaded = Vec::new();
    for found in found {
        loaded.push(store(client, snapshotter, &tarball, found).await?);
    }
    match loaded.iter().any(|image| !image.names.is_empty()) {
        true => Ok(loaded),
        false => Err(unusable("no image in it has a name; save it by name".to_owned())),
    }
}

async fn store(client: &Client, snapshotter: &str, tarball: &Tarball, found: Found) -> Result<Loaded, Error> {
    let Found { names, index, manifest, parsed, layers, config } = found;
    for (path, layer) in layers.iter().zip(&parsed.layers) {
        ingest(client, tarball, path, layer).await?;
    }
    super::content::put(client, &config, Labels::new()).await?;
    let image = names.first().map_or("in the archive", String::as_str);
    let info = info::from_documents(image, parsed.clone(), &config, manifest.document.len() as u64)?;
    let top = index.as_ref().unwrap_or(&manifest);
    let target = super::target(&top.document, &top.digest);
    keep(client, snapshotter, index, manifest, &parsed, &config, &info).await?;
    unpack(client, snapshotter, &info.layers, &info.diff_ids, || ()).await?;
    Ok(Loaded { names, target })
}

async fn ingest(
    client: &Client,
    tarball: &Tarball,
    path: &str,
    blob: &manifest::Descriptor,
) -> Result<(), Error> {
    let file = tarball.find(path)?;
    let Some(mut ingest) = Ingest::open(client, &blob.digest, blob.size).await? else {
        return Ok(());
    };
    while ingest.offset() < file.size {
        let chunk = tarball.chunk(file, ingest.offset(), CHUNK_BYTES).await?;
        ingest.write(chunk).await?;
    }
    ingest.commit(Labels::new()).await
}

fn full_names<'a>(names: impl IntoIterator<Item = &'a String>) -> Vec<String> {
    let names = names.into_iter().filter_map(|name| Name::parse(name).ok());
    let mut names: Vec<String> = names.map(|name| name.full()).collect();
    names.sort();
    names.dedup();
    names
}

fn unusable(reason: String) -> Error {
    Error::Archive { reason }
}
