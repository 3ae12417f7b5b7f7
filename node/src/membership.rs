//! Whether this node belongs to a swarm, and the changes of that: init, join, leave.
//!
//! One actor owns the answer, so that two clients cannot form two swarms at once; everybody else reads its status.
//!
//! Invariant: what a client was told is on disk, and a step that fails leaves the node as it was before; but for a join
//! that only waits for the other managers, which says so.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use identity::UnlockKey;
use proto::local::info_response::State;
use proto::local::{InitRequest, JoinRequest};
use proto::model::{ClusterId, NodeId, Role};
use raft_store::Store;
use raft_store::backup::Backup;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use worker::network::Networks;

use crate::error::{Error, chain};
use crate::gate::Serving;
use crate::swarm::{Context, Outcome, Restoration, Swarm};

/// Requests that wait for the one before them.
const QUEUE: usize = 16;

/// What others may know at any time, also while the node is joining.
#[derive(Clone, Debug, Default)]
pub struct Status {
    pub state: State,
    pub error: String,
    pub node_id: Option<NodeId>,
    pub cluster_id: Option<ClusterId>,
    pub cluster_created_at: Option<SystemTime>,
    pub advertise: Option<SocketAddr>,
    /// The node serves the operator's API.
    pub manager: bool,
    pub managers: Vec<String>,
    pub manager_count: u64,
    pub node_count: u64,
    pub tasks_running: u64,
    pub network_mended: u64,
    /// What does not work of the node's part in the swarm, a line each.
    pub warnings: Vec<String>,
}

type Reply<T> = oneshot::Sender<Result<T, Error>>;

enum Command {
    Init(Box<InitRequest>, Reply<NodeId>),
    Join(Box<JoinRequest>, Reply<(NodeId, Role)>),
    Unlock(UnlockKey, Reply<()>),
    Restore(Box<(Restoration, Backup)>, Reply<NodeId>),
    Leave { force: bool, reply: Reply<()> },
}

/// The handle by which the actor is asked.
#[derive(Clone)]
pub struct Membership {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<Arc<StatusSource>>,
}

/// Where the status comes from: nothing, a transition, or a swarm that is running.
#[derive(Default)]
pub enum StatusSource {
    #[default]
    Inactive,
    Pending,
    /// The node was in a swarm and takes no part in it: the swarm on disk could not be taken up, or waits for its unlock
    /// key, or removed the node.
    Broken(Box<Status>),
    Active {
        read: Box<dyn Fn() -> Status + Send + Sync>,
        /// The replica of a manager.
        store: Box<dyn Fn() -> Option<Store> + Send + Sync>,
        networks: Networks,
    },
}

impl StatusSource {
    fn is_locked(&self) -> bool {
        matches!(self, Self::Broken(status) if status.state == State::Locked)
    }
}

impl Membership {
    pub async fn init(&self, request: InitRequest) -> Result<NodeId, Error> {
        self.ask(|reply| Command::Init(Box::new(request), reply)).await
    }

    pub async fn join(&self, request: JoinRequest) -> Result<(NodeId, Role), Error> {
        self.ask(|reply| Command::Join(Box::new(request), reply)).await
    }

    pub async fn unlock(&self, key: UnlockKey) -> Result<(), Error> {
        self.ask(|reply| Command::Unlock(key, reply)).await
    }

    /// Makes a swarm of what the backup holds.
    pub async fn restore(&self, how: Restoration, backup: Backup) -> Result<NodeId, Error> {
        self.ask(|reply| Command::Restore(Box::new((how, backup)), reply)).await
    }

    pub async fn leave(&self, force: bool) -> Result<(), Error> {
        self.ask(|reply| Command::Leave { force, reply }).await
    }

    pub fn status(&self) -> Status {
        match self.status.borrow().as_ref() {
            StatusSource::Inactive => Status::default(),
            StatusSource::Pending => Status { state: State::Pending, ..Status::default() },
            StatusSource::Broken(status) => Status::clone(status),
            StatusSource::Active { read, .. } => read(),
        }
    }

    /// The replica of the manager on this node.
    pub fn store(&self) -> Result<Store, Error> {
        match self.status.borrow().as_ref() {
            StatusSource::Active { store, .. } => store().ok_or(Error::NoManager),
            _ => Err(Error::NotAMember),
        }
    }

    /// The node's network, while it takes part in a swarm.
    pub fn networks(&self) -> Result<Networks, Error> {
        match self.status.borrow().as_ref() {
            StatusSource::Active { networks, .. } => Ok(networks.clone()),
            source if source.is_locked() => Err(Error::Locked),
            _ => Err(Error::NotAMember),
        }
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| Error::Stopping)?;
        answer.await.map_err(|_| Error::Stopping)?
    }
}

/// Owns the swarm that this node belongs to, if any.
pub struct Actor {
    context: Arc<Context>,
    swarm: Option<Swarm>,
    commands: mpsc::Receiver<Command>,
    status: watch::Sender<Arc<StatusSource>>,
}

impl Actor {
    pub fn new(context: Arc<Context>) -> (Self, Membership) {
        let (commands, queue) = mpsc::channel(QUEUE);
        let (status, reader) = watch::channel(Arc::default());
        let actor = Self { context, swarm: None, commands: queue, status };
        (actor, Membership { commands, status: reader })
    }

    /// Serves requests and follows the swarm until stopped, also in the middle of a step: each can be taken up again.
    pub async fn run(mut self, stop: CancellationToken) {
        while stop.run_until_cancelled(Box::pin(self.step())).await.is_some() {}
        if let Some(swarm) = self.swarm.take() {
            swarm.stop().await;
        }
    }

    async fn step(&mut self) {
        tokio::select! {
            Some(command) = self.commands.recv() => self.handle(command).await,
            () = changed(&mut self.swarm) => self.follow().await,
        }
    }

    /// Takes up the swarm that the node belonged to before, as far as that goes now. Called before anything is asked.
    pub async fn resume(&mut self) {
        self.context.serving.send_replace(Serving::Starting);
        match Swarm::resume(&self.context).await {
            Ok(Some(swarm)) => self.swarm.insert(swarm).current().await,
            Ok(None) => drop(self.context.serving.send_replace(Serving::Nothing)),
            Err(Error::Locked) => return self.be_locked(),
            Err(error) => {
                let error = chain(&error);
                tracing::error!(error, "cannot take up the swarm again");
                self.context.serving.send_replace(Serving::Failing(error.clone()));
                self.fall_out(Status { error, ..Status::default() });
                return;
            }
        }
        self.publish();
    }

    /// Who the node is stands in its certificate, which is never sealed.
    fn be_locked(&self) {
        tracing::warn!("{}", Error::Locked);
        self.context.serving.send_replace(Serving::Locked);
        let certificate = self.context.certificates.certificate().ok().flatten();
        let subject = certificate.map(|certificate| certificate.subject().clone());
        self.fall_out(Status {
            state: State::Locked,
            error: Error::Locked.to_string(),
            node_id: subject.as_ref().map(|subject| subject.node.clone()),
            cluster_id: subject.map(|subject| subject.cluster),
            ..Status::default()
        });
    }

    async fn unlock(&mut self, key: &UnlockKey) -> Result<(), Error> {
        if !self.status.borrow().is_locked() {
            return Err(if self.swarm.is_some() { Error::NotLocked } else { Error::NotAMember });
        }
        self.context.certificates.unlock(key)?;
        tracing::info!("this manager was unlocked");
        self.resume().await;
        match self.status.borrow().as_ref() {
            StatusSource::Broken(status) => Err(Error::Unresumed(status.error.clone())),
            _ => Ok(()),
        }
    }

    async fn follow(&mut self) {
        let Some(swarm) = &mut self.swarm else { return };
        if swarm.follow().await == Outcome::Removed {
            self.be_removed().await;
        }
    }

    /// Its addresses are others' now, so no task may go on.
    async fn be_removed(&mut self) {
        let Some(swarm) = self.swarm.take() else { return };
        let error = chain(&Error::Removed);
        tracing::error!("{error}");
        self.fall_out(Status { error, node_id: Some(swarm.node_id()), ..Status::default() });
        if let Err(error) = swarm.dismiss().await {
            tracing::error!(error = chain(&error), "cannot end all that the swarm had running here");
        }
    }

    fn fall_out(&self, status: Status) {
        let state = if status.state == State::Inactive { State::Error } else { status.state };
        let status = Status { state, ..status };
        self.status.send_replace(Arc::new(StatusSource::Broken(Box::new(status))));
    }

    async fn handle(&mut self, command: Command) {
        // A client that has gone does not change what was done.
        match command {
            Command::Init(request, reply) => drop(reply.send(self.init(*request).await)),
            Command::Join(request, reply) => drop(reply.send(self.join(*request).await)),
            Command::Unlock(key, reply) => drop(reply.send(self.unlock(&key).await)),
            Command::Restore(what, reply) => drop(reply.send(self.restore(*what).await)),
            Command::Leave { force, reply } => drop(reply.send(self.leave(force).await)),
        }
    }

    async fn init(&mut self, request: InitRequest) -> Result<NodeId, Error> {
        if request.force_new_cluster {
            let is_locked = self.status.borrow().is_locked();
            let none = if is_locked { Error::Locked } else { Error::NotAMember };
            let swarm = self.swarm.as_mut().ok_or(none)?;
            let refounded = swarm.refound(&request).await;
            self.publish();
            return refounded;
        }
        self.must_be_free()?;
        let started = Swarm::init(&self.context, request).await;
        self.settle(started).map(|swarm| swarm.node_id())
    }

    async fn join(&mut self, request: JoinRequest) -> Result<(NodeId, Role), Error> {
        self.must_be_free()?;
        let started = Swarm::join(&self.context, request).await;
        let swarm = self.settle(started)?;
        match swarm.problem() {
            None => Ok((swarm.node_id(), swarm.role())),
            Some(reason) => Err(Error::NotYetManager { reason }),
        }
    }

    async fn restore(&mut self, (how, backup): (Restoration, Backup)) -> Result<NodeId, Error> {
        self.must_be_free()?;
        let started = Swarm::restore(&self.context, how, backup).await;
        self.settle(started).map(|swarm| swarm.node_id())
    }

    async fn leave(&mut self, force: bool) -> Result<(), Error> {
        let broken = matches!(**self.status.borrow(), StatusSource::Broken(_));
        match &self.swarm {
            Some(swarm) if swarm.role() == Role::Manager && !force => return Err(Error::ManagerLeaves),
            None if !broken => return Err(Error::NotAMember),
            None if self.status.borrow().is_locked() && !force => return Err(Error::Locked),
            _ => {}
        }
        let left = match self.swarm.take() {
            Some(swarm) => swarm.leave().await,
            None => crate::swarm::abandon(&self.context).await,
        };
        self.context.serving.send_replace(Serving::Nothing);
        self.publish();
        left
    }

    fn must_be_free(&self) -> Result<(), Error> {
        let broken = matches!(**self.status.borrow(), StatusSource::Broken(_));
        if self.swarm.is_some() || broken {
            return Err(Error::AlreadyAMember);
        }
        self.status.send_replace(Arc::new(StatusSource::Pending));
        Ok(())
    }

    fn settle(&mut self, started: Result<Swarm, Error>) -> Result<&Swarm, Error> {
        let result = started.map(|swarm| &*self.swarm.insert(swarm));
        let source = result.as_ref().map(|swarm| swarm.status_source()).unwrap_or_default();
        self.status.send_replace(Arc::new(source));
        result
    }

    fn publish(&self) {
        let source = self.swarm.as_ref().map(Swarm::status_source).unwrap_or_default();
        self.status.send_replace(Arc::new(source));
    }
}

/// Resolves when the swarm wants to be looked at; never without one.
async fn changed(swarm: &mut Option<Swarm>) {
    match swarm {
        Some(swarm) => swarm.changed().await,
        None => std::future::pending().await,
    }
}
