//! Requests on the unix socket: those about the node are answered always, those about the swarm while the node is a
//! manager.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use proto::local::node_server::NodeServer;
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;
use tonic::service::Routes;

use crate::local_api::LocalApi;

const NOT_A_MANAGER: &str = "this node is not a swarm manager: ask a manager, or make this node one with \
                             \"swarmctl swarm init\", \"swarmctl swarm join\" or, on a manager, \"swarmctl node promote\"";

/// What the manager on this node serves; `None` while there is none.
pub type ManagerRoutes = watch::Receiver<Option<Routes>>;

#[derive(Clone)]
pub struct Gate {
    node: NodeServer<LocalApi>,
    manager: ManagerRoutes,
}

impl Gate {
    pub const fn new(node: NodeServer<LocalApi>, manager: ManagerRoutes) -> Self {
        Self { node, manager }
    }
}

impl Service<Request<Body>> for Gate {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if service_of(request.uri().path()) == <NodeServer<LocalApi> as NamedService>::NAME {
            return self.node.call(request);
        }
        let routes = self.manager.borrow().clone();
        match routes {
            Some(mut routes) => Box::pin(async move { routes.call(request).await }),
            None => Box::pin(async { Ok(Status::failed_precondition(NOT_A_MANAGER).into_http()) }),
        }
    }
}

/// `package.Service` of `/package.Service/Method`.
fn service_of(path: &str) -> &str {
    path.trim_start_matches('/').split('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_is_the_first_part_of_the_path() {
        assert_eq!(service_of("/swarm.node.v1.Node/Info"), "swarm.node.v1.Node");
        assert_eq!(service_of(""), "");
    }
}
