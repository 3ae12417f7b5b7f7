//! This node's part in a swarm, from init, join or a restart until it stops or leaves.
//!
//! The worker runs always, the manager side while the node's role is manager. The role changes at the managers'
//! word: the worker's session tells it, the certificate is renewed with it, and then the manager side starts or ends.
//!
//! Invariant: a node on disk is complete (certificate and record) or not there; `forget` removes all of it.

mod begin;
mod follow;

use std::path::PathBuf;
use std::sync::Arc;

use identity::renewal::Renewal;
use identity::renewal::Trigger;
use identity::{CertificateDir, Clock, Credentials, Dialer, NodeIdentity, RootCertificate, issuance};
use netdriver::Netdriver;
use proto::local::info_response::State;
use proto::model::{NodeId, Role};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use worker::runtime::Runtime;
use worker::{SessionView, Worker};

use crate::config::Settings;
use crate::dial::Peers;
use crate::error::Error;
use crate::manager_side::ManagerSide;
use crate::membership::{Status, StatusSource};
use crate::record::{self, Record};

/// What does not depend on the swarm.
pub struct Context {
    pub settings: Settings,
    pub runtime: Arc<dyn Runtime>,
    pub netdriver: Arc<Netdriver>,
    /// What the manager side serves on the node's own socket.
    pub routes: watch::Sender<Option<Routes>>,
}

impl Context {
    fn certificates(&self) -> CertificateDir {
        CertificateDir::new(&self.settings.data_root)
    }

    fn raft_dir(&self) -> PathBuf {
        self.settings.data_root.join("raft")
    }
}

pub struct Swarm {
    context: Arc<Context>,
    record: Record,
    credentials: Credentials,
    dialer: Dialer,
    worker: Worker,
    session: watch::Receiver<SessionView>,
    /// The managers to ask for a certificate, fed from the session.
    managers: watch::Sender<Vec<String>>,
    renewal: Trigger,
    renewing: JoinSet<()>,
    stop: CancellationToken,
    manager: Option<ManagerSide>,
    /// The manager side is to be started or ended, and that has failed: when to try again.
    retry_at: Option<tokio::time::Instant>,
    published: watch::Sender<Published>,
}

/// What the status is read from without asking the owner.
#[derive(Clone, Default)]
struct Published {
    store: Option<raft_store::Store>,
}

impl Swarm {
    /// Starts the worker and what goes with it. The manager side comes later, if the role asks for it.
    async fn assemble(
        context: &Arc<Context>,
        record: Record,
        identity: NodeIdentity,
        root: RootCertificate,
        manager: Option<ManagerSide>,
        credentials: Option<Credentials>,
    ) -> Result<Self, Error> {
        let credentials = credentials.map_or_else(|| Credentials::new(identity.clone(), root), Ok)?;
        let dialer = Dialer::new(credentials.clone());
        let node_id = identity.subject().node.clone();
        let known = first_managers(&record, manager.is_some());
        let settings = &context.settings;
        let worker = Worker::start(worker::Config {
            node_id,
            hostname: settings.hostname.clone(),
            labels: Default::default(),
            dial: Arc::new(Peers(dialer.clone())),
            managers: known.clone(),
            runtime: context.runtime.clone(),
            kernel: context.netdriver.clone(),
            data_root: settings.data_root.clone(),
            data_path_addr: Some(record.data_path.unwrap_or(record.advertise.ip())),
            parallel_starts: worker::PARALLEL_STARTS,
        })?;
        let (managers, addresses) = watch::channel(known);
        let (renewal, trigger) = Renewal::new(
            credentials.clone(),
            context.certificates(),
            issuance::Managers::new(dialer.clone(), addresses),
            Clock::system(),
            StdRng::from_os_rng(),
        );
        let stop = CancellationToken::new();
        let mut renewing = JoinSet::new();
        renewing.spawn(renewal.run(stop.clone()));
        let session = worker.session();
        let store = manager.as_ref().map(|manager| manager.store().clone());
        Ok(Self {
            context: context.clone(),
            record,
            credentials,
            dialer,
            worker,
            session,
            managers,
            renewal: trigger,
            renewing,
            stop,
            manager,
            retry_at: None,
            published: watch::Sender::new(Published { store }),
        })
    }

    pub fn node_id(&self) -> NodeId {
        self.credentials.current().identity().subject().node.clone()
    }

    /// As the node's certificate has it.
    pub fn role(&self) -> Role {
        self.credentials.current().identity().subject().role
    }

    /// How the status is to be read from now on.
    pub fn status_source(&self) -> StatusSource {
        let credentials = self.credentials.clone();
        let (advertise, session) = (self.record.advertise, self.session.clone());
        let (published, stats) = (self.published.subscribe(), self.worker.stats_reader());
        StatusSource::Active(Box::new(move || {
            let subject = credentials.current().identity().subject().clone();
            let session = session.borrow();
            let store = published.borrow().store.clone();
            let view = store.map(|store| store.view());
            let cluster = view.as_ref().and_then(|view| view.cluster().cloned());
            Status {
                state: State::Active,
                error: session.error.clone().unwrap_or_default(),
                node_id: Some(subject.node),
                cluster_id: Some(subject.cluster),
                cluster_created_at: cluster.map(|cluster| cluster.meta.created_at),
                advertise: Some(advertise),
                manager: view.is_some(),
                managers: manager_addrs(&session, advertise, view.is_some()),
                manager_count: view.as_ref().map_or(0, |view| count(view, |node| node.manager.is_some())),
                node_count: view.as_ref().map_or(0, |view| count(view, |_| true)),
                tasks_running: u64::try_from(stats().tasks_running).unwrap_or(u64::MAX),
            }
        }))
    }

    /// Ends this node's part and leaves its tasks running, for the next start.
    pub async fn stop(mut self) {
        self.stop.cancel();
        self.worker.stop().await;
        if let Some(manager) = self.manager.take() {
            manager.stop().await;
        }
        while self.renewing.join_next().await.is_some() {}
    }

    /// Ends this node's part, its tasks and everything it knows.
    pub async fn leave(mut self) -> Result<(), Error> {
        if let Some(manager) = &self.manager
            && let Err(error) = manager.give_up_vote().await
        {
            tracing::warn!(%error, "left the managers without their consent");
        }
        self.stop.cancel();
        let emptied = self.worker.shutdown().await;
        if let Some(manager) = self.manager.take() {
            manager.stop().await;
        }
        while self.renewing.join_next().await.is_some() {}
        forget(&self.context)?;
        Ok(emptied?)
    }
}

/// Removes what makes this node part of a swarm; images stay.
pub fn forget(context: &Context) -> Result<(), Error> {
    // The certificate first: without it the rest counts as nothing.
    context.certificates().clear()?;
    record::remove(&context.settings.data_root)?;
    for dir in [context.raft_dir(), context.settings.data_root.join("worker")] {
        match std::fs::remove_dir_all(&dir) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::Forget { path: dir, source });
            }
            _ => {}
        }
    }
    Ok(())
}

/// A manager's worker speaks with its own node first.
fn first_managers(record: &Record, is_manager: bool) -> Vec<String> {
    let own = is_manager.then(|| record.advertise.to_string());
    own.into_iter().chain(record.managers.iter().cloned()).collect()
}

fn manager_addrs(session: &SessionView, advertise: std::net::SocketAddr, is_manager: bool) -> Vec<String> {
    let own = advertise.to_string();
    let others = session.managers.iter().filter(|addr| !is_manager || **addr != own).cloned();
    is_manager.then(|| own.clone()).into_iter().chain(others).collect()
}

fn count(view: &raft_store::View, which: impl Fn(&proto::model::Node) -> bool) -> u64 {
    u64::try_from(view.nodes().filter(|node| which(node)).count()).unwrap_or(u64::MAX)
}
