//! The operator's API: one file an object, each verb the same way: validate, one update, reply.
//!
//! Decides what may be asked for. What becomes of it is decided by the loops, which find it in the store. Objects are
//! named by id alone; names and prefixes are resolved by the client, through the filters of the lists.
//!
//! Invariant: a call that fails has changed nothing.

mod clusters;
mod filter;
mod keys;
pub mod limits;
mod networks;
mod nodes;
mod quorum;
mod request;
mod services;
mod tasks;
mod validate;

use std::sync::Arc;

use identity::{Clock, Signers};
use proto::wire::{self, control_server};
use raft_store::Store;
use tonic::{Request, Response, Status};

use crate::managers::Managers;
use request::RequestId;

pub use clusters::validate as validate_cluster;
pub use validate::subnet as validate_subnet;

#[derive(Clone)]
pub struct Control {
    store: Store,
    managers: Managers,
    clock: Clock,
    signers: Arc<Signers>,
}

impl Control {
    pub fn new(store: Store, clock: Clock, signers: Arc<Signers>) -> Self {
        Self { managers: Managers::of(&store), store, clock, signers }
    }
}

macro_rules! control {
    (
        any { $($call:ident($request:ident) -> $response:ident = $function:path;)+ }
        once { $($once:ident($what:ident) -> $made:ident = $create:path;)+ }
    ) => {
        #[tonic::async_trait]
        impl control_server::Control for Control {
            $(async fn $call(
                &self,
                request: Request<wire::$request>,
            ) -> Result<Response<wire::$response>, Status> {
                $function(self, request.into_inner()).await.map(Response::new)
            })+
            $(async fn $once(&self, request: Request<wire::$what>) -> Result<Response<wire::$made>, Status> {
                let id = RequestId::of(&request)?;
                $create(self, id, request.into_inner()).await.map(Response::new)
            })+
        }
    };
}

control! {
    any {
        get_node(GetNodeRequest) -> GetNodeResponse = nodes::get;
        list_nodes(ListNodesRequest) -> ListNodesResponse = nodes::list;
        update_node(UpdateNodeRequest) -> UpdateNodeResponse = nodes::update;
        remove_node(RemoveNodeRequest) -> RemoveNodeResponse = nodes::remove;
        get_task(GetTaskRequest) -> GetTaskResponse = tasks::get;
        list_tasks(ListTasksRequest) -> ListTasksResponse = tasks::list;
        remove_task(RemoveTaskRequest) -> RemoveTaskResponse = tasks::remove;
        get_service(GetServiceRequest) -> GetServiceResponse = services::get;
        list_services(ListServicesRequest) -> ListServicesResponse = services::list;
        update_service(UpdateServiceRequest) -> UpdateServiceResponse = services::update;
        remove_service(RemoveServiceRequest) -> RemoveServiceResponse = services::remove;
        list_service_statuses(ListServiceStatusesRequest) -> ListServiceStatusesResponse = services::statuses;
        get_network(GetNetworkRequest) -> GetNetworkResponse = networks::get;
        list_networks(ListNetworksRequest) -> ListNetworksResponse = networks::list;
        remove_network(RemoveNetworkRequest) -> RemoveNetworkResponse = networks::remove;
        get_cluster(GetClusterRequest) -> GetClusterResponse = clusters::get;
        list_clusters(ListClustersRequest) -> ListClustersResponse = clusters::list;
        update_cluster(UpdateClusterRequest) -> UpdateClusterResponse = clusters::update;
    }
    once {
        create_service(CreateServiceRequest) -> CreateServiceResponse = services::create;
        create_network(CreateNetworkRequest) -> CreateNetworkResponse = networks::create;
    }
}
