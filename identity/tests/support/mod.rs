//! A swarm in one process: an authority, identities, and managers on loopback that speak TLS for real.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use identity::listener::{self, Limits, Open};
use identity::{Connection, Credentials, JoinToken, NodeIdentity, Peer, RootCa, Subject};
use proto::model::{NodeId, Role};
use proto::wire::issuance_status::State;
use proto::wire::{self, ca_server, logs_server, node_ca_server};
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio::task::JoinSet;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

pub const HOUR: Duration = Duration::from_secs(3600);
pub const BOUND: Duration = Duration::from_secs(20);

pub struct Swarm {
    pub ca: RootCa,
    pub cluster: String,
}

impl Swarm {
    pub fn new(cluster: &str) -> Self {
        Self { ca: RootCa::generate(SystemTime::now()).unwrap(), cluster: cluster.to_owned() }
    }

    pub fn subject(&self, node: &str, role: Role) -> Subject {
        Subject { node: node.into(), role, cluster: self.cluster.as_str().into() }
    }

    pub fn identity(&self, node: &str, role: Role) -> NodeIdentity {
        self.ca.issue(&self.subject(node, role), HOUR, SystemTime::now()).unwrap()
    }

    /// Issued so long ago that it has expired.
    pub fn expired(&self, node: &str, role: Role) -> NodeIdentity {
        self.ca.issue(&self.subject(node, role), HOUR, SystemTime::now() - 2 * HOUR).unwrap()
    }

    pub fn credentials(&self, identity: NodeIdentity) -> Credentials {
        Credentials::new(identity, self.ca.certificate().clone()).unwrap()
    }

    pub fn token(&self) -> JoinToken {
        JoinToken::generate(self.ca.certificate().digest()).unwrap()
    }
}

/// A served manager; stops when dropped.
pub struct Manager {
    pub addr: SocketAddr,
    pub credentials: Credentials,
    pub service: CaService,
    pub open: Open,
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Manager {
    pub async fn start(swarm: &Swarm, identity: NodeIdentity) -> Self {
        Self::start_with(swarm, identity, Limits::default()).await
    }

    pub async fn start_with(swarm: &Swarm, identity: NodeIdentity, limits: Limits) -> Self {
        Self::start_at(swarm, identity, "127.0.0.1:0".parse().unwrap(), limits).await
    }

    pub async fn start_at(swarm: &Swarm, identity: NodeIdentity, addr: SocketAddr, limits: Limits) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        Self::serve(swarm, swarm.credentials(identity), listener, limits)
    }

    /// Serves the CA of `swarm` under credentials that may be another's.
    pub async fn start_as(swarm: &Swarm, credentials: Credentials) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::serve(swarm, credentials, listener, Limits::default())
    }

    fn serve(swarm: &Swarm, credentials: Credentials, listener: TcpListener, limits: Limits) -> Self {
        let service = CaService::new(swarm);
        let addr = listener.local_addr().unwrap();
        let open = Open::default();
        let incoming = listener::incoming(listener, credentials.clone(), limits, open.clone());
        let stop = CancellationToken::new();
        let server = Server::builder()
            .add_service(ca_server::CaServer::new(service.clone()))
            .add_service(node_ca_server::NodeCaServer::new(service.clone()))
            .add_service(logs_server::LogsServer::new(service.clone()))
            .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { server.await.unwrap() });
        Self { addr, credentials, service, open, tasks, stop }
    }

    /// Lets calls end, then returns.
    pub async fn stop(mut self) {
        self.stop.cancel();
        self.tasks.join_next().await.unwrap().unwrap();
    }
}

/// The CA of a manager, without a store behind it.
#[derive(Clone)]
pub struct CaService(Arc<Inner>);

struct Inner {
    ca: RootCa,
    cluster: String,
    token: JoinToken,
    issued: Mutex<HashMap<String, wire::Certificate>>,
    callers: Mutex<Vec<Connection>>,
    requests: Mutex<Vec<wire::IssueNodeCertificateRequest>>,
    stream: broadcast::Sender<()>,
}

impl CaService {
    pub fn new(swarm: &Swarm) -> Self {
        Self(Arc::new(Inner {
            ca: swarm.ca.clone(),
            cluster: swarm.cluster.clone(),
            token: swarm.token(),
            issued: Mutex::default(),
            callers: Mutex::default(),
            requests: Mutex::default(),
            stream: broadcast::Sender::new(16),
        }))
    }

    /// The token that workers join with.
    pub fn token(&self) -> JoinToken {
        self.0.token.clone()
    }

    pub fn callers(&self) -> Vec<Connection> {
        self.0.callers.lock().unwrap().clone()
    }

    pub fn last_caller(&self) -> Connection {
        self.callers().last().unwrap().clone()
    }

    pub fn requests(&self) -> Vec<wire::IssueNodeCertificateRequest> {
        self.0.requests.lock().unwrap().clone()
    }

    /// Sends one message on every open stream.
    pub fn stream_one(&self) {
        self.0.stream.send(()).unwrap();
    }

    fn note<T>(&self, request: &Request<T>) -> Peer {
        let connection = Connection::of(request.extensions()).unwrap().clone();
        self.0.callers.lock().unwrap().push(connection);
        Peer::of(request.extensions()).clone()
    }
}

#[tonic::async_trait]
impl ca_server::Ca for CaService {
    async fn get_root_ca_certificate(
        &self,
        request: Request<wire::GetRootCaCertificateRequest>,
    ) -> Result<Response<wire::GetRootCaCertificateResponse>, Status> {
        self.note(&request);
        let certificate = self.0.ca.certificate().pem().into();
        Ok(Response::new(wire::GetRootCaCertificateResponse { certificate }))
    }

    async fn get_unlock_key(
        &self,
        request: Request<wire::GetUnlockKeyRequest>,
    ) -> Result<Response<wire::GetUnlockKeyResponse>, Status> {
        self.note(&request);
        Ok(Response::new(wire::GetUnlockKeyResponse::default()))
    }
}

#[tonic::async_trait]
impl node_ca_server::NodeCa for CaService {
    async fn issue_node_certificate(
        &self,
        request: Request<wire::IssueNodeCertificateRequest>,
    ) -> Result<Response<wire::IssueNodeCertificateResponse>, Status> {
        let peer = self.note(&request);
        let request = request.into_inner();
        self.0.requests.lock().unwrap().push(request.clone());
        let (node, role): (NodeId, _) = match peer {
            Peer::Node { id, role, .. } => (id, role),
            _ if self.0.token.matches_text(&request.token) => {
                (NodeId::from_random(u128::from(rand::random::<u64>())), Role::Worker)
            }
            _ => {
                return Err(Status::invalid_argument("a valid join token is necessary to join this cluster"));
            }
        };
        let csr = String::from_utf8(request.csr.clone()).unwrap();
        let subject = Subject { node: node.clone(), role, cluster: self.0.cluster.as_str().into() };
        let chain = self.0.ca.sign(&csr, &subject, HOUR, SystemTime::now()).unwrap();
        let certificate =
            wire::Certificate { csr: request.csr, certificate: chain.into(), ..Default::default() };
        self.0.issued.lock().unwrap().insert(node.to_string(), certificate);
        Ok(Response::new(wire::IssueNodeCertificateResponse {
            node_id: node.to_string(),
            ..Default::default()
        }))
    }

    async fn node_certificate_status(
        &self,
        request: Request<wire::NodeCertificateStatusRequest>,
    ) -> Result<Response<wire::NodeCertificateStatusResponse>, Status> {
        let node_id = request.into_inner().node_id;
        let certificate = self.0.issued.lock().unwrap().get(&node_id).cloned();
        let certificate = certificate.ok_or_else(|| Status::not_found("node"))?;
        let status = wire::IssuanceStatus { state: State::Issued.into(), ..Default::default() };
        Ok(Response::new(wire::NodeCertificateStatusResponse {
            status: Some(status),
            certificate: Some(certificate),
        }))
    }
}

/// Stands for any long stream.
#[tonic::async_trait]
impl logs_server::Logs for CaService {
    type SubscribeLogsStream = Pin<Box<dyn Stream<Item = Result<wire::SubscribeLogsMessage, Status>> + Send>>;

    async fn subscribe_logs(
        &self,
        request: Request<wire::SubscribeLogsRequest>,
    ) -> Result<Response<Self::SubscribeLogsStream>, Status> {
        self.note(&request);
        let messages = BroadcastStream::new(self.0.stream.subscribe());
        let messages = messages.map(|_| Ok(wire::SubscribeLogsMessage::default()));
        Ok(Response::new(Box::pin(messages)))
    }
}
