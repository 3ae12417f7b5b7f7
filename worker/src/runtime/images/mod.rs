//! The images of this node: present ones, and bringing them here.
//!
//! An image is a name in containerd's image store that leads to documents and layers in its content store, which
//! labels tie together for containerd's garbage collector, and to a chain of snapshots. The name is made last: what
//! has a name is complete.

mod archive;
mod content;
mod flight;
mod info;
mod insecure;
mod lease;
mod manifest;
mod name;
mod pull;
mod registry;
mod unpack;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use containerd_client::services::v1::{
    CreateImageRequest, DeleteImageRequest, GetImageRequest, Image, ListImagesRequest, UpdateImageRequest,
};
use containerd_client::types::Descriptor;
use tokio::io::AsyncRead;
use tokio::sync::watch;
use tonic::Code;

pub(super) use info::ImageInfo;
pub(super) use manifest::ImageConfig;
pub(super) use name::Name;
pub(super) use pull::holds_snapshot;

use super::client::{Client, failed, or_absent};
use super::{Error, ImageSummary, PullPhase, PullProgress, RegistryAuth, ResolvedImage};
use crate::timed::timed;
use flight::{Flights, Seat};
use lease::Lease;
use pull::Pull;
use registry::{Fetched, Registries};

/// Configurations in memory; an image has one of a few KiB.
const KEPT_INFOS: usize = 256;

pub(super) struct Images {
    shared: Arc<Shared>,
    flights: Flights,
}

struct Shared {
    client: Client,
    snapshotter: String,
    registries: Registries,
    /// Images known to be present and unpacked, by digest.
    infos: Mutex<HashMap<String, Arc<ImageInfo>>>,
    /// Where archives are put while they are read.
    scratch: PathBuf,
}

impl Images {
    pub(super) async fn open(
        client: Client,
        snapshotter: String,
        insecure: &[String],
        certs_dir: PathBuf,
        scratch: PathBuf,
    ) -> Result<Self, Error> {
        lease::release_stale(&client).await?;
        let registries = Registries::new(insecure, certs_dir)?;
        let infos = Mutex::default();
        let shared = Shared { client, snapshotter, registries, infos, scratch };
        Ok(Self { shared: Arc::new(shared), flights: Flights::default() })
    }

    pub(super) async fn pull(
        &self,
        image: &str,
        auth: Option<&RegistryAuth>,
        progress: &watch::Sender<PullProgress>,
    ) -> Result<ResolvedImage, Error> {
        let name = Name::parse(image)?;
        let key = (name.full(), auth.cloned());
        let (shared, auth) = (self.shared.clone(), auth.cloned());
        self.flights.join(key, progress, |seat| shared.pull(name, auth, seat)).await
    }

    /// A present image, by name.
    pub(super) async fn info(&self, image: &str) -> Result<Arc<ImageInfo>, Error> {
        let name = Name::parse(image)?;
        let absent = || Error::NoSuchImage { image: name.full() };
        let digest = self.shared.digest_of(&name).await?.ok_or_else(absent)?;
        self.shared.info(&name, &digest).await?.ok_or_else(absent)
    }

    pub(super) async fn load(
        &self,
        archive: Box<dyn AsyncRead + Send + Unpin>,
    ) -> Result<Vec<String>, Error> {
        let shared = &self.shared;
        let lease = Lease::take(&shared.client).await?;
        let loaded = archive::load(&lease.client(), &shared.snapshotter, &shared.scratch, archive).await;
        let named = match loaded {
            Ok(images) => shared.name_all(images).await,
            Err(error) => Err(error),
        };
        lease.release().await;
        named
    }

    pub(super) async fn list(&self) -> Result<Vec<ImageSummary>, Error> {
        let answer = self.shared.client.images().list(ListImagesRequest::default()).await;
        let mut summaries = Vec::new();
        for image in answer.map_err(failed("list images"))?.into_inner().images {
            let digest = image.target.map(|target| target.digest).unwrap_or_default();
            // One that another tool has put there half is still worth listing.
            let info = info::read(&self.shared.client, &image.name, &digest).await.ok().flatten();
            let created = image.created_at.and_then(|at| SystemTime::try_from(at).ok());
            let size_bytes = info.map_or(0, |info| info.size_bytes);
            summaries.push(ImageSummary { reference: image.name, digest, size_bytes, created });
        }
        Ok(summaries)
    }

    pub(super) async fn remove(&self, image: &str) -> Result<(), Error> {
        let name = Name::parse(image)?.full();
        let request = DeleteImageRequest { name: name.clone(), sync: true, ..DeleteImageRequest::default() };
        let removed = or_absent(self.shared.client.images().delete(request).await);
        self.shared.lock().clear();
        match removed.map_err(failed("remove an image"))? {
            Some(_) => Ok(()),
            None => Err(Error::NoSuchImage { image: name }),
        }
    }

    /// Gives up pulls and waits for their end.
    pub(super) async fn shutdown(&self) {
        self.flights.shutdown().await;
    }
}

impl Shared {
    async fn pull(
        self: Arc<Self>,
        name: Name,
        auth: Option<RegistryAuth>,
        seat: Seat,
    ) -> Result<ResolvedImage, Error> {
        let present = self.digest_of(&name).await?;
        if let (Some(digest), Some(_)) = (&present, name.digest())
            && self.info(&name, digest).await?.is_some()
        {
            return Ok(done(&name, digest, &seat));
        }
        match self.pull_from_registry(&name, auth.as_ref(), present.as_deref(), &seat).await {
            Ok(digest) => Ok(done(&name, &digest, &seat)),
            Err(error) => match present {
                // As Docker: an image that is here will do, whatever the registry says.
                Some(digest) if self.info(&name, &digest).await?.is_some() => {
                    tracing::warn!(image = name.full(), error = error.report(), "the local image is used");
                    Ok(done(&name, &digest, &seat))
                }
                _ => Err(error),
            },
        }
    }

    async fn pull_from_registry(
        &self,
        name: &Name,
        auth: Option<&RegistryAuth>,
        present: Option<&str>,
        seat: &Seat,
    ) -> Result<String, Error> {
        if let Some(digest) = present
            && self.info(name, digest).await?.is_some()
            && timed(&name.full(), "compare", self.registries.still_means(name, auth, digest)).await
        {
            return Ok(digest.to_owned());
        }
        let resolving = self.registries.resolve(name, auth, present.is_some());
        let (session, top) = timed(&name.full(), "resolve", resolving).await?;
        let digest = top.digest.clone();
        if present == Some(&*digest) && self.info(name, &digest).await?.is_some() {
            return Ok(digest);
        }
        let lease = Lease::take(&self.client).await?;
        let progress = seat.progress();
        let (client, snapshotter) = (lease.client(), &*self.snapshotter);
        let pull = Pull { client, snapshotter, session, name, progress };
        let outcome = tokio::select! {
            outcome = self.bring(pull, top) => outcome,
            () = seat.given_up() => {
                Err(Error::Pull { image: name.full(), reason: "given up".to_owned(), retry: true })
            }
        };
        lease.release().await;
        outcome.map(|()| digest)
    }

    async fn bring(&self, pull: Pull<'_>, top: Fetched) -> Result<(), Error> {
        let target = target(&top.document, &top.digest);
        let info = pull.fetch(top).await?;
        self.lock().insert(target.digest.clone(), Arc::new(info));
        self.set_name(pull.name.full(), target).await
    }

    /// What the name leads to here. A digest is also found under another name.
    async fn digest_of(&self, name: &Name) -> Result<Option<String>, Error> {
        const ACTION: &str = "look for an image";
        let request = GetImageRequest { name: name.full() };
        let found = or_absent(self.client.images().get(request).await).map_err(failed(ACTION))?;
        if let Some(target) = found.and_then(|found| found.into_inner().image?.target) {
            return Ok(Some(target.digest));
        }
        let Some(digest) = name.digest() else {
            return Ok(None);
        };
        let filters = vec![format!("target.digest==\"{digest}\"")];
        let found = self.client.images().list(ListImagesRequest { filters }).await.map_err(failed(ACTION))?;
        let Some(target) = found.into_inner().images.into_iter().find_map(|image| image.target) else {
            return Ok(None);
        };
        self.set_name(name.full(), target).await?;
        Ok(Some(digest.to_owned()))
    }

    /// `None` if the image is not complete. Unpacked again if its snapshots were lost.
    async fn info(&self, name: &Name, digest: &str) -> Result<Option<Arc<ImageInfo>>, Error> {
        if let Some(info) = self.lock().get(digest) {
            return Ok(Some(info.clone()));
        }
        let Some(info) = info::read(&self.client, &name.full(), digest).await? else {
            return Ok(None);
        };
        if !info.snapshot.is_empty()
            && !unpack::exists(&self.client, &self.snapshotter, &info.snapshot).await?
        {
            let (layers, diff_ids) = (&info.layers, &info.diff_ids);
            let unpacked = unpack::unpack(&self.client, &self.snapshotter, layers, diff_ids, || ()).await;
            if let Err(error) = unpacked {
                tracing::warn!(image = name.full(), error = error.report(), "a local image is not complete");
                return Ok(None);
            }
        }
        let info = Arc::new(info);
        let mut infos = self.lock();
        if infos.len() >= KEPT_INFOS {
            infos.clear();
        }
        infos.insert(digest.to_owned(), info.clone());
        Ok(Some(info))
    }

    async fn name_all(&self, images: Vec<archive::Loaded>) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        for image in images {
            for name in image.names {
                self.set_name(name.clone(), image.target.clone()).await?;
                names.push(name);
            }
        }
        Ok(names)
    }

    async fn set_name(&self, name: String, target: Descriptor) -> Result<(), Error> {
        let image = Image { name, target: Some(target), ..Image::default() };
        let request = CreateImageRequest { image: Some(image.clone()), ..CreateImageRequest::default() };
        let created = self.client.images().create(request).await.map(drop);
        let outcome = match created {
            Err(status) if status.code() == Code::AlreadyExists => {
                let request = UpdateImageRequest { image: Some(image), ..UpdateImageRequest::default() };
                self.client.images().update(request).await.map(drop)
            }
            created => created,
        };
        outcome.map_err(failed("name an image"))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<ImageInfo>>> {
        self.infos.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn done(name: &Name, digest: &str, seat: &Seat) -> ResolvedImage {
    seat.progress().send_modify(|progress| progress.phase = PullPhase::Done);
    ResolvedImage { reference: name.full(), digest: digest.to_owned() }
}

/// What an image's name leads to: the document as it was given.
fn target(document: &[u8], digest: &str) -> Descriptor {
    #[derive(serde::Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    struct Kind {
        media_type: String,
        manifests: Option<serde::de::IgnoredAny>,
    }
    let kind: Kind = serde_json::from_slice(document).unwrap_or_default();
    let media_type = match (kind.media_type.is_empty(), kind.manifests) {
        (false, _) => kind.media_type,
        (true, Some(_)) => manifest::OCI_INDEX.to_owned(),
        (true, None) => manifest::OCI_MANIFEST.to_owned(),
    };
    Descriptor {
        media_type,
        digest: digest.to_owned(),
        size: document.len().try_into().unwrap_or(i64::MAX),
        ..Descriptor::default()
    }
}
