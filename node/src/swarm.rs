//! This node's part in a swarm, from init, join or a restart until it stops or leaves.
//!
//! The worker runs always, the manager side while the node's role is manager. The role changes at the managers'
//! word: the worker's session tells it, the certificate is renewed with it, and then the manager side starts or ends.
//!
//! Invariant: a node whose certificate is on disk is complete, as its record was written before; `forget` removes all
//! of it.

mod begin;
mod follow;
mod refound;
mod retry;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use identity::credentials::Current;
use identity::renewal::Renewal;
use identity::renewal::Trigger;
use identity::{CertificateDir, Clock, Credentials, Dialer, issuance};
use netdriver::Netdriver;
use proto::local::info_response::State;
use proto::model::{NodeId, Role, TlsInfo};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use worker::runtime::Runtime;
use worker::{SessionView, Whereabouts, Worker};

use crate::config::Settings;
use crate::dial::Peers;
use crate::error::{Error, Expelled, chain};
use crate::gate::Serving;
use crate::manager_side::ManagerSide;
use crate::membership::{Status, StatusSource};
use crate::record::{self, Record};
use retry::Retry;

pub use follow::Outcome;
pub use refound::Restoration;

/// How long a start waits for the others, so that what is asked right after it is answered from what the swarm knows.
const CURRENT: Duration = Duration::from_secs(5);

/// What does not depend on the swarm.
pub struct Context {
    pub settings: Settings,
    /// Also knows what seals the node's key.
    pub certificates: CertificateDir,
    pub runtime: Arc<dyn Runtime>,
    pub netdriver: Arc<Netdriver>,
    /// What the manager side serves on the node's own socket.
    pub serving: watch::Sender<Serving>,
}

impl Context {
    /// Where a snapshot is made and read.
    pub fn scratch_dir(&self) -> PathBuf {
        self.settings.data_root.join("snapshot")
    }

    fn raft_dir(&self) -> PathBuf {
        self.settings.data_root.join("raft")
    }
}

pub struct Swarm {
    context: Arc<Context>,
    record: Record,
    credentials: Credentials,
    certificate: watch::Receiver<Arc<Current>>,
    dialer: Dialer,
    worker: Worker,
    session: watch::Receiver<SessionView>,
    whereabouts: watch::Receiver<Whereabouts>,
    /// The managers to ask for a certificate, fed from the session.
    managers: watch::Sender<Vec<String>>,
    renewal: Trigger,
    /// As managers are told of it.
    tls: watch::Sender<TlsInfo>,
    renewing: JoinSet<()>,
    stop: CancellationToken,
    manager: Option<ManagerSide>,
    /// Asks the others to make this node a manager: one task at most.
    joining: JoinSet<Result<(), Error>>,
    retry: Retry,
    /// What the others have answered, so many times on end, when this manager asked to be taken in.
    expelled: Option<(Expelled, u32)>,
    /// Since when the manager side has taken no part.
    idle_since: Option<Instant>,
    published: watch::Sender<Published>,
}

/// What the status is read from without asking the owner.
#[derive(Clone, Default)]
struct Published {
    advertise: Option<SocketAddr>,
    store: Option<raft_store::Store>,
    /// Why the manager side does not run, or takes no part.
    problem: Option<String>,
}

impl Swarm {
    /// Starts the worker and what goes with it. What of the manager side is missing comes later, if the role asks for
    /// it: `problem` says why it did not come now.
    async fn assemble(
        context: &Arc<Context>,
        record: Record,
        credentials: Credentials,
        manager: Option<ManagerSide>,
        problem: Option<Error>,
    ) -> Result<Self, Error> {
        let dialer = Dialer::new(credentials.clone());
        let known = first_managers(&record, manager.is_some());
        let (tls, told) = watch::channel(credentials.current().tls_info());
        let worker = Worker::start(worker_config(context, &record, &credentials, known.clone(), told));
        let worker = match worker {
            Ok(worker) => worker,
            Err(error) => {
                if let Some(manager) = manager {
                    manager.stop(Serving::Nothing).await;
                }
                return Err(error.into());
            }
        };
        let (managers, addresses) = watch::channel(known);
        let (renewal, trigger) = Renewal::new(
            credentials.clone(),
            context.certificates.clone(),
            issuance::Managers::new(dialer.clone(), addresses),
            Clock::system(),
            StdRng::from_os_rng(),
        );
        let stop = CancellationToken::new();
        let mut renewing = JoinSet::new();
        renewing.spawn(renewal.run(stop.clone()));
        let (session, whereabouts) = (worker.session(), worker.whereabouts());
        let store = manager.as_ref().map(|manager| manager.store().clone());
        let mut retry = Retry::default();
        if problem.is_some() {
            retry.failed();
        }
        let problem = problem.map(|error| chain(&error));
        let advertise = Some(record.advertise);
        Ok(Self {
            context: context.clone(),
            record,
            certificate: credentials.subscribe(),
            credentials,
            dialer,
            worker,
            session,
            whereabouts,
            managers,
            renewal: trigger,
            tls,
            renewing,
            stop,
            manager,
            joining: JoinSet::new(),
            retry,
            expelled: None,
            idle_since: None,
            published: watch::Sender::new(Published { advertise, store, problem }),
        })
    }

    pub fn node_id(&self) -> NodeId {
        self.credentials.current().identity().subject().node.clone()
    }

    /// As the node's certificate has it.
    pub fn role(&self) -> Role {
        self.credentials.current().identity().subject().role
    }

    /// Why the manager side does not run, or takes no part.
    pub fn problem(&self) -> Option<String> {
        self.published.borrow().problem.clone()
    }

    /// Waits, for a moment, until the manager side knows what the others know.
    pub async fn current(&mut self) {
        if let Some(manager) = &mut self.manager {
            // Without the others it never does, and what it has is better than nothing.
            let _ = tokio::time::timeout(CURRENT, manager.current()).await;
        }
    }

    /// How the status is to be read from now on.
    pub fn status_source(&self) -> StatusSource {
        let credentials = self.credentials.clone();
        let (session, whereabouts) = (self.session.clone(), self.whereabouts.clone());
        let (published, stats) = (self.published.subscribe(), self.worker.stats_reader());
        let networks = self.worker.networks();
        let read = Box::new(move || {
            let subject = credentials.current().identity().subject().clone();
            let session = session.borrow();
            let Published { advertise, store, problem } = published.borrow().clone();
            let stats = stats();
            let view = store.map(|store| store.view());
            let cluster = view.as_ref().and_then(|view| view.cluster().cloned());
            Status {
                state: State::Active,
                error: problem.or_else(|| session.error.clone()).unwrap_or_default(),
                node_id: Some(subject.node),
                cluster_id: Some(subject.cluster),
                cluster_created_at: cluster.map(|cluster| cluster.meta.created_at),
                advertise,
                manager: view.is_some(),
                managers: manager_addrs(&session, advertise.filter(|_| view.is_some())),
                manager_count: view.as_ref().map_or(0, |view| count(view, |node| node.manager.is_some())),
                node_count: view.as_ref().map_or(0, |view| count(view, |_| true)),
                tasks_running: u64::try_from(stats.tasks_running).unwrap_or(u64::MAX),
                network_mended: stats.network_mended,
                warnings: whereabouts.borrow().problems().cloned().chain(networks.corruption()).collect(),
            }
        });
        let published = self.published.subscribe();
        let store = Box::new(move || published.borrow().store.clone());
        StatusSource::Active { read, store, networks: self.worker.networks() }
    }

    /// Ends this node's part and leaves its tasks running, for the next start.
    pub async fn stop(mut self) {
        self.joining.shutdown().await;
        self.worker.stop().await;
        if let Some(manager) = self.manager.take() {
            manager.stop(Serving::Failing("this daemon is stopping".into())).await;
        }
        self.stop.cancel();
        while self.renewing.join_next().await.is_some() {}
    }

    /// Ends this node's part, its tasks and everything it knows.
    pub async fn leave(self) -> Result<(), Error> {
        if let Some(manager) = &self.manager
            && let Err(error) = manager.give_up_vote().await
        {
            tracing::warn!(error, "left the managers without their consent");
        }
        let context = self.context.clone();
        let emptied = self.dismiss().await;
        forget(&context)?;
        emptied
    }

    /// Ends this node's part and its tasks. It still knows what it was.
    pub async fn dismiss(mut self) -> Result<(), Error> {
        self.joining.shutdown().await;
        let emptied = self.worker.shutdown().await;
        match self.manager.take() {
            Some(manager) => manager.stop(Serving::Nothing).await,
            None => drop(self.context.serving.send_replace(Serving::Nothing)),
        }
        self.stop.cancel();
        while self.renewing.join_next().await.is_some() {}
        Ok(emptied?)
    }
}

/// Ends the containers of a swarm that was not taken up, and forgets it.
pub async fn abandon(context: &Context) -> Result<(), Error> {
    let ended = end_containers(&*context.runtime).await;
    forget(context)?;
    Ok(ended?)
}

async fn end_containers(runtime: &dyn Runtime) -> Result<(), worker::runtime::Error> {
    for container in runtime.list().await? {
        runtime.remove(&container.id).await?;
        runtime.remove_logs(&container.id).await?;
    }
    Ok(())
}

/// Removes what makes this node part of a swarm; images stay.
pub fn forget(context: &Context) -> Result<(), Error> {
    // The certificate first: without it the rest counts as nothing.
    context.certificates.clear()?;
    record::remove(&context.settings.data_root)?;
    remove_dir(context.raft_dir())?;
    remove_dir(context.settings.data_root.join("worker"))
}

fn remove_dir(path: PathBuf) -> Result<(), Error> {
    match std::fs::remove_dir_all(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(Error::Forget { path, source }),
        _ => Ok(()),
    }
}

fn worker_config(
    context: &Context,
    record: &Record,
    credentials: &Credentials,
    managers: Vec<String>,
    tls: watch::Receiver<TlsInfo>,
) -> worker::Config {
    worker::Config {
        node_id: credentials.current().identity().subject().node.clone(),
        hostname: context.settings.hostname.clone(),
        labels: Default::default(),
        dial: Arc::new(Peers(Dialer::new(credentials.clone()))),
        managers,
        tls,
        runtime: context.runtime.clone(),
        kernel: context.netdriver.clone(),
        data_root: context.settings.data_root.clone(),
        data_path_addr: data_path(record, credentials.current().identity().subject().role),
        parallel_starts: worker::PARALLEL_STARTS,
    }
}

/// None: where the node reaches its manager from. Managers are known to each other by their addresses, so theirs stay.
fn data_path(record: &Record, role: Role) -> Option<IpAddr> {
    let fixed = (!record.follows || role == Role::Manager).then_some(record.advertise.ip());
    record.data_path.or(fixed)
}

/// A manager's worker speaks with its own node first.
fn first_managers(record: &Record, is_manager: bool) -> Vec<String> {
    let own = is_manager.then(|| record.advertise.to_string());
    own.into_iter().chain(record.managers.iter().cloned()).collect()
}

/// `own`: of a manager, which comes first.
fn manager_addrs(session: &SessionView, own: Option<SocketAddr>) -> Vec<String> {
    let own = own.map(|addr| addr.to_string());
    let others = session.managers.iter().filter(|addr| own.as_ref() != Some(*addr)).cloned();
    own.iter().cloned().chain(others).collect()
}

fn count(view: &raft_store::View, which: impl Fn(&proto::model::Node) -> bool) -> u64 {
    u64::try_from(view.nodes().filter(|node| which(node)).count()).unwrap_or(u64::MAX)
}
