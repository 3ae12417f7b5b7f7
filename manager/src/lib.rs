//! What a manager runs: services for nodes and operators, and, while it leads, the control loops.
//!
//! This file starts and stops them and puts the services together. Listening, TLS and the Raft group's own life are
//! the caller's. Services and loops know each other only through the store.
//!
//! Invariant: nothing runs after `stop` has returned, and each call passes the access table first.

pub mod access;
pub mod allocator;
pub mod api;
mod ca;
pub mod cluster;
mod consistency;
mod diagnosis;
mod directory;
mod dispatcher;
mod error;
mod fanout;
#[cfg(test)]
mod fixtures;
pub mod keymanager;
pub mod leader;
mod liveness;
mod logbroker;
mod managers;
mod membership;
pub mod orchestrator;
mod peers;
pub mod reconcile;
pub mod rolemanager;
pub mod scheduler;
mod waiting;

use std::sync::Arc;

use proto::model::{ClusterId, NodeId};
use proto::network::confirmations_server::ConfirmationsServer;
use proto::network::diagnosis_server::DiagnosisServer;
use proto::network::directory_server::DirectoryServer;
use proto::network::keys_server::KeysServer;
use proto::network::questions_server::QuestionsServer;
use proto::raft::liveness_server::LivenessServer;
use proto::wire::ca_server::CaServer;
use proto::wire::control_server::ControlServer;
use proto::wire::dispatcher_server::DispatcherServer;
use proto::wire::log_broker_server::LogBrokerServer;
use proto::wire::logs_server::LogsServer;
use proto::wire::node_ca_server::NodeCaServer;
use proto::wire::raft_membership_server::RaftMembershipServer;
use raft_store::Store;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;

pub use error::Error;
pub use peers::Connect;

use api::Control;
use ca::Ca;
use diagnosis::Diagnosis;
use directory::Directory;
use dispatcher::{Dispatcher, Sessions};
use leader::Loop;
use liveness::Liveness;
use logbroker::Logs;
use membership::{Members, Membership};
use peers::Peers;

/// The largest request; a spec may have 1 MiB, a report of many tasks more.
const LARGEST_REQUEST: usize = 8 << 20;

/// The largest request of somebody without a certificate: one for a certificate, with a token.
const LARGEST_OF_STRANGERS: usize = 64 << 10;

pub struct Config {
    pub store: Store,
    pub cluster: ClusterId,
    /// The node on which this manager runs.
    pub node: NodeId,
    /// How other managers are reached: an `identity::Dialer`.
    pub connect: Arc<dyn Connect>,
    /// How external CAs are asked.
    pub signers: Arc<identity::Signers>,
    /// The wall clock.
    pub clock: identity::Clock,
}

pub struct Manager {
    services: Services,
    guard: access::Guard,
    store: Store,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// One of each, for both listeners.
struct Services {
    control: ControlServer<Control>,
    keys: KeysServer<Control>,
    logs: LogsServer<Logs>,
    log_broker: LogBrokerServer<Logs>,
    dispatcher: DispatcherServer<Dispatcher>,
    directory: DirectoryServer<Directory>,
    confirmations: ConfirmationsServer<directory::Ear>,
    diagnosis: DiagnosisServer<Diagnosis>,
    questions: QuestionsServer<Diagnosis>,
    ca: CaServer<Ca>,
    node_ca: NodeCaServer<Ca>,
    membership: RaftMembershipServer<Membership>,
    liveness: LivenessServer<liveness::Listener>,
}

impl Manager {
    /// Starts everything. The store is open; whether it leads or has caught up does not matter.
    pub fn start(config: Config) -> Self {
        let Config { store, cluster, node, connect, clock, signers } = config;
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let peers = Peers::new(connect);
        let sessions = Arc::new(Sessions::default());
        let liveness = Arc::new(Liveness::default());
        let (dispatcher, driver) =
            Dispatcher::new(store.clone(), Arc::clone(&sessions), Arc::clone(&liveness));
        let diagnosis = Diagnosis::new(node.clone(), store.clone(), Arc::clone(&sessions), peers.clone());
        let (directory, followed) = Directory::new(store.clone(), sessions, node.clone(), peers.clone());
        let logs = Logs::new(node, store.clone(), peers.clone(), stop.clone());
        let ca = Ca::new(store.clone(), clock.clone(), Arc::clone(&signers));
        let control = Control::new(store.clone(), clock.clone(), signers);
        let services = Services {
            keys: KeysServer::new(control.clone()),
            control: ControlServer::new(control).max_decoding_message_size(LARGEST_REQUEST),
            logs: LogsServer::new(logs.clone()),
            log_broker: LogBrokerServer::new(logs),
            dispatcher: DispatcherServer::new(dispatcher).max_decoding_message_size(LARGEST_REQUEST),
            directory: DirectoryServer::new(directory),
            confirmations: ConfirmationsServer::new(followed.ear),
            diagnosis: DiagnosisServer::new(diagnosis.clone()),
            questions: QuestionsServer::new(diagnosis),
            ca: CaServer::new(ca.clone()).max_decoding_message_size(LARGEST_OF_STRANGERS),
            node_ca: NodeCaServer::new(ca).max_decoding_message_size(LARGEST_OF_STRANGERS),
            membership: RaftMembershipServer::new(Membership::new(store.clone())),
            liveness: LivenessServer::new(liveness::Listener(Arc::clone(&liveness))),
        };
        let guard = access::Guard::new(store.clone(), cluster);

        let token = stop.clone();
        tasks.spawn(async move { driver.run(&token).await });
        let token = stop.clone();
        tasks.spawn(async move { tokio::join!(followed.hub.run(&token), followed.teller.run(&token)) });
        let (token, beats) = (stop.clone(), store.clone());
        tasks.spawn(async move { liveness.run(&beats, &peers, &token).await });
        let clock: raft_store::Clock = Arc::new(move || clock.now());
        tasks.spawn(leader::run(store.clone(), clock, loops(&store), stop.clone()));
        tasks.close();
        Self { services, guard, store, tasks, stop }
    }

    /// What other nodes may call, over TLS.
    pub fn routes_tcp(&self) -> Routes {
        let services = &self.services;
        let routes = Routes::new(services.control.clone())
            .add_service(services.keys.clone())
            .add_service(services.logs.clone())
            .add_service(services.log_broker.clone())
            .add_service(services.dispatcher.clone())
            .add_service(services.directory.clone())
            .add_service(services.confirmations.clone())
            .add_service(services.diagnosis.clone())
            .add_service(services.questions.clone())
            .add_service(services.ca.clone())
            .add_service(services.node_ca.clone())
            .add_service(services.membership.clone())
            .add_service(services.liveness.clone())
            .add_service(self.store.raft_service(peers::sender));
        self.guarded(routes)
    }

    /// What clients on this machine may call, over the unix socket.
    pub fn routes_local(&self) -> Routes {
        let services = &self.services;
        let routes = Routes::new(services.control.clone())
            .add_service(services.keys.clone())
            .add_service(services.diagnosis.clone())
            .add_service(services.ca.clone())
            .add_service(services.logs.clone());
        self.guarded(routes)
    }

    fn guarded(&self, routes: Routes) -> Routes {
        let consistency = consistency::Consistency::new(self.store.clone());
        // The last one is the first to see a call.
        routes.into_axum_router().layer(consistency).layer(self.guard.clone()).into()
    }

    /// Ends sessions and loops and waits for them. Streams end with an error that tells nodes to go elsewhere.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

/// For a beginning that failed: what was started ends by itself, unwaited for.
impl Drop for Manager {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// All that runs on the leader only.
fn loops(store: &Store) -> Vec<Loop> {
    let members = store.clone();
    let roles = Loop::new("role manager", move |lead| rolemanager::run(lead, Members(members.clone())));
    leader::loops().into_iter().chain([roles]).collect()
}
