//! What is read of an image that is present: its configuration and where its file system is.

use super::content;
use super::manifest::{self, ConfigFile, Descriptor, Document, ImageConfig, Manifest, chain_ids};
use crate::runtime::Error;
use crate::runtime::client::Client;

/// An image as far as it is needed to make a container.
#[derive(Debug)]
pub(crate) struct ImageInfo {
    pub config: ImageConfig,
    /// The topmost snapshot; empty for an image without layers.
    pub snapshot: String,
    pub(super) layers: Vec<Descriptor>,
    pub(super) diff_ids: Vec<String>,
    pub(super) size_bytes: u64,
}

/// Reads the image called `digest` from the content store; `None` if a part of it is not there.
pub(super) async fn read(client: &Client, image: &str, digest: &str) -> Result<Option<ImageInfo>, Error> {
    let Some(mut document) = content::get(client, digest).await? else {
        return Ok(None);
    };
    if let Document::Index(manifests) = parse(image, &document)? {
        let chosen = choose(image, &manifests)?;
        match content::get(client, &chosen.digest).await? {
            Some(found) => document = found,
            None => return Ok(None),
        }
    }
    let Document::Manifest(manifest) = parse(image, &document)? else {
        return Err(damaged(image, "an index within an index".to_owned()));
    };
    let Some(config) = content::get(client, &manifest.config.digest).await? else {
        return Ok(None);
    };
    let size_bytes = document.len() as u64;
    from_documents(image, manifest, &config, size_bytes).map(Some)
}

pub(super) fn from_documents(
    image: &str,
    manifest: Manifest,
    config: &[u8],
    manifest_bytes: u64,
) -> Result<ImageInfo, Error> {
    let config: ConfigFile = serde_json::from_slice(config)
        .map_err(|error| damaged(image, format!("configuration is unreadable: {error}")))?;
    let diff_ids = config.rootfs.diff_ids;
    let blobs = manifest.layers.iter().map(|layer| layer.size).sum::<u64>();
    Ok(ImageInfo {
        config: config.config.unwrap_or_default(),
        snapshot: chain_ids(&diff_ids).pop().unwrap_or_default(),
        size_bytes: manifest_bytes + manifest.config.size + blobs,
        layers: manifest.layers,
        diff_ids,
    })
}

pub(super) fn parse(image: &str, document: &[u8]) -> Result<Document, Error> {
    Document::parse(document).map_err(|reason| damaged(image, reason))
}

pub(super) fn choose<'a>(image: &str, manifests: &'a [Descriptor]) -> Result<&'a Descriptor, Error> {
    let (os, architecture) = manifest::platform();
    manifest::choose(manifests)
        .ok_or_else(|| Error::Platform { image: image.to_owned(), platform: format!("{os}/{architecture}") })
}

pub(super) fn damaged(image: &str, reason: String) -> Error {
    Error::Pull { image: image.to_owned(), reason, retry: false }
}
