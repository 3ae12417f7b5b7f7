//! The manager half of a node: its replica of the store, its services, and the port on which others reach them.
//!
//! Decides only the order of starting and stopping. The port is open before the node asks to become a member, since
//! the leader then calls it; when stopping, leadership is handed over and sessions end before the port closes.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use identity::{Clock, Credentials, Dialer, listener};
use manager::Manager;
use proto::model::NodeId;
use proto::wire::JoinRequest;
use proto::wire::raft_membership_client::RaftMembershipClient;
use raft_store::Store;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::dial::Peers;
use crate::error::{Error, chain};

/// A peer that is silent is asked, and given up when it does not answer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests that one connection may have under way.
const STREAMS: u32 = 4096;
/// How long open requests may take when the port closes.
const CLOSING: Duration = Duration::from_secs(2);
/// A member is added once it has caught up, which may take a snapshot's time.
const JOINING: Duration = Duration::from_secs(60);

/// What a manager needs to know of its node.
#[derive(Clone)]
pub struct Place<'a> {
    pub data_root: &'a Path,
    pub node_id: NodeId,
    pub advertise: SocketAddr,
    pub credentials: Credentials,
    pub dialer: Dialer,
}

pub struct ManagerSide {
    store: Store,
    manager: Manager,
    /// Ends the port, and with it `server`.
    stop: CancellationToken,
    server: JoinSet<()>,
    routes: watch::Sender<Option<Routes>>,
    advertise: SocketAddr,
}

pub async fn bind(addr: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(addr).await.map_err(|source| Error::Listen { addr, source })
}

/// Opens the replica on this node, or makes an empty one.
pub async fn open_store(place: &Place<'_>) -> Result<Store, Error> {
    let (dir, dial) = (place.data_root.join("raft"), Arc::new(Peers(place.dialer.clone())));
    let addr = place.advertise.to_string();
    let options = raft_store::Options::new(dir, place.node_id.clone(), addr, dial);
    Ok(Store::open(options).await?)
}

impl ManagerSide {
    /// Serves `store` on `listener` and, through `routes`, on the node's own socket.
    pub fn start(
        place: &Place<'_>,
        store: Store,
        listener: TcpListener,
        routes: watch::Sender<Option<Routes>>,
    ) -> Self {
        let manager = Manager::start(manager::Config {
            store: store.clone(),
            cluster: place.credentials.current().identity().subject().cluster.clone(),
            node: place.node_id.clone(),
            connect: Arc::new(place.dialer.clone()),
            clock: Clock::system(),
        });
        let stop = CancellationToken::new();
        let incoming = listener::incoming(listener, place.credentials.clone(), listener::Limits::default());
        let server = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .max_concurrent_streams(STREAMS)
            .add_routes(manager.routes_tcp())
            .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(error = %chain(&error), "the managers' port has failed");
            }
        });
        routes.send_replace(Some(manager.routes_local()));
        Self { store, manager, stop, server: tasks, routes, advertise: place.advertise }
    }

    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// This manager's vote counts, as far as its replica knows.
    pub fn is_member(&self) -> bool {
        let own = self.store.raft_id();
        self.store.membership().members().iter().any(|member| member.raft_id == own)
    }

    /// This manager still counts, or could: it is a member that hears its leader.
    ///
    /// A member that was removed is told nothing any more; that it hears nobody is the only sign.
    pub fn has_vote(&self) -> bool {
        self.is_member() && self.store.leadership().borrow().leader.is_some()
    }

    /// Leaves the group, so that the others need not wait for this vote.
    pub async fn give_up_vote(&self) -> Result<(), raft_store::membership::Error> {
        self.store.membership().remove(self.store.raft_id()).await
    }

    /// Asks the managers, in turn, to become one of them.
    pub async fn join(&self, dialer: &Dialer, managers: &[String]) -> Result<(), Error> {
        let own = self.advertise.to_string();
        let mut reason = "no other manager is known".to_owned();
        for addr in managers.iter().filter(|addr| **addr != own) {
            match self.ask(dialer, addr).await {
                Ok(()) => return Ok(()),
                Err(refusal) => reason = refusal,
            }
        }
        Err(Error::Join { reason })
    }

    async fn ask(&self, dialer: &Dialer, addr: &str) -> Result<(), String> {
        let channel = dialer.channel(addr).map_err(|error| chain(&error))?;
        let mut client = RaftMembershipClient::new(channel);
        let request = JoinRequest { addr: self.advertise.to_string() };
        let asked = tokio::time::timeout(JOINING, client.join(request)).await;
        match asked {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => Err(identity::dial::explain(&status)),
            Err(_) => Err(format!("manager {addr} did not add this node within {JOINING:?}")),
        }
    }

    /// Hands over what this manager leads, ends its sessions and closes the port.
    pub async fn stop(mut self) {
        self.routes.send_replace(None);
        self.manager.stop().await;
        self.stop.cancel();
        if tokio::time::timeout(CLOSING, self.server.join_next()).await.is_err() {
            self.server.abort_all();
        }
        self.store.shutdown().await;
    }
}
