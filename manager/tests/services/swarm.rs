//! One manager that serves on a socket, and clients that are whom the test wants.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use identity::{Clock, Connection, Peer, Signers};
use manager::{Config, Connect, Manager};
use proto::model::{NodeId, Role};
use raft_store::{Leadership, Store};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Status};
use tower::util::MapRequestLayer;

use crate::fixtures::{CLUSTER, store};

/// `<kind> <node id> <cluster>`.
const PEER: &str = "test-peer";
/// Longer than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Swarm {
    pub store: Store,
    pub addr: SocketAddr,
    manager: Option<Manager>,
    stop: CancellationToken,
    server: Option<JoinHandle<()>>,
}

pub type Client = InterceptedService<Channel, As>;

/// Says who calls.
#[derive(Clone)]
pub struct As(MetadataValue<tonic::metadata::Ascii>);

impl tonic::service::Interceptor for As {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(PEER, self.0.clone());
        Ok(request)
    }
}

/// Other managers, without TLS. Who connects so is a manager.
struct Plain;

impl Connect for Plain {
    fn connect(&self, addr: &str) -> Result<Channel, Status> {
        let endpoint = Endpoint::from_shared(format!("http://{addr}"));
        Ok(endpoint.map_err(|error| Status::unavailable(error.to_string()))?.connect_lazy())
    }
}

impl Swarm {
    pub async fn start() -> Self {
        Self::start_on(store().await, "manager1").await
    }

    /// The manager of the node `id`. It does not lead: nothing happens but what is called.
    pub async fn start_on(store: Store, id: &str) -> Self {
        store.set_leadership(Leadership::default());
        Self::serve(store, id).await
    }

    /// With the loops of the leader.
    pub async fn lead() -> Self {
        Self::serve(store().await, "manager1").await
    }

    async fn serve(store: Store, id: &str) -> Self {
        let manager = Manager::start(Config {
            store: store.clone(),
            cluster: CLUSTER.into(),
            node: id.into(),
            connect: Arc::new(Plain),
            signers: Arc::new(Signers::anonymous(Clock::system())),
            clock: Clock::system(),
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let serving = Server::builder()
            .layer(MapRequestLayer::new(identify))
            .add_routes(manager.routes_tcp())
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop.clone().cancelled_owned());
        let server = tokio::task::spawn(async move { serving.await.unwrap() });
        Self { store, addr, manager: Some(manager), stop, server: Some(server) }
    }

    pub fn worker(&self, id: &NodeId) -> Client {
        self.client(&format!("worker {id} {CLUSTER}"))
    }

    pub fn manager(&self, id: &NodeId) -> Client {
        self.client(&format!("manager {id} {CLUSTER}"))
    }

    pub fn local(&self) -> Client {
        self.client("local - -")
    }

    pub fn client(&self, peer: &str) -> Client {
        let channel = Endpoint::from_shared(format!("http://{}", self.addr)).unwrap().connect_lazy();
        InterceptedService::new(channel, As(peer.parse().unwrap()))
    }

    /// Everything ends, in time.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let (manager, server) = (self.manager.take().unwrap(), self.server.take().unwrap());
        let ending = async {
            manager.stop().await;
            server.await.unwrap();
        };
        tokio::time::timeout(PATIENCE, ending).await.expect("the manager stops");
    }
}

/// Puts the peer where the listener of `identity` puts it.
fn identify<B>(mut request: http::Request<B>) -> http::Request<B> {
    let header = request.headers().get(PEER).map(|value| value.to_str().unwrap().to_owned());
    let words = header.as_deref().unwrap_or("manager relay cluster1").split(' ').collect::<Vec<_>>();
    let node = |role| Peer::Node { id: words[1].into(), role, cluster: words[2].into() };
    let peer = match words[0] {
        "local" => Peer::Local,
        "worker" => node(Role::Worker),
        "manager" => node(Role::Manager),
        _ => Peer::Anonymous,
    };
    let remote = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 77)), 4444);
    request.extensions_mut().insert(Connection { peer, remote: Some(remote) });
    request
}

/// Waits for something that must come.
pub async fn soon<T>(what: &str, coming: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, coming).await.unwrap_or_else(|_| panic!("{what} did not come"))
}
