//! What every node runs: the session with a manager, the tasks, their containers and networks.
//!
//! Decides nothing about where tasks run; managers do. What it was told survives the loss of every manager and a
//! restart of this process: tasks go on as they are, and what became of them is told to the next manager.

pub mod agent;
mod backoff;
pub mod description;
mod diagnosis;
mod dns;
mod logpublish;
pub mod logs;
pub mod network;
mod resolv_conf;
pub mod runtime;
mod task;
mod timed;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proto::model::{NetworkId, NodeId, TaskState, TlsInfo};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use agent::{Dial, SessionView, Whereabouts};

use agent::db::{Change, Database, Remembered};
use agent::drains::Drains;
use agent::statuses::Statuses;
use agent::{Agent, Finder, Parts};
use description::Facts;
use logpublish::LogPublisher;
use network::{Keeper, Kernel, Networks, Underlay, Wish};
use runtime::Runtime;
use task::{Instruction, Roster, Shared, Supervisor};

/// Instructions on the way to the supervisor.
const INSTRUCTIONS: usize = 16;
/// How long a leaving node waits for a manager to hear that its tasks have ended.
const FAREWELL: Duration = Duration::from_secs(3);
/// Containers that are made and started at once, unless configured.
pub const PARALLEL_STARTS: usize = 8;

pub struct Config {
    pub node_id: NodeId,
    pub hostname: String,
    /// Of the engine, as constraints see them.
    pub labels: BTreeMap<String, String>,
    pub dial: Arc<dyn Dial>,
    /// host:port of managers, for a node that remembers none.
    pub managers: Vec<String>,
    pub runtime: Arc<dyn Runtime>,
    pub kernel: Arc<dyn Kernel>,
    /// The local database is `<data_root>/worker/tasks.db`.
    pub data_root: PathBuf,
    /// This node's tunnel end point; none: the address from which it reaches its manager, as long as it is that.
    pub data_path_addr: Option<IpAddr>,
    /// What the node trusts and who has issued its certificate: told to managers, anew when it changes.
    pub tls: watch::Receiver<TlsInfo>,
    pub parallel_starts: usize,
}

impl Config {
    fn facts(&self) -> Arc<Facts> {
        let lacks = self.kernel.lacks_for_encryption();
        let description =
            description::describe(&self.hostname, self.labels.clone(), self.data_path_addr, lacks);
        Arc::new(Facts::new(self.node_id.clone(), description))
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open the worker's state")]
    Database(#[from] agent::db::Error),
    #[error("cannot remove the node's networks")]
    Network(#[from] network::Error),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    pub tasks: usize,
    pub tasks_running: usize,
    /// Changes that audits of the node's network had to make.
    pub network_mended: u64,
}

/// The worker of this node. Dropping it without [`stop`](Worker::stop) leaves its parts running.
pub struct Worker {
    session: watch::Receiver<SessionView>,
    whereabouts: watch::Receiver<Whereabouts>,
    roster: watch::Receiver<Roster>,
    statuses: Statuses,
    networks: Networks,
    drains: Drains,
    database: Database,
    instructions: mpsc::Sender<Instruction>,
    tracker: TaskTracker,
    /// Ends the session alone.
    stop_agent: CancellationToken,
    /// Ends everything.
    stop: CancellationToken,
    writer: JoinHandle<()>,
}

impl Worker {
    /// Adopts what runs on this node and begins to look for a manager. Returns at once; must be called within a tokio
    /// runtime.
    pub fn start(config: Config) -> Result<Self, Error> {
        let (database, remembered, writer) = Database::open(&config.data_root.join("worker"))?;
        let facts = config.facts();
        let stop = CancellationToken::new();
        let underlay = remembered.underlay.as_deref().and_then(Underlay::parse);
        let keeper = keeper(&database, &remembered);
        let (networks, network) =
            Networks::new(config.kernel.clone(), config.node_id.clone(), underlay, keeper, stop.clone());
        let (roster_told, roster) = watch::channel(Roster::new());
        let (instructions, followed) = mpsc::channel(INSTRUCTIONS);
        let (view, session) = watch::channel(SessionView::default());
        let (found, whereabouts) = watch::channel(Whereabouts::default());
        let worker = Self {
            session,
            whereabouts,
            roster,
            statuses: Statuses::default(),
            networks,
            drains: Drains::default(),
            database,
            instructions,
            tracker: TaskTracker::new(),
            stop_agent: stop.child_token(),
            stop,
            writer,
        };
        let supervisor = Supervisor::new(worker.shared(&config, facts.clone()), roster_told);
        let agent =
            Agent::new(worker.parts(&config, facts, found), remembered.managers, &config.managers, view);
        let (adopted, ready) = oneshot::channel();
        let supervising = supervisor.run(remembered.tasks, followed, adopted, worker.stop.clone());
        worker.tracker.spawn(network);
        worker.tracker.spawn(supervising);
        worker.tracker.spawn(run_agent(agent, ready, worker.stop_agent.clone()));
        Ok(worker)
    }

    fn shared(&self, config: &Config, facts: Arc<Facts>) -> Shared {
        Shared {
            runtime: config.runtime.clone(),
            networks: self.networks.clone(),
            drains: self.drains.clone(),
            statuses: self.statuses.clone(),
            database: self.database.clone(),
            facts,
            starts: Arc::new(Semaphore::new(config.parallel_starts.max(1))),
        }
    }

    fn parts(&self, config: &Config, facts: Arc<Facts>, found: watch::Sender<Whereabouts>) -> Parts {
        let logs = LogPublisher {
            node: config.node_id.clone(),
            runtime: config.runtime.clone(),
            roster: self.roster.clone(),
        };
        Parts {
            dial: config.dial.clone(),
            facts,
            finder: Finder::new(config.data_path_addr, config.kernel.clone(), found),
            statuses: self.statuses.clone(),
            instructions: self.instructions.clone(),
            networks: self.networks.clone(),
            drains: self.drains.clone(),
            logs,
            tls: config.tls.clone(),
            database: self.database.clone(),
        }
    }

    /// What the managers tell of this node and of themselves.
    pub fn session(&self) -> watch::Receiver<SessionView> {
        self.session.clone()
    }

    /// Where this node's tunnels end.
    pub fn whereabouts(&self) -> watch::Receiver<Whereabouts> {
        self.whereabouts.clone()
    }

    pub fn stats(&self) -> Stats {
        self.stats_reader()()
    }

    /// Reads the figures at any later time, for whoever does not own the worker.
    pub fn stats_reader(&self) -> impl Fn() -> Stats + Send + Sync + use<> {
        let (roster, statuses, networks) =
            (self.roster.clone(), self.statuses.clone(), self.networks.clone());
        move || Stats {
            tasks: roster.borrow().len(),
            tasks_running: statuses.count(TaskState::Running),
            network_mended: networks.mended(),
        }
    }

    /// Looks at the node's network, for whoever does not own the worker.
    pub fn networks(&self) -> Networks {
        self.networks.clone()
    }

    /// Ends the worker and leaves its tasks as they are, for the next start to adopt.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
        let Self { database, instructions, networks, writer, .. } = self;
        drop((database, instructions, networks));
        // It ends when everything is written.
        let _ = writer.await;
    }

    /// Ends all tasks, tells a manager if one is there, and removes every trace of them, for a node that leaves.
    /// Takes as long as the tasks' grace periods and the runtime need; the caller bounds it.
    pub async fn shutdown(self) -> Result<(), Error> {
        // The supervisor ends only with `stop`, which is called last.
        let _ = self.instructions.send(Instruction::StopAll).await;
        self.statuses.all_ended().await;
        let _ = tokio::time::timeout(FAREWELL, self.statuses.all_told()).await;
        self.stop_agent.cancel();
        let (emptied, empty) = oneshot::channel();
        let _ = self.instructions.send(Instruction::RemoveAll(emptied)).await;
        let _ = empty.await;
        let cleared = self.networks.clear().await;
        let forgotten = self.database.write(vec![Change::Clear]).await;
        self.stop().await;
        cleared?;
        forgotten?;
        Ok(())
    }
}

/// Keeps the directory in the database, of the networks of the tasks that are there.
fn keeper(database: &Database, remembered: &Remembered) -> Keeper {
    let wishes = remembered.tasks.iter().filter_map(|(task, _)| Wish::read(task).ok());
    let needed: BTreeSet<NetworkId> =
        wishes.flat_map(|wish| wish.networks().cloned().collect::<Vec<_>>()).collect();
    let database = database.clone();
    let write = move |writes| {
        let database = database.clone();
        async move { database.write(vec![Change::Directory(writes)]).await }
    };
    Keeper::new(&remembered.directory, |network| needed.contains(network), write)
}

/// A node that cannot see its containers yet must not promise anything: the agent waits for `ready`.
async fn run_agent(agent: Agent, ready: oneshot::Receiver<()>, stop: CancellationToken) {
    if let Some(Ok(())) = stop.run_until_cancelled(ready).await {
        agent.run(stop).await;
    }
}
