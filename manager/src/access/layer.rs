//! The layer that asks the table before every call.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{Request, Response};
use identity::Peer;
use proto::model::{ClusterId, NodeId, Role};
use raft_store::Store;
use tonic::Status;
use tower::{Layer, Service};

use super::load::{Load, STRANGERS_TIME};
use super::{Denied, check, check_member};
use crate::fanout::until;

/// How far a replica may lag behind the manager that admitted a node: so long a node that is not known here is given
/// the benefit of the doubt.
const REPLICA_LAG: Duration = Duration::from_secs(2);

/// What the layer decides with.
#[derive(Clone)]
pub struct Guard {
    store: Store,
    cluster: Arc<ClusterId>,
    load: Load,
}

impl Guard {
    pub fn new(store: Store, cluster: ClusterId) -> Self {
        Self { store, cluster: Arc::new(cluster), load: Load::default() }
    }

    async fn call<E, R>(
        &self,
        path: &str,
        peer: &Peer,
        call: impl Future<Output = Result<R, E>>,
    ) -> Result<Result<R, E>, Status> {
        let _under_way = self.load.begin(peer)?;
        if let Err(denied) = self.admit(path, peer).await {
            tracing::debug!(%denied, "refused a call");
            return Err(denied.into());
        }
        if *peer != Peer::Anonymous {
            return Ok(call.await);
        }
        let late = |_| Status::deadline_exceeded("the call took too long");
        tokio::time::timeout(STRANGERS_TIME, call).await.map_err(late)
    }

    async fn admit(&self, path: &str, peer: &Peer) -> Result<(), Denied> {
        let rule = check(path, peer, &self.cluster)?;
        let Peer::Node { id, .. } = peer else { return Ok(()) };
        if !rule.known {
            return Ok(());
        }
        let role = self.role_in_store(id).await;
        if role.is_none() && !self.is_current() {
            return Err(Denied::Unknown(id.clone()));
        }
        check_member(path, rule, id, role)
    }

    /// Whether what is not in the replica is not in the swarm: a manager that hears no leader, or has nothing
    /// yet, cannot tell. A node that is told it was removed believes it.
    fn is_current(&self) -> bool {
        self.store.view().cluster().is_some() && self.store.leadership().borrow().leader.is_some()
    }

    async fn role_in_store(&self, node: &NodeId) -> Option<Role> {
        if let Some(node) = self.store.view().node(node) {
            return Some(node.role);
        }
        let appearance = until(&self.store, |view| view.node(node).map(|node| node.role));
        tokio::time::timeout(REPLICA_LAG, appearance).await.ok()
    }
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Guarded { guard: self.clone(), inner }
    }
}

#[derive(Clone)]
pub struct Guarded<S> {
    guard: Guard,
    inner: S,
}

impl<S, B, R> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
    R: Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The instance that was polled ready is the one to call.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        let guard = self.guard.clone();
        Box::pin(async move {
            let connection = request.extensions().get::<identity::Connection>();
            let peer = connection.map_or(Peer::Anonymous, |connection| connection.peer.clone());
            let path = request.uri().path().to_owned();
            let call = async { inner.call(request).await };
            guard.call(&path, &peer, call).await.unwrap_or_else(|refusal| Ok(refusal.into_http()))
        })
    }
}
