//! The OCI image layout: `index.json` and `blobs/`.

use serde::Deserialize;

use super::super::manifest::{Descriptor, Document};
use super::docker::RepoTags;
use super::tarball::Tarball;
use super::{Found, full_names, info, unusable};
use crate::runtime::Error;

use super::super::registry::Fetched;

/// Where tools put an image's name: the full one, and one that may be a mere tag.
const NAME_ANNOTATIONS: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

/// `None` if the archive is no OCI layout. `repo_tags` adds the names that a Docker table in the same archive
/// gives.
pub(super) async fn read(tarball: &Tarball, repo_tags: &[RepoTags]) -> Result<Option<Vec<Found>>, Error> {
    let Some(index) = tarball.document("index.json").await? else {
        return Ok(None);
    };
    let index: Index = serde_json::from_slice(&index)
        .map_err(|error| unusable(format!("index.json is unreadable: {error}")))?;
    let mut images = Vec::new();
    for descriptor in &index.manifests {
        images.push(image(tarball, descriptor, repo_tags).await?);
    }
    Ok(Some(images))
}

async fn image(tarball: &Tarball, descriptor: &Descriptor, repo_tags: &[RepoTags]) -> Result<Found, Error> {
    let top = blob(tarball, &descriptor.digest).await?;
    let annotated: Vec<String> = NAME_ANNOTATIONS
        .iter()
        .filter_map(|key| descriptor.annotations.get(*key))
        .filter(|name| name.contains([':', '/']))
        .take(1)
        .cloned()
        .collect();
    let image = annotated.first().map_or("in the archive", String::as_str);
    let (index, manifest) = match info::parse(image, &top.document)? {
        Document::Manifest(_) => (None, top),
        Document::Index(manifests) => {
            let chosen = info::choose(image, &manifests)?;
            (Some(top), blob(tarball, &chosen.digest).await?)
        }
    };
    let Document::Manifest(parsed) = info::parse(image, &manifest.document)? else {
        return Err(unusable("it has an index within an index".to_owned()));
    };
    let config = blob(tarball, &parsed.config.digest).await?.document;
    let layers = parsed.layers.iter().map(|layer| path(&layer.digest)).collect::<Result<_, _>>()?;
    let config_path = path(&parsed.config.digest)?;
    let tags = repo_tags.iter().filter(|table| table.config == config_path).flat_map(|table| table.tags());
    let names = full_names(annotated.iter().chain(tags));
    Ok(Found { names, index, manifest, parsed, layers, config })
}

async fn blob(tarball: &Tarball, digest: &str) -> Result<Fetched, Error> {
    let path = path(digest)?;
    let missing = || unusable(format!("{path} is missing in it"));
    let document = tarball.document(&path).await?.ok_or_else(missing)?;
    if super::manifest::digest(&document) != digest {
        return Err(unusable(format!("{path} is not what its name says")));
    }
    Ok(Fetched { document, digest: digest.to_owned() })
}

fn path(digest: &str) -> Result<String, Error> {
    let (algorithm, hex) =
        digest.split_once(':').ok_or_else(|| unusable(format!("{digest:?} is no digest")))?;
    Ok(format!("blobs/{algorithm}/{hex}"))
}
