//! Runs containers: the trait that the task runner speaks, and what stands behind it.
//!
//! Decides how a container is made out of plain settings ([`ContainerConfig`]): images, snapshots, the OCI spec,
//! output. When a container is made, stopped or replaced is the task runner's business, and so is its network:
//! the network namespace comes in ready-made, by path.
//!
//! Invariant: a container belongs to one id for ever. What exists under an id is found again after a restart of
//! this process ([`Runtime::list`]), and [`Runtime::remove`] leaves nothing of it but its logs.

mod auth;
mod cgroup;
mod client;
mod container;
pub mod containerd;
mod error;
pub mod fake;
mod files;
mod health;
mod image;
mod images;
mod processes;
mod rootfs;
mod shims;
mod spec;
mod state;
mod supervisor;
mod volumes;

use std::time::Duration;

use async_trait::async_trait;
use tokio::io::AsyncRead;
use tokio::sync::watch;

pub use auth::RegistryAuth;
pub use container::{
    ContainerConfig, Dns, HostEntry, Mount, MountKind, Propagation, Resources, TmpfsOptions, Ulimit,
};
pub use error::{Error, Verdict};
pub use health::{HealthCheck, HealthSettings, Probed};
pub use image::{ImageSummary, PullPhase, PullProgress, ResolvedImage};
pub use proto::model::Signal;
pub use state::{ContainerState, Exit, Started, Status};

use crate::logs::{LogQuery, LogStream};

/// Hears how a process ended.
pub type Died<'a> = dyn Fn(&Exit) + Sync + 'a;

/// Containers on this node.
///
/// All methods may be cancelled by dropping their future; what was begun is then either finished, found again by
/// [`list`](Runtime::list) or undone by [`remove`](Runtime::remove).
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Makes `image` present here, as Docker does for a task: a digest that is here already needs no registry; a
    /// tag is asked of its registry, and if that cannot be reached a local image of that name will do.
    ///
    /// Several pulls of one image share one download. `progress` has the latest state at any time.
    async fn pull(
        &self,
        image: &str,
        auth: Option<&RegistryAuth>,
        progress: &watch::Sender<PullProgress>,
    ) -> Result<ResolvedImage, Error>;

    /// Makes the container without starting it; the image must be present. The network namespace need not
    /// exist before [`start`](Runtime::start).
    async fn create(&self, config: &ContainerConfig) -> Result<(), Error>;

    /// Starts a created container, once: a second call finds it running, or says [`Error::Exists`] if it has ended. A
    /// program that cannot be executed is an error here.
    async fn start(&self, id: &str) -> Result<Started, Error>;

    /// Resolves when the container has ended, at once if it has ended before. Survives a restart of the runtime
    /// underneath. Somebody has to wait for each container that runs: what it needs while it runs is given back
    /// then, and its output complete.
    async fn wait(&self, id: &str) -> Result<Exit, Error> {
        self.watch(id, &|_| {}).await
    }

    /// Like [`wait`](Runtime::wait), and calls `died` as soon as the process has ended: what it needed while it ran takes
    /// a while to be given back.
    async fn watch(&self, id: &str, died: &Died<'_>) -> Result<Exit, Error>;

    /// Sends a signal to the first process of a running container.
    async fn kill(&self, id: &str, signal: Signal) -> Result<(), Error>;

    /// Sends `signal` (else the one the container was created with, else the image's, else SIGTERM), waits for
    /// `grace`, then kills. Resolves when the container has ended; succeeds if it was not running.
    async fn stop(&self, id: &str, signal: Option<Signal>, grace: Duration) -> Result<(), Error>;

    /// The health check that the container was made with; none if it has none.
    async fn health_check(&self, id: &str) -> Result<Option<HealthCheck>, Error>;

    /// Runs a health check once inside a running container, as its user and with its environment. One that takes longer
    /// than it may is ended, with what it has started. There is one at a time: what an earlier call has left is ended
    /// first.
    async fn probe(&self, id: &str, check: &HealthCheck) -> Result<Probed, Error>;

    /// Removes the container, killing it if it runs, with everything that belongs to it except its logs and
    /// named volumes. Succeeds if there is none.
    async fn remove(&self, id: &str) -> Result<(), Error>;

    /// All containers of this node, for adoption after a restart.
    async fn list(&self) -> Result<Vec<ContainerState>, Error>;

    /// One container, `None` if there is none of that id.
    async fn inspect(&self, id: &str) -> Result<Option<ContainerState>, Error>;

    /// Imports an OCI or docker archive (tar, also gzipped); returns the names of the images in it.
    async fn load_image(&self, archive: Box<dyn AsyncRead + Send + Unpin>) -> Result<Vec<String>, Error>;

    /// Images present here, by name.
    async fn images(&self) -> Result<Vec<ImageSummary>, Error>;

    /// Removes an image's name; its data goes once no container and no other name needs it.
    async fn remove_image(&self, image: &str) -> Result<(), Error>;

    /// The output of a container, also of one that has been removed, until [`remove_logs`](Runtime::remove_logs).
    /// An unknown id has no output: the stream ends at once.
    fn logs(&self, id: &str, query: LogQuery) -> LogStream;

    /// Deletes a removed container's output. Succeeds if there is none.
    async fn remove_logs(&self, id: &str) -> Result<(), Error>;
}
