//! What `docker save` writes: `manifest.json` names a configuration and layers for each image. It has no OCI
//! manifest, so one is made.

use serde::Deserialize;

use super::super::manifest::{self, DOCKER_MANIFEST, Descriptor, Manifest};
use super::super::registry::Fetched;
use super::tarball::Tarball;
use super::{Found, full_names, unusable};
use crate::runtime::Error;

const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// One image of the table.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RepoTags {
    pub config: String,
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

impl RepoTags {
    pub(super) fn tags(&self) -> impl Iterator<Item = &String> {
        self.repo_tags.iter().flatten()
    }
}

/// Empty if the archive has no such table.
pub(super) async fn read_table(tarball: &Tarball) -> Result<Vec<RepoTags>, Error> {
    match tarball.document("manifest.json").await? {
        None => Ok(Vec::new()),
        Some(table) => serde_json::from_slice(&table)
            .map_err(|error| unusable(format!("manifest.json is unreadable: {error}"))),
    }
}

pub(super) async fn read(tarball: &Tarball, table: &[RepoTags]) -> Result<Vec<Found>, Error> {
    let mut images = Vec::new();
    for image in table {
        images.push(read_image(tarball, image).await?);
    }
    Ok(images)
}

async fn read_image(tarball: &Tarball, image: &RepoTags) -> Result<Found, Error> {
    let missing = || unusable(format!("{} is missing in it", image.config));
    let config = tarball.document(&image.config).await?.ok_or_else(missing)?;
    let mut layers = Vec::new();
    for path in &image.layers {
        let extent = tarball.find(path)?;
        let (digest, zipped) = tarball.digest(extent).await?;
        let media_type = if zipped { format!("{LAYER}.gzip") } else { LAYER.to_owned() };
        layers.push(Descriptor { media_type, digest, size: extent.size, ..Descriptor::default() });
    }
    let parsed = Manifest {
        schema_version: 2,
        media_type: DOCKER_MANIFEST.to_owned(),
        config: Descriptor {
            media_type: CONFIG.to_owned(),
            digest: manifest::digest(&config),
            size: config.len() as u64,
            ..Descriptor::default()
        },
        layers,
    };
    let document = serde_json::to_vec(&parsed).expect("a manifest is plain JSON");
    let digest = manifest::digest(&document);
    let manifest = Fetched { document, digest };
    Ok(Found {
        names: full_names(image.tags()),
        index: None,
        manifest,
        parsed,
        layers: image.layers.clone(),
        config,
    })
}
