//! The connection to containerd: one lazy channel that connects again by itself, and what a failure on it means.

use std::error::Error as _;
use std::path::{Path, PathBuf};

use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::diff_client::DiffClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::introspection_client::IntrospectionClient;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::namespaces_client::NamespacesClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::version_client::VersionClient;
use tokio::net::UnixStream;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};

use super::Error;

/// Everything of ours in containerd is in this namespace of its.
pub(super) const NAMESPACE: &str = "swarm";

pub(super) type Service = InterceptedService<Channel, Headers>;

/// Cheap to clone; all clones share the connection.
#[derive(Clone)]
pub(super) struct Client {
    channel: Channel,
    headers: Headers,
}

/// What goes with each request: the namespace, and the lease that protects what the request makes.
#[derive(Clone, Default)]
pub(super) struct Headers {
    lease: Option<MetadataValue<tonic::metadata::Ascii>>,
}

impl Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        metadata.insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
        if let Some(lease) = &self.lease {
            metadata.insert("containerd-lease", lease.clone());
        }
        Ok(request)
    }
}

macro_rules! services {
    ($($method:ident: $service:ident),* $(,)?) => {
        $(pub(super) fn $method(&self) -> $service<Service> {
            $service::new(InterceptedService::new(self.channel.clone(), self.headers.clone()))
        })*
    };
}

impl Client {
    /// Connects with the first request, and again whenever the connection was lost.
    pub(super) fn lazy(socket: &Path) -> Self {
        let socket: PathBuf = socket.to_owned();
        let endpoint = Endpoint::from_static("http://containerd.invalid");
        let channel = endpoint.connect_with_connector_lazy(tower_connector(socket));
        Self { channel, headers: Headers::default() }
    }

    /// The same connection, with everything made on it held by `lease`.
    pub(super) fn leased(&self, lease: &str) -> Self {
        let lease = lease.parse().expect("our lease names are plain ASCII");
        Self { channel: self.channel.clone(), headers: Headers { lease: Some(lease) } }
    }

    services! {
        containers: ContainersClient,
        content: ContentClient,
        diff: DiffClient,
        images: ImagesClient,
        introspection: IntrospectionClient,
        leases: LeasesClient,
        namespaces: NamespacesClient,
        snapshots: SnapshotsClient,
        tasks: TasksClient,
        version: VersionClient,
    }
}

fn tower_connector(
    socket: PathBuf,
) -> impl tower::Service<Uri, Response = hyper_util::rt::TokioIo<UnixStream>, Error = std::io::Error, Future: Send>
+ Send
+ 'static {
    tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
    })
}

/// Whether the request may never have reached containerd, or the answer was lost.
pub(super) fn lost(status: &Status) -> bool {
    let broken = matches!(status.code(), Code::Unknown | Code::Internal | Code::Cancelled);
    status.code() == Code::Unavailable || (broken && status.source().is_some())
}

/// For `map_err`: what could not be done.
pub(super) fn failed(action: &'static str) -> impl Fn(Status) -> Error {
    move |status| match lost(&status) {
        true => Error::Unavailable { reason: deepest(&status) },
        false => Error::Containerd { action, reason: status.message().to_owned() },
    }
}

/// Success also if there was nothing to do it to.
pub(super) fn or_absent<T>(outcome: Result<T, Status>) -> Result<Option<T>, Status> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status),
    }
}

/// The innermost cause: what the user can do something about.
pub(super) fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
