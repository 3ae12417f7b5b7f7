//! The sessions of the nodes that chose this manager: assignments go down, task status and heartbeats come up.
//!
//! Decides what a node is told and what of its reports is believed. Which tasks a node gets is the scheduler's; that a
//! silent node is down is decided by `liveness`, on the leader.
//!
//! Invariant: a node learns of its own tasks only, and can change the status of its own tasks only, forwards only.

mod assignments;
mod messages;
mod session;
mod sessions;
mod status;
#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use proto::model::DispatcherConfig;
use proto::wire::{
    self, AssignmentsMessage, AssignmentsRequest, HeartbeatRequest, HeartbeatResponse, SessionMessage,
    SessionRequest, UpdateTaskStatusRequest, UpdateTaskStatusResponse,
};
use raft_store::{Store, Tables};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::fanout::{Hub, Pace};
use crate::liveness::Liveness;
use crate::managers::Managers;
use crate::peers;

pub use sessions::Sessions;

/// Changes that follow each other within this time are sent together.
const WINDOW: Duration = Duration::from_millis(25);
/// Heartbeats come up to this much earlier than the period, so that nodes do not beat in step.
const JITTER: f64 = 0.2;

pub struct Dispatcher {
    store: Store,
    sessions: Arc<Sessions>,
    liveness: Arc<Liveness>,
    about_nodes: Arc<Hub<session::Marks>>,
    about_tasks: Arc<Hub<assignments::Marks>>,
    reports: status::Reports,
}

/// What has to run while the dispatcher serves.
pub struct Driver {
    sessions: Arc<Sessions>,
    liveness: Arc<Liveness>,
    about_nodes: Arc<Hub<session::Marks>>,
    about_tasks: Arc<Hub<assignments::Marks>>,
    writer: status::Writer,
}

impl Dispatcher {
    pub fn new(store: Store, sessions: Arc<Sessions>, liveness: Arc<Liveness>) -> (Self, Driver) {
        let (reports, writer) = status::channel(store.clone());
        let about_nodes = Hub::new(store.clone());
        let about_tasks = Hub::new(store.clone());
        let driver = Driver {
            sessions: Arc::clone(&sessions),
            liveness: Arc::clone(&liveness),
            about_nodes: Arc::clone(&about_nodes),
            about_tasks: Arc::clone(&about_tasks),
            writer,
        };
        (Self { store, sessions, liveness, about_nodes, about_tasks, reports }, driver)
    }
}

impl Driver {
    pub async fn run(self, cancel: &CancellationToken) {
        tokio::join!(
            self.about_nodes.run(cancel),
            self.about_tasks.run(cancel),
            cancel.run_until_cancelled(self.writer.run()),
            cancel.run_until_cancelled(follow_reach(&self.sessions, &self.liveness)),
        );
        self.sessions.close("the manager is stopping");
    }
}

/// What is told to a manager that does not reach the leader counts for nothing: its nodes must go to another one before
/// they are taken for dead. That is also how the node of a manager that was removed hears of it.
async fn follow_reach(sessions: &Sessions, liveness: &Liveness) {
    let mut reaches = liveness.reaches_leader();
    loop {
        match *reaches.borrow_and_update() {
            true => sessions.reopen(),
            false => sessions.close("this manager does not reach the leader"),
        }
        if reaches.changed().await.is_err() {
            return;
        }
    }
}

pub fn heartbeat_period(tables: &Tables) -> Duration {
    let default = DispatcherConfig::default().heartbeat_period;
    tables.cluster().map_or(default, |cluster| cluster.spec.dispatcher.heartbeat_period)
}

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl wire::dispatcher_server::Dispatcher for Dispatcher {
    type SessionStream = Messages<SessionMessage>;
    type AssignmentsStream = Messages<AssignmentsMessage>;

    async fn session(
        &self,
        request: Request<SessionRequest>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let node = peers::node_id(&request)?;
        let addr = peers::remote_ip(&request);
        let description = session::description(request.into_inner())?;
        let session = self.sessions.open(node.clone(), tokio::time::Instant::now())?;
        // Before the node is ready, else the leader might still judge it by an old heartbeat.
        self.liveness.heard(&node);
        session::register(&self.store, &session, &description, addr).await?;
        tracing::info!(%node, session = session.id(), "a node has opened a session");
        let marks = self.about_nodes.subscribe(node, session::Marks);
        Ok(Response::new(Box::pin(messages::stream(session, marks, Managers::of(&self.store)))))
    }

    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        let node = peers::node_id(&request)?;
        self.sessions.find(&node, &request.get_ref().session_id)?;
        self.liveness.heard(&node);
        let early = 1.0 - rand::random::<f64>() * JITTER;
        let period = heartbeat_period(&self.store.view()).mul_f64(early);
        Ok(Response::new(HeartbeatResponse { period: prost_types::Duration::try_from(period).ok() }))
    }

    async fn update_task_status(
        &self,
        request: Request<UpdateTaskStatusRequest>,
    ) -> Result<Response<UpdateTaskStatusResponse>, Status> {
        let node = peers::node_id(&request)?;
        let UpdateTaskStatusRequest { session_id, updates } = request.into_inner();
        self.sessions.find(&node, &session_id)?;
        let updates = status::read(&self.store.view(), &node, updates)?;
        self.reports.write(node, updates).await?;
        Ok(Response::new(UpdateTaskStatusResponse {}))
    }

    async fn assignments(
        &self,
        request: Request<AssignmentsRequest>,
    ) -> Result<Response<Self::AssignmentsStream>, Status> {
        let node = peers::node_id(&request)?;
        let ended = self.sessions.find(&node, &request.get_ref().session_id)?;
        let subscription = self.about_tasks.subscribe(node.clone(), assignments::Marks::default());
        Ok(Response::new(Box::pin(assignments::stream(node, subscription, Pace::new(WINDOW), ended))))
    }
}
