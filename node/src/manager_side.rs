//! The manager half of a node: its replica of the store, its services, and the port on which others reach them.
//!
//! Decides only the order of starting and stopping. The port is open before the node asks to become a member, since
//! the leader then calls it. When stopping, leadership is handed over while everything is served still, as the others
//! need this manager's vote for it; then sessions end, so that nodes go to managers that can take them at once.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use identity::{CertificateDir, Clock, Credentials, Dialer, Signers, listener};
use manager::Manager;
use proto::model::NodeId;
use proto::wire::JoinRequest;
use proto::wire::raft_membership_client::RaftMembershipClient;
use raft_store::{Leadership, Store};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Server;

use crate::dial::Peers;
use crate::error::{Error, Expelled, chain};
use crate::expulsion;
use crate::gate::Serving;
use crate::sealing::{self, Sealing};

/// A peer that is silent is asked, and given up when it does not answer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests that one connection may have under way.
const STREAMS: u32 = 4096;
/// How long open requests may take when the port closes.
const CLOSING: Duration = Duration::from_secs(2);
/// A member is added once it has caught up, which may take a snapshot's time.
const JOINING: Duration = Duration::from_secs(60);
/// For handing over, or giving up, what others can do without.
const HAND_OVER: Duration = Duration::from_secs(5);

/// What a manager needs to know of its node.
#[derive(Clone)]
pub struct Place<'a> {
    pub data_root: &'a Path,
    pub certificates: &'a CertificateDir,
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
    /// What follows the replica beside the manager.
    followers: JoinSet<()>,
    leadership: watch::Receiver<Leadership>,
    serving: watch::Sender<Serving>,
}

pub async fn bind(addr: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(addr).await.map_err(|source| Error::Listen { addr, source })
}

/// Opens the replica on this node, or makes an empty one.
pub async fn open_store(place: &Place<'_>) -> Result<Store, Error> {
    Ok(Store::open(store_options(place)).await?)
}

pub fn store_options(place: &Place<'_>) -> raft_store::Options {
    let (dir, dial) = (place.data_root.join("raft"), Arc::new(Peers(place.dialer.clone())));
    let addr = place.advertise.to_string();
    let mut options = raft_store::Options::new(dir, place.node_id.clone(), addr, dial);
    options.seal = sealing::seal(place.certificates.unlock_key().0);
    options
}

impl ManagerSide {
    /// Serves `store` on `listener` and, through `serving`, on the node's own socket.
    pub fn start(
        place: &Place<'_>,
        store: Store,
        listener: TcpListener,
        serving: watch::Sender<Serving>,
    ) -> Self {
        let manager = Manager::start(manager::Config {
            store: store.clone(),
            cluster: place.credentials.current().identity().subject().cluster.clone(),
            node: place.node_id.clone(),
            connect: Arc::new(place.dialer.clone()),
            signers: Arc::new(Signers::new(place.credentials.clone(), Clock::system())),
            clock: Clock::system(),
        });
        let stop = CancellationToken::new();
        let (open, limits) = (listener::Open::default(), listener::Limits::default());
        let incoming = listener::incoming(listener, place.credentials.clone(), limits, open.clone());
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
        let mut followers = JoinSet::new();
        let seals = Sealing { store: store.clone(), certificates: place.certificates.clone() };
        followers.spawn(seals.run(stop.clone()));
        followers.spawn(expulsion::run(store.clone(), open, stop.clone()));
        serving.send_replace(Serving::Manager(manager.routes_local()));
        let leadership = store.leadership();
        Self { store, manager, stop, server: tasks, followers, leadership, serving }
    }

    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// This manager has a vote, as far as its replica knows: it hears no more of it once it was removed.
    pub fn is_voter(&self) -> bool {
        let own = self.store.raft_id();
        self.store.membership().members().iter().any(|member| member.raft_id == own && member.voter)
    }

    pub fn hears_leader(&self) -> bool {
        self.leadership.borrow().leader.is_some()
    }

    /// Resolves when `hears_leader`, `is_voter` or `failure` may answer something else.
    pub async fn changed(&mut self) {
        tokio::select! {
            _ = self.leadership.changed() => {}
            _ = self.store.failed() => {}
        }
    }

    /// Why the replica has stopped by itself, if it has.
    pub fn failure(&self) -> Option<String> {
        self.store.failed().now_or_never()
    }

    /// Waits until requests are answered from what the swarm knows now, as far as this manager can tell.
    pub async fn current(&mut self) {
        let _ = self.leadership.wait_for(|leadership| leadership.leader.is_some()).await;
        let mut watch = self.store.watch();
        while self.store.view().cluster().is_none() && watch.next().await.is_ok() {}
    }

    /// Leaves the group, so that the others need not wait for this vote.
    pub async fn give_up_vote(&self) -> Result<(), String> {
        let group = self.store.membership();
        let leaving = tokio::time::timeout(HAND_OVER, group.remove(self.store.raft_id())).await;
        match leaving {
            Ok(left) => left.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {HAND_OVER:?}")),
        }
    }

    async fn hand_over(&self) {
        let alone = self.store.membership().members().iter().filter(|member| member.voter).count() < 2;
        if alone || self.leadership.borrow().leading.is_none() {
            return;
        }
        let group = self.store.membership();
        match tokio::time::timeout(HAND_OVER, group.transfer_leadership()).await {
            Ok(Ok(successor)) => tracing::info!("handed the leadership to {successor:x}"),
            Ok(Err(error)) => tracing::warn!(%error, "stops while leading"),
            Err(_) => tracing::warn!("stops while leading: no other manager took over within {HAND_OVER:?}"),
        }
    }

    /// Hands over what this manager leads, ends its sessions and closes the port. What clients on this node are told
    /// afterwards is `then`.
    pub async fn stop(mut self, then: Serving) {
        self.hand_over().await;
        self.serving.send_replace(then);
        self.manager.stop().await;
        self.stop.cancel();
        if tokio::time::timeout(CLOSING, self.server.join_next()).await.is_err() {
            self.server.shutdown().await;
        }
        while self.followers.join_next().await.is_some() {}
        self.store.shutdown().await;
    }
}

/// Asks the managers, in turn, to make the one that listens at `own` one of them.
pub async fn ask_to_join(dialer: &Dialer, own: SocketAddr, managers: &[String]) -> Result<(), Error> {
    let own = own.to_string();
    let mut outcome =
        Err(Error::Join { reason: "no other manager is known".into(), refused: false, expelled: None });
    for addr in managers.iter().filter(|addr| **addr != own) {
        outcome = ask(dialer, &own, addr).await;
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

async fn ask(dialer: &Dialer, own: &str, addr: &str) -> Result<(), Error> {
    let failed = |reason, refused| Error::Join { reason, refused, expelled: None };
    let channel = dialer.channel(addr).map_err(|error| failed(chain(&error), true))?;
    let mut client = RaftMembershipClient::new(channel);
    let asked = tokio::time::timeout(JOINING, client.join(JoinRequest { addr: own.into() })).await;
    match asked {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => {
            let refused = matches!(
                status.code(),
                Code::FailedPrecondition | Code::InvalidArgument | Code::PermissionDenied | Code::NotFound
            );
            let expelled = (status.code() == Code::PermissionDenied).then(|| {
                let is_removed = status.metadata().contains_key(manager::access::REMOVED);
                if is_removed { Expelled::FromTheSwarm } else { Expelled::FromTheManagers }
            });
            Err(Error::Join { reason: identity::dial::explain(&status), refused, expelled })
        }
        Err(_) => Err(failed(format!("manager {addr} did not add this node within {JOINING:?}"), false)),
    }
}
