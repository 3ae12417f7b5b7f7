//! The runtime behind the trait: containerd, the node's own or one that is started here.
//!
//! containerd keeps the containers; nothing is kept here but what can be read again. One container is one
//! containerd container, one snapshot and one task, all under the container's id.

mod end;
mod lifecycle;
mod list;
mod options;
mod probe;
mod record;
mod task_error;

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use containerd_client::services::v1::{CreateNamespaceRequest, Namespace, PluginsRequest};
use tokio::io::AsyncRead;
use tokio::sync::{Semaphore, watch};
use tonic::Code;

use super::cgroup::Cgroups;
use super::client::{Client, NAMESPACE, failed};
use super::images::Images;
use super::rootfs::RootFs;
use super::shims::Shims;
use super::supervisor::Supervisor;
use super::{
    ContainerConfig, ContainerState, Died, Error, Exit, HealthCheck, ImageSummary, Probed, PullProgress,
    RegistryAuth, ResolvedImage, Runtime, Signal, Started,
};
use crate::logs::writer::Limits;
use crate::logs::{self, LogQuery, LogStream};

/// How long containerd may take to answer at the start.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const START_POLL: Duration = Duration::from_millis(20);
/// In the order of preference.
const SNAPSHOTTERS: [&str; 2] = ["overlayfs", "native"];

/// Settings of this node's runtime.
#[derive(Debug, Clone)]
pub struct Config {
    pub data_root: PathBuf,
    pub exec_root: PathBuf,
    /// The socket of a containerd that runs already; else one is started.
    pub containerd: Option<PathBuf>,
    /// Containers' control groups lie under this one. Several daemons may share it.
    pub cgroup_parent: String,
    /// The OCI runtime; `runc` from the PATH if absent.
    pub runtime_binary: Option<PathBuf>,
    /// The init for containers that ask for one; `docker-init` or `tini` from the PATH if absent.
    pub init_binary: Option<PathBuf>,
    /// The `swarm-logger` program.
    pub logger: PathBuf,
    pub log_limits: Limits,
    /// `host`, `host:port` or CIDR block.
    pub insecure_registries: Vec<String>,
    /// Has `<registry>/*.crt`: further CAs to trust, as `/etc/docker/certs.d`. Need not exist.
    pub certs_dir: PathBuf,
}

impl Config {
    /// The defaults for a node with these directories.
    pub fn new(
        data_root: impl Into<PathBuf>,
        exec_root: impl Into<PathBuf>,
        logger: impl Into<PathBuf>,
    ) -> Self {
        let data_root = data_root.into();
        Self {
            certs_dir: data_root.join("certs.d"),
            data_root,
            exec_root: exec_root.into(),
            containerd: None,
            cgroup_parent: "/swarmd".to_owned(),
            runtime_binary: None,
            init_binary: None,
            logger: logger.into(),
            log_limits: Limits::default(),
            insecure_registries: Vec::new(),
        }
    }

    fn scratch(&self) -> PathBuf {
        self.data_root.join("tmp")
    }

    /// What belongs to one container on disk: generated files, volumes without a name, output.
    fn container_dir(&self, id: &str) -> PathBuf {
        self.data_root.join("containers").join(id)
    }

    fn log_dir(&self, id: &str) -> PathBuf {
        self.container_dir(id).join("log")
    }

    /// Below it runc keeps the state of containers, by namespace of containerd.
    pub(super) fn runc_root(&self) -> PathBuf {
        self.exec_root.join("runc")
    }
}

pub struct Containerd {
    config: Config,
    client: Client,
    version: String,
    snapshotter: String,
    images: Images,
    rootfs: RootFs,
    cgroups: Cgroups,
    shims: Shims,
    /// Bounds the health checks that are being started.
    probe_starts: Semaphore,
    supervisor: Option<Supervisor>,
}

impl Containerd {
    /// Connects, starting or adopting our own containerd if the settings name none.
    ///
    /// # Errors
    /// A program that is missing, or a containerd that does not answer in time.
    pub async fn start(mut config: Config) -> Result<Self, Error> {
        check(&mut config)?;
        let supervisor = match config.containerd {
            Some(_) => None,
            None => Some(Supervisor::start(&config.data_root, &config.exec_root).await?),
        };
        let socket = config.containerd.as_deref().or(supervisor.as_ref().map(Supervisor::socket));
        let socket = socket.expect("one of them is there").to_owned();
        match Self::open(config, socket).await {
            Ok(opened) => Ok(Self { supervisor, ..opened }),
            Err(error) => match supervisor {
                Some(supervisor) => {
                    supervisor.shutdown().await;
                    Err(supervisor.explain(error))
                }
                None => Err(error),
            },
        }
    }

    async fn open(config: Config, socket: PathBuf) -> Result<Self, Error> {
        let client = Client::lazy(&socket);
        let version = answering(&client).await?;
        make_namespace(&client).await?;
        let snapshotter = snapshotter(&client).await?;
        private_directories(&config.data_root)?;
        let scratch = config.scratch();
        let rootfs = RootFs::new(client.clone(), snapshotter.clone(), &scratch)?;
        let (insecure, certs) = (&config.insecure_registries, config.certs_dir.clone());
        let images = Images::open(client.clone(), snapshotter.clone(), insecure, certs, scratch).await?;
        let cgroups = Cgroups::detect(&config.cgroup_parent);
        let shims = Shims::open(client.clone(), socket, &config, cgroups.clone()).await?;
        Ok(Self {
            config,
            client,
            version,
            snapshotter,
            images,
            rootfs,
            cgroups,
            shims,
            probe_starts: Semaphore::new(probe::STARTS),
            supervisor: None,
        })
    }

    /// Ends pulls, and containerd if it is ours. Containers run on.
    pub async fn shutdown(&self) {
        self.images.shutdown().await;
        self.shims.shutdown().await;
        if let Some(supervisor) = &self.supervisor {
            supervisor.shutdown().await;
        }
    }

    /// Of containerd, when it was asked first.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Whether containers share the layers of their images, and do not copy them.
    pub fn shares_layers(&self) -> bool {
        self.snapshotter != "native"
    }

    /// The process id of our own containerd, while it runs.
    pub fn containerd_pid(&self) -> Option<u32> {
        self.supervisor.as_ref().and_then(Supervisor::pid)
    }
}

#[async_trait]
impl Runtime for Containerd {
    async fn pull(
        &self,
        image: &str,
        auth: Option<&RegistryAuth>,
        progress: &watch::Sender<PullProgress>,
    ) -> Result<ResolvedImage, Error> {
        self.images.pull(image, auth, progress).await
    }

    async fn create(&self, config: &ContainerConfig) -> Result<(), Error> {
        self.create_container(config).await
    }

    async fn start(&self, id: &str) -> Result<Started, Error> {
        self.start_container(id).await
    }

    async fn watch(&self, id: &str, died: &Died<'_>) -> Result<Exit, Error> {
        self.watch_container(id, died).await
    }

    async fn kill(&self, id: &str, signal: Signal) -> Result<(), Error> {
        self.kill_container(id, signal).await
    }

    async fn stop(&self, id: &str, signal: Option<Signal>, grace: Duration) -> Result<(), Error> {
        self.stop_container(id, signal, grace).await
    }

    async fn health_check(&self, id: &str) -> Result<Option<HealthCheck>, Error> {
        let record = self.record(id).await?.ok_or_else(|| Error::NoSuchContainer { id: id.to_owned() })?;
        Ok(record.health)
    }

    async fn probe(&self, id: &str, check: &HealthCheck) -> Result<Probed, Error> {
        self.run_probe(id, check).await
    }

    async fn remove(&self, id: &str) -> Result<(), Error> {
        self.remove_container(id).await
    }

    async fn list(&self) -> Result<Vec<ContainerState>, Error> {
        self.list_containers().await
    }

    async fn inspect(&self, id: &str) -> Result<Option<ContainerState>, Error> {
        self.inspect_container(id).await
    }

    async fn load_image(&self, archive: Box<dyn AsyncRead + Send + Unpin>) -> Result<Vec<String>, Error> {
        self.images.load(archive).await
    }

    async fn images(&self) -> Result<Vec<ImageSummary>, Error> {
        self.images.list().await
    }

    async fn remove_image(&self, image: &str) -> Result<(), Error> {
        self.images.remove(image).await
    }

    fn logs(&self, id: &str, query: LogQuery) -> LogStream {
        // The generated files are there as long as the container is.
        let files = super::files::directory(&self.config.container_dir(id));
        logs::read(self.config.log_dir(id), query, move || files.exists())
    }

    async fn remove_logs(&self, id: &str) -> Result<(), Error> {
        failpoint::reached("container: remove output");
        let directory = self.config.container_dir(id);
        match tokio::fs::remove_dir_all(&directory).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove", directory)(error))
            }
            _ => Ok(()),
        }
    }
}

/// Settles what the settings leave open, and makes the paths absolute: others will use them.
fn check(config: &mut Config) -> Result<(), Error> {
    for path in [&mut config.data_root, &mut config.exec_root, &mut config.logger, &mut config.certs_dir] {
        *path = std::path::absolute(&*path).map_err(Error::io("find", &*path))?;
    }
    if !config.logger.is_file() {
        return Err(Error::config("logger", format!("{} does not exist", config.logger.display())));
    }
    if !config.cgroup_parent.starts_with('/') || config.cgroup_parent.contains("..") {
        return Err(Error::config(
            "cgroup parent",
            format!("{:?} is no absolute path", config.cgroup_parent),
        ));
    }
    if config.runtime_binary.is_none() {
        let runc = super::supervisor::find_program("runc");
        let missing = || Error::config("OCI runtime", "runc is not installed: install the package runc");
        config.runtime_binary = Some(runc.ok_or_else(missing)?);
    }
    if config.init_binary.is_none() {
        let candidates = ["docker-init", "tini-static", "tini"];
        config.init_binary = candidates.into_iter().find_map(super::supervisor::find_program);
    }
    Ok(())
}

/// Output and volumes are for root, and for containers through their mounts.
fn private_directories(data_root: &Path) -> Result<(), Error> {
    for name in ["containers", "volumes"] {
        let path = data_root.join(name);
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(Error::io("create", path))?;
    }
    Ok(())
}

/// Waits until containerd answers; tells its version.
async fn answering(client: &Client) -> Result<String, Error> {
    let begun = tokio::time::Instant::now();
    loop {
        match client.version().version(()).await.map_err(failed("tell its version")) {
            Ok(answer) => return Ok(answer.into_inner().version),
            Err(error) if begun.elapsed() > START_TIMEOUT => return Err(error),
            Err(_) => tokio::time::sleep(START_POLL).await,
        }
    }
}

async fn make_namespace(client: &Client) -> Result<(), Error> {
    let namespace = Namespace { name: NAMESPACE.to_owned(), ..Namespace::default() };
    match client.namespaces().create(CreateNamespaceRequest { namespace: Some(namespace) }).await {
        Err(status) if status.code() != Code::AlreadyExists => Err(failed("make a namespace")(status)),
        _ => Ok(()),
    }
}

async fn snapshotter(client: &Client) -> Result<String, Error> {
    const ACTION: &str = "list its snapshotters";
    let filters = vec!["type==io.containerd.snapshotter.v1".to_owned()];
    let answer = client.introspection().plugins(PluginsRequest { filters }).await.map_err(failed(ACTION))?;
    let usable = answer.into_inner().plugins.into_iter().filter(|plugin| plugin.init_err.is_none());
    let usable: Vec<String> = usable.map(|plugin| plugin.id).collect();
    let found = SNAPSHOTTERS.into_iter().find(|name| usable.iter().any(|id| id == name));
    let none =
        || Error::Containerd { action: ACTION, reason: "neither overlayfs nor native works".to_owned() };
    found.map(str::to_owned).ok_or_else(none)
}

/// A path as it stands in an address.
fn percent_encode(path: &Path) -> String {
    let text = path.to_string_lossy();
    text.bytes().fold(String::new(), |encoded, byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => {
            encoded + &char::from(byte).to_string()
        }
        _ => format!("{encoded}%{byte:02X}"),
    })
}
