//! The node's own API on its unix socket: becoming part of a swarm, leaving it, images.
//!
//! Translates between the wire and `membership`; decides nothing.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::TryStreamExt;
use identity::UnlockKey;
use proto::local::node_server::Node;
use proto::local::{
    AuditNetworkRequest, AuditNetworkResponse, Image, InfoRequest, InfoResponse, InitRequest, InitResponse,
    InspectSnapshotRequest, InspectSnapshotResponse, JoinRequest, JoinResponse, LeaveRequest, LeaveResponse,
    ListImagesRequest, ListImagesResponse, LoadImageRequest, LoadImageResponse, RestoreSnapshotRequest,
    RestoreSnapshotResponse, SaveSnapshotRequest, UnlockRequest, UnlockResponse,
};
use proto::wire::NodeRole;
use tokio_util::io::StreamReader;
use tonic::{Request, Response, Status, Streaming};
use worker::runtime::Runtime;

use crate::error::{Error, chain};
use crate::info;
use crate::membership::Membership;
use crate::snapshot::{self, Desk, Part};
use crate::swarm::Restoration;

#[derive(Clone)]
pub struct LocalApi {
    membership: Membership,
    runtime: Arc<dyn Runtime>,
    machine: Arc<info::Machine>,
    snapshots: Desk,
}

impl LocalApi {
    pub const fn new(
        membership: Membership,
        runtime: Arc<dyn Runtime>,
        machine: Arc<info::Machine>,
        snapshots: Desk,
    ) -> Self {
        Self { membership, runtime, machine, snapshots }
    }
}

impl Part for InspectSnapshotRequest {
    fn into_data(self) -> Vec<u8> {
        self.data
    }
}

impl Part for RestoreSnapshotRequest {
    fn into_data(self) -> Vec<u8> {
        self.data
    }
}

fn nothing_sent() -> Status {
    Status::invalid_argument("nothing was sent")
}

#[tonic::async_trait]
impl Node for LocalApi {
    type SaveSnapshotStream = snapshot::Parts;

    async fn init(&self, request: Request<InitRequest>) -> Result<Response<InitResponse>, Status> {
        let node_id = self.membership.init(request.into_inner()).await?;
        Ok(Response::new(InitResponse { node_id: node_id.into() }))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let (node_id, role) = self.membership.join(request.into_inner()).await?;
        Ok(Response::new(JoinResponse { node_id: node_id.into(), role: NodeRole::from(role).into() }))
    }

    async fn unlock(&self, request: Request<UnlockRequest>) -> Result<Response<UnlockResponse>, Status> {
        let key = request.into_inner().unlock_key.parse::<UnlockKey>().map_err(Error::from)?;
        self.membership.unlock(key).await?;
        Ok(Response::new(UnlockResponse {}))
    }

    async fn leave(&self, request: Request<LeaveRequest>) -> Result<Response<LeaveResponse>, Status> {
        self.membership.leave(request.into_inner().force).await?;
        Ok(Response::new(LeaveResponse {}))
    }

    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        Ok(Response::new(self.machine.describe(&self.membership.status())))
    }

    async fn audit_network(
        &self,
        _: Request<AuditNetworkRequest>,
    ) -> Result<Response<AuditNetworkResponse>, Status> {
        let networks = self.membership.networks()?;
        let mended = networks.audit().await.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(AuditNetworkResponse { mended, network_mended: networks.mended() }))
    }

    async fn load_image(
        &self,
        request: Request<Streaming<LoadImageRequest>>,
    ) -> Result<Response<LoadImageResponse>, Status> {
        let parts = request.into_inner().map_ok(|part| io::Cursor::new(part.data)).map_err(io::Error::other);
        let archive = StreamReader::new(Box::pin(parts));
        let names = self.runtime.load_image(Box::new(archive)).await.map_err(refused)?;
        Ok(Response::new(LoadImageResponse { names }))
    }

    async fn save_snapshot(
        &self,
        request: Request<SaveSnapshotRequest>,
    ) -> Result<Response<snapshot::Parts>, Status> {
        let store = self.membership.store()?;
        Ok(Response::new(self.snapshots.save(store, request.into_inner().passphrase).await))
    }

    async fn inspect_snapshot(
        &self,
        request: Request<Streaming<InspectSnapshotRequest>>,
    ) -> Result<Response<InspectSnapshotResponse>, Status> {
        let mut rest = request.into_inner();
        let first = rest.message().await?.ok_or_else(nothing_sent)?;
        let backup = self.snapshots.read(first.passphrase, first.data, rest).await?;
        Ok(Response::new(snapshot::describe(&backup)))
    }

    async fn restore_snapshot(
        &self,
        request: Request<Streaming<RestoreSnapshotRequest>>,
    ) -> Result<Response<RestoreSnapshotResponse>, Status> {
        let mut rest = request.into_inner();
        let first = rest.message().await?.ok_or_else(nothing_sent)?;
        let how = Restoration::read(&first)?;
        let backup = self.snapshots.read(first.passphrase, first.data, rest).await?;
        let node_id = self.membership.restore(how, backup).await?;
        Ok(Response::new(RestoreSnapshotResponse { node_id: node_id.into() }))
    }

    async fn list_images(
        &self,
        _: Request<ListImagesRequest>,
    ) -> Result<Response<ListImagesResponse>, Status> {
        let images = self.runtime.images().await.map_err(refused)?;
        let images = images.into_iter().map(|image| Image {
            name: image.reference,
            digest: image.digest,
            size_bytes: i64::try_from(image.size_bytes).unwrap_or(i64::MAX),
            created_at: image.created.map(SystemTime::into),
        });
        Ok(Response::new(ListImagesResponse { images: images.collect() }))
    }
}

fn refused(error: worker::runtime::Error) -> Status {
    Status::internal(chain(&error))
}
