//! Requests on the unix socket: those about the node are answered always, those about the swarm while the node is a
//! manager.
//!
//! Invariant: a node that is a manager never says that it is none; while it cannot serve yet, requests wait a moment.

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{Request, Response};
use proto::local::node_server::NodeServer;
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;
use tonic::service::Routes;

use crate::error::Error;
use crate::local_api::LocalApi;

const NOT_A_MANAGER: &str = "this node is not a swarm manager: ask a manager, or make this node one with \
                             \"swarmctl swarm init\", \"swarmctl swarm join\" or, on a manager, \"swarmctl node promote\"";

/// How long a request waits for a manager that starts.
const START: Duration = Duration::from_secs(10);

/// What the manager on this node serves.
#[derive(Clone, Debug, Default)]
pub enum Serving {
    /// There is none.
    #[default]
    Nothing,
    /// There will be one in a moment.
    Starting,
    /// There should be one; why there is not.
    Failing(String),
    /// There is one, and it waits for the unlock key.
    Locked,
    Manager(Routes),
}

#[derive(Clone)]
pub struct Gate {
    node: NodeServer<LocalApi>,
    manager: watch::Receiver<Serving>,
}

impl Gate {
    pub const fn new(node: NodeServer<LocalApi>, manager: watch::Receiver<Serving>) -> Self {
        Self { node, manager }
    }
}

/// The manager's services, or why they cannot be used.
async fn routes(mut manager: watch::Receiver<Serving>) -> Result<Routes, Status> {
    let settled = manager.wait_for(|serving| !matches!(serving, Serving::Starting));
    let settled = tokio::time::timeout(START, settled).await;
    match settled.map(|serving| serving.map(|serving| serving.clone())) {
        Ok(Ok(Serving::Manager(routes))) => Ok(routes),
        Ok(Ok(Serving::Nothing)) => Err(Status::failed_precondition(NOT_A_MANAGER)),
        Ok(Ok(Serving::Locked)) => Err(Error::Locked.into()),
        Ok(Ok(Serving::Failing(reason))) => {
            Err(Status::unavailable(format!("the manager on this node does not run: {reason}")))
        }
        Ok(Ok(Serving::Starting)) | Err(_) => {
            Err(Status::unavailable("the manager on this node is starting: try again in a moment"))
        }
        Ok(Err(_)) => Err(Status::unavailable("this daemon is stopping")),
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
        let manager = self.manager.clone();
        Box::pin(async move {
            match routes(manager).await {
                Ok(mut routes) => routes.call(request).await,
                Err(status) => Ok(status.into_http()),
            }
        })
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

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_a_manager_that_starts_but_not_for_ever() {
        let (serving, manager) = watch::channel(Serving::Starting);
        let refused = routes(manager.clone()).await.unwrap_err();
        assert!(refused.message().contains("is starting"), "{refused}");
        let starts = async {
            tokio::time::sleep(START / 2).await;
            serving.send_replace(Serving::Manager(Routes::default()));
        };
        let (answer, ()) = tokio::join!(routes(manager.clone()), starts);
        assert!(answer.is_ok());

        serving.send_replace(Serving::Failing("the disk is full".into()));
        let refused = routes(manager.clone()).await.unwrap_err();
        assert!(refused.message().ends_with("does not run: the disk is full"), "{refused}");
        serving.send_replace(Serving::Nothing);
        assert_eq!(routes(manager).await.unwrap_err().code(), tonic::Code::FailedPrecondition);
    }
}
