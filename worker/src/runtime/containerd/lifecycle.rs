//! Makes and starts containers.
//!
//! The container's record comes before its snapshot, because a snapshot that nothing refers to may be collected at
//! any time. The snapshot is made at the start: a container that never starts costs none.

use std::collections::HashMap;

use containerd_client::services::v1::container::Runtime as Shim;
use containerd_client::services::v1::snapshots::{MountsRequest, PrepareSnapshotRequest};
use containerd_client::services::v1::{
    Container, CreateContainerRequest, CreateTaskRequest, DeleteTaskRequest, GetContainerRequest,
    StartRequest,
};
use containerd_client::types::Mount;
use prost_types::Any;
use tonic::Code;

use super::record::Record;
use super::task_error::not_started;
use super::{Containerd, options, percent_encode};
use crate::runtime::client::{failed, or_absent};
use crate::runtime::images::{ImageInfo, Name, holds_snapshot};
use crate::runtime::spec::{self, Bound, Input};
use crate::runtime::{ContainerConfig, Error, Signal, Started, Status, files, volumes};
use crate::timed::timed;

const SHIM: &str = "io.containerd.runc.v2";
const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

impl Containerd {
    pub(super) async fn create_container(&self, config: &ContainerConfig) -> Result<(), Error> {
        check_id(&config.id)?;
        let image = self.images.info(&config.image).await?;
        let spec = self.spec(config, &image).await?;
        let record = Record {
            labels: config.labels.clone(),
            snapshot: image.snapshot.clone(),
            stop_signal: stop_signal(config, &image).map(Signal::number),
            tty: config.tty,
            health: image.config.health_check(&config.health),
            exit: None,
        };
        let container = Container {
            id: config.id.clone(),
            image: Name::parse(&config.image)?.full(),
            runtime: Some(self.shim()),
            spec: Some(Any { type_url: SPEC_TYPE.to_owned(), value: spec.to_string().into_bytes() }),
            snapshotter: self.snapshotter.clone(),
            snapshot_key: config.id.clone(),
            extensions: record.extensions(),
            labels: self.held(&image.snapshot),
            ..Container::default()
        };
        failpoint::reached("container: make");
        match self.client.containers().create(CreateContainerRequest { container: Some(container) }).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => {
                Err(Error::Exists { id: config.id.clone() })
            }
            Err(status) => Err(failed("make the container")(status)),
        }
    }

    /// Labels that keep the image's snapshot while the container waits to be started: the image may lose its name.
    fn held(&self, snapshot: &str) -> HashMap<String, String> {
        let snapshot = Some(snapshot).filter(|snapshot| !snapshot.is_empty());
        snapshot.map(|name| (holds_snapshot(&self.snapshotter), name.to_owned())).into_iter().collect()
    }

    /// Settles user, volumes and files, and writes the specification.
    async fn spec(&self, config: &ContainerConfig, image: &ImageInfo) -> Result<serde_json::Value, Error> {
        let directory = self.config.container_dir(&config.id);
        let accounts = self.rootfs.accounts(&image.snapshot).await?;
        let wanted = if config.user.is_empty() { image.config.user.as_deref() } else { Some(&*config.user) };
        let user = spec::resolve_user(wanted.unwrap_or_default(), &config.groups, &accounts)?;
        let init = match (config.init, &self.config.init_binary) {
            (false, _) => None,
            (true, Some(init)) => Some(init.clone()),
            (true, None) => return Err(Error::config("init", "no init program is installed: install tini")),
        };
        let declared: Vec<_> =
            image.config.volumes.iter().flat_map(|volumes| volumes.keys().cloned()).collect();
        let volumes = volumes::place(&self.config.data_root, &directory, &config.mounts, &declared)?;
        spec::write(Input {
            config,
            image: &image.config,
            user,
            volumes: self.volumes(&image.snapshot, volumes).await?,
            generated: files::generate(&directory, config)?,
            init,
            cgroup: self.cgroups.group(&config.id),
            node: self.cgroups.node(),
        })
    }

    async fn volumes(&self, snapshot: &str, volumes: Vec<volumes::Volume>) -> Result<Vec<Bound>, Error> {
        let prepare = |volumes: Vec<volumes::Volume>, image: Option<&std::path::Path>| {
            volumes.iter().map(|volume| volume.prepare(image)).collect()
        };
        if snapshot.is_empty() || !volumes.iter().any(volumes::Volume::to_be_filled) {
            return prepare(volumes, None);
        }
        self.rootfs.look(snapshot, move |image| prepare(volumes, Some(image))).await
    }

    fn shim(&self) -> Shim {
        let binary = self.config.runtime_binary.as_ref().expect("it was settled at the start");
        let options = options::options(binary, &self.config.runc_root());
        Shim { name: SHIM.to_owned(), options: Some(options) }
    }

    pub(super) async fn record(&self, id: &str) -> Result<Option<Record>, Error> {
        let request = GetContainerRequest { id: id.to_owned() };
        let found = or_absent(self.client.containers().get(request).await);
        let found = found.map_err(failed("find the container"))?;
        Ok(found.and_then(|found| found.into_inner().container).map(|container| Record::of(&container)))
    }

    pub(super) async fn start_container(&self, id: &str) -> Result<Started, Error> {
        let record = self.record(id).await?.ok_or_else(|| Error::NoSuchContainer { id: id.to_owned() })?;
        if record.exit.is_some() {
            return Err(Error::Exists { id: id.to_owned() });
        }
        let _starting = self.shims.starting(id);
        failpoint::reached("container: make file system");
        let rootfs = timed(id, "snapshot", self.snapshot(id, &record.snapshot)).await?;
        let output = self.output(id);
        let request = CreateTaskRequest {
            container_id: id.to_owned(),
            rootfs,
            stderr: if record.tty { String::new() } else { output.clone() },
            stdout: output,
            terminal: record.tty,
            ..CreateTaskRequest::default()
        };
        let mut tasks = self.client.tasks();
        let is_checked = record.health.is_some();
        failpoint::reached("container: make task");
        let pid = match timed(id, "shim", tasks.create(request)).await {
            Ok(answer) => answer.into_inner().pid,
            // The answer to an earlier attempt was lost.
            Err(status) if status.code() == Code::AlreadyExists => match self.status(id).await? {
                Some((Status::Running { pid }, _)) => return Ok(Started { pid, is_checked }),
                Some((Status::Created, pid)) => pid,
                _ => return Err(Error::Exists { id: id.to_owned() }),
            },
            Err(status) => return Err(not_started(status)),
        };
        failpoint::reached("container: start process");
        let request = StartRequest { container_id: id.to_owned(), ..StartRequest::default() };
        if let Err(status) = timed(id, "process", tasks.start(request)).await {
            let request = DeleteTaskRequest { container_id: id.to_owned() };
            let _ = tasks.delete(request).await;
            return Err(not_started(status));
        }
        Ok(Started { pid, is_checked })
    }

    /// The container's writable file system, made if it is not there.
    async fn snapshot(&self, id: &str, parent: &str) -> Result<Vec<Mount>, Error> {
        const ACTION: &str = "make the container's file system";
        let snapshotter = self.snapshotter.clone();
        let request = PrepareSnapshotRequest {
            snapshotter: snapshotter.clone(),
            key: id.to_owned(),
            parent: parent.to_owned(),
            ..PrepareSnapshotRequest::default()
        };
        match self.client.snapshots().prepare(request).await {
            Ok(answer) => Ok(answer.into_inner().mounts),
            Err(status) if status.code() == Code::AlreadyExists => {
                let request = MountsRequest { snapshotter, key: id.to_owned() };
                let answer = self.client.snapshots().mounts(request).await.map_err(failed(ACTION))?;
                Ok(answer.into_inner().mounts)
            }
            Err(status) => Err(failed(ACTION)(status)),
        }
    }

    /// The address by which the shim starts our logger.
    fn output(&self, id: &str) -> String {
        let limits = self.config.log_limits;
        let (logger, directory) =
            (percent_encode(&self.config.logger), percent_encode(&self.config.log_dir(id)));
        let (bytes, files) = (limits.max_bytes, limits.max_files);
        format!("binary://{logger}?dir={directory}&max-size={bytes}&max-file={files}")
    }
}

/// An id becomes a file name, and part of names in containerd.
fn check_id(id: &str) -> Result<(), Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    match !id.is_empty() && id.len() <= 76 && id.chars().all(plain) {
        true => Ok(()),
        false => {
            Err(Error::config("container id", format!("{id:?}: letters, digits, '_' and '-' are allowed")))
        }
    }
}

fn stop_signal(config: &ContainerConfig, image: &ImageInfo) -> Option<Signal> {
    let image = || image.config.stop_signal.as_ref()?.parse().ok();
    config.stop_signal.or_else(image)
}
