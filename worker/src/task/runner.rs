//! Drives one task of this node from its assignment to the moment when nothing is left of it.
//!
//! Decides nothing about the order of things: `step` does. Here actions are carried out, failures of the moment
//! are tried again, and waiting ends when something else is wanted. Dropping the runner leaves the container as it
//! is; a later process finds it again.

mod checkup;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proto::model::{ContainerStatus, TaskId, TaskState, TaskStatus};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::assigned::{Assigned, Order};
use super::prepare::{self, Prepared};
use super::probing::Probing;
use super::step::{Container, Ending, Failure, Health, Seen, Step, step};
use crate::agent::db::{Change, Database};
use crate::agent::drains::Drains;
use crate::agent::statuses::Statuses;
use crate::backoff::Backoff;
use crate::description::Facts;
use crate::network::Networks;
use crate::runtime::{self, Exit, Runtime, Status, Verdict};
use crate::timed::timed;

/// Docker's default for `--stop-grace-period`.
const GRACE: Duration = Duration::from_secs(10);
const RETRY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(15));

/// What all runners of a node share.
#[derive(Clone)]
pub struct Shared {
    pub runtime: Arc<dyn Runtime>,
    pub networks: Networks,
    pub drains: Drains,
    pub statuses: Statuses,
    pub database: Database,
    pub facts: Arc<Facts>,
    /// Bounds the containers that are made and started at once.
    pub starts: Arc<Semaphore>,
}

pub struct Runner {
    shared: Shared,
    assigned: Assigned,
    orders: watch::Receiver<Order>,
    seen: Seen,
    /// Held from making the container until it runs, so that a node under load finishes what it began.
    permit: Option<OwnedSemaphorePermit>,
    /// Of a container with a health check, once it runs.
    probing: Option<Probing>,
    /// When it came into its state.
    since: SystemTime,
}

impl Runner {
    pub fn new(shared: Shared, assigned: Assigned, orders: watch::Receiver<Order>, seen: Seen) -> Self {
        Self { shared, assigned, orders, seen, permit: None, probing: None, since: SystemTime::now() }
    }

    /// Runs until the task is no longer assigned and nothing is left of it.
    pub async fn run(mut self) -> TaskId {
        loop {
            let order = *self.orders.borrow_and_update();
            let next = step(order, &self.seen);
            tracing::debug!(task = %self.id(), step = ?next, "next step");
            failpoint::reached(format_args!("task: {next:?}"));
            if !matches!(next, Step::Report(_) | Step::Prepare | Step::Start) {
                self.permit = None;
            }
            match next {
                Step::Report(state) => self.report(state).await,
                Step::Prepare => self.prepare().await,
                Step::Start => self.start().await,
                Step::Examine => self.examine().await,
                Step::Watch => self.watch().await,
                Step::Hold => self.changed().await,
                Step::Stop => self.stop().await,
                Step::Detach => self.detach().await,
                Step::End(ending) => self.end(ending).await,
                Step::Clean => self.clean().await,
                Step::Forget => {
                    self.forget().await;
                    return self.assigned.task.id;
                }
            }
        }
    }

    fn id(&self) -> &TaskId {
        self.assigned.id()
    }

    async fn prepare(&mut self) {
        (self.seen.network, self.seen.remains) = (true, true);
        let mut orders = self.orders.clone();
        let prepared = tokio::select! {
            prepared = prepare::prepare(&self.shared, &self.assigned) => prepared,
            () = ended(&mut orders) => return,
        };
        match prepared {
            Ok(Prepared { permit }) => {
                self.permit = permit;
                self.seen.container = Container::Created;
            }
            Err(failure) => self.seen.failure = Some(failure),
        }
    }

    async fn start(&mut self) {
        if self.permit.is_none() {
            let mut orders = self.orders.clone();
            tokio::select! {
                permit = timed(self.assigned.id().as_str(), "turn", prepare::permit(&self.shared)) => {
                    self.permit = permit;
                }
                () = ended(&mut orders) => return,
            }
        }
        match self.start_once().await {
            Ok((container, health)) => (self.seen.container, self.seen.health) = (container, health),
            // It may run all the same, so it is stopped before anything else.
            Err(failure) => self.seen.failure = Some(failure),
        }
    }

    async fn start_once(&mut self) -> Result<(Container, Health), Failure> {
        self.tell(TaskState::Starting);
        let status = Box::new(self.status(TaskState::Starting));
        let mark = self.shared.database.write(vec![Change::Status(self.id().clone(), status)]);
        // The mark is for the case that the container disappears: as long as it exists, it tells for itself.
        let id = self.id().as_str();
        let (started, marked) =
            tokio::join!(timed(id, "start", self.start_surely()), timed(id, "mark", mark));
        if let Err(error) = marked {
            tracing::error!(task = %self.id(), %error, "cannot note the start of the task");
        }
        started
    }

    /// An order to end waits for the attempt that is under way: containerd may lose the shim of one that is broken
    /// off.
    async fn start_surely(&self) -> Result<(Container, Health), Failure> {
        let unknown = Health::Unknown { served: false, started: Some(self.since) };
        let mut backoff = RETRY;
        loop {
            match self.shared.runtime.start(self.id().as_str()).await {
                Ok(started) => {
                    let health = if started.is_checked { unknown } else { Health::Good };
                    return Ok((Container::Running { pid: started.pid }, health));
                }
                Err(error) => self.after_failed_start(error, &mut backoff).await?,
            }
            // The answer may have been lost and not the start.
            match self.inspect().await {
                Container::Created if !self.orders.borrow().ends() => {}
                container => return Ok((container, unknown)),
            }
        }
    }

    async fn after_failed_start(&self, error: runtime::Error, backoff: &mut Backoff) -> Result<(), Failure> {
        let begun = matches!(error, runtime::Error::Exists { .. });
        match error.verdict() {
            Verdict::Retry => {
                let mut orders = self.orders.clone();
                tokio::select! {
                    () = tokio::time::sleep(backoff.delay(rand::random())) => {}
                    () = ended(&mut orders) => {}
                }
            }
            _ if begun => {}
            Verdict::Reject => return Err(Failure::rejected(error.report())),
            Verdict::Fail => return Err(Failure::failed(error.report())),
        }
        Ok(())
    }

    /// What the runtime knows of the container, as soon as it can be asked.
    async fn inspect(&self) -> Container {
        let mut backoff = RETRY;
        loop {
            match self.shared.runtime.inspect(self.id().as_str()).await {
                Ok(None) => return Container::Absent,
                Ok(Some(container)) => return container.status.into(),
                Err(error) => {
                    tracing::warn!(task = %self.id(), error = error.report(), "cannot ask for the container");
                    tokio::time::sleep(backoff.delay(rand::random())).await;
                }
            }
        }
    }

    async fn watch(&mut self) {
        let mut probing = self.probing.take();
        let exit = tokio::select! {
            exit = self.exit() => Some(exit),
            () = self.changed() => None,
            () = self.probe(probing.as_mut()) => None,
        };
        self.probing = probing;
        match exit {
            Some(Ok(exit)) => self.seen.container = Container::Exited(exit),
            Some(Err(failure)) => {
                (self.seen.container, self.seen.failure) = (Container::Absent, Some(failure));
            }
            None => self.heed_health(),
        }
    }

    async fn exit(&self) -> Result<Exit, Failure> {
        let mut backoff = RETRY;
        loop {
            let died = |exit: &Exit| self.tell_death(exit);
            match self.shared.runtime.watch(self.id().as_str(), &died).await {
                Ok(exit) => return Ok(exit),
                Err(runtime::Error::NoSuchContainer { .. }) => {
                    return Err(Failure::failed("task: its container was removed by somebody else"));
                }
                Err(error) => {
                    tracing::warn!(task = %self.id(), error = error.report(), "cannot wait for the container");
                    tokio::time::sleep(backoff.delay(rand::random())).await;
                }
            }
        }
    }

    /// Nobody is to call it from now on. That it has ended is told when its network is gone.
    fn tell_death(&self, exit: &Exit) {
        let called = self.seen.state == TaskState::Running && !self.assigned.wish.places.is_empty();
        if called && !self.orders.borrow().ends() {
            let mut status = self.status(self.seen.state);
            status.timestamp = self.since;
            if let Some(container) = &mut status.container {
                (container.pid, container.exit_code) = (0, exit_code(exit));
            }
            self.shared.statuses.report(self.id(), status);
        }
    }

    /// Resolves once another order came.
    async fn changed(&self) {
        if self.orders.clone().changed().await.is_err() {
            // The supervisor drops its runners together with their orders.
            std::future::pending::<()>().await;
        }
    }

    async fn stop(&mut self) {
        if self.may_be_called() {
            tokio::select! {
                () = timed(self.id().as_str(), "drain", self.drain()) => {}
                _ = self.exit() => {}
            }
        }
        let mut backoff = RETRY;
        while let Err(error) = self.shared.runtime.stop(self.id().as_str(), None, self.grace()).await {
            if matches!(error, runtime::Error::NoSuchContainer { .. }) {
                break;
            }
            tracing::warn!(task = %self.id(), error = error.report(), "cannot stop the container");
            tokio::time::sleep(backoff.delay(rand::random())).await;
        }
        self.seen.container = match self.inspect().await {
            // It was never started; and it will not be, since the order to end stays.
            Container::Created => Container::Absent,
            container => container,
        };
    }

    /// Whether others may send it new connections: it runs, and the managers still know of it.
    fn may_be_called(&self) -> bool {
        let known = !self.assigned.wish.places.is_empty() && !self.orders.borrow().remove;
        self.seen.may_be_called() && known
    }

    fn grace(&self) -> Duration {
        let grace = super::container::grace(&self.assigned.task.spec.container);
        grace.ok().flatten().unwrap_or(GRACE)
    }

    async fn detach(&mut self) {
        let mut backoff = RETRY;
        let (task, wish) = (self.id().clone(), self.assigned.wish.clone());
        while let Err(error) = self.shared.networks.detach(task.clone(), wish.clone()).await {
            tracing::warn!(%task, %error, "cannot take the task's network away");
            tokio::time::sleep(backoff.delay(rand::random())).await;
        }
        self.seen.network = false;
    }

    async fn end(&mut self, ending: Ending) {
        let status = self.final_status(ending);
        let state = status.state;
        self.shared.statuses.report(self.id(), status.clone());
        // Before the container goes, which else would tell how it ended.
        let change = vec![Change::Status(self.id().clone(), Box::new(status))];
        if let Err(error) = self.shared.database.write(change).await {
            tracing::error!(task = %self.id(), %error, "cannot note the end of the task");
        }
        self.seen.state = state;
    }

    async fn clean(&mut self) {
        let mut backoff = RETRY;
        while let Err(error) = self.shared.runtime.remove(self.id().as_str()).await {
            tracing::warn!(task = %self.id(), error = error.report(), "cannot remove the container");
            tokio::time::sleep(backoff.delay(rand::random())).await;
        }
        (self.seen.container, self.seen.remains) = (Container::Absent, false);
    }

    async fn forget(&self) {
        if let Err(error) = self.shared.runtime.remove_logs(self.id().as_str()).await {
            tracing::warn!(task = %self.id(), error = error.report(), "cannot remove the output");
        }
        if let Err(error) = self.shared.database.write(vec![Change::Remove(self.id().clone())]).await {
            tracing::error!(task = %self.id(), %error, "cannot forget the task");
        }
        self.shared.statuses.forget(self.id());
    }

    async fn report(&mut self, state: TaskState) {
        self.tell(state);
        if state == TaskState::Running && self.probing.is_some() {
            // Else the next process would take it for one whose check has never succeeded.
            let change = Change::Status(self.id().clone(), Box::new(self.status(state)));
            if let Err(error) = self.shared.database.write(vec![change]).await {
                tracing::error!(task = %self.id(), %error, "cannot note that the task is healthy");
            }
        }
    }

    fn tell(&mut self, state: TaskState) {
        let status = self.status(state);
        self.since = status.timestamp;
        self.shared.statuses.report(self.id(), status);
        self.seen.state = state;
    }

    /// Messages are Docker's.
    fn status(&self, state: TaskState) -> TaskStatus {
        let message = match state {
            TaskState::Ready => "prepared",
            TaskState::Running => "started",
            TaskState::Complete => "finished",
            other => other.name(),
        };
        let mut status = TaskStatus::new(state, message, SystemTime::now());
        let (pid, exit_code) = match &self.seen.container {
            Container::Absent => return status,
            Container::Created => (0, 0),
            Container::Running { pid } => (i32::try_from(*pid).unwrap_or(0), 0),
            Container::Exited(exit) => (0, exit_code(exit)),
        };
        let health = self.probing.as_ref().map(|probing| probing.health().clone());
        status.container =
            Some(ContainerStatus { container_id: self.id().to_string(), pid, exit_code, health });
        status
    }

    fn final_status(&self, ending: Ending) -> TaskStatus {
        let (state, message, err) = match ending {
            Ending::Exited(exit) if exit.code == 0 => (TaskState::Complete, "finished", String::new()),
            Ending::Exited(exit) => (TaskState::Failed, "started", describe(&exit)),
            Ending::Stopped(_) => (TaskState::Shutdown, "shutdown", String::new()),
            Ending::Failure(failure) if failure.rejected => (TaskState::Rejected, "preparing", failure.err),
            Ending::Failure(failure) if self.seen.state < TaskState::Running => {
                (TaskState::Failed, "starting", failure.err)
            }
            Ending::Failure(failure) => (TaskState::Failed, "started", failure.err),
        };
        TaskStatus { message: message.into(), err, ..self.status(state) }
    }
}

impl From<Status> for Container {
    fn from(status: Status) -> Self {
        match status {
            Status::Created => Self::Created,
            Status::Running { pid } => Self::Running { pid },
            Status::Exited(exit) => Self::Exited(exit),
        }
    }
}

fn exit_code(exit: &Exit) -> i32 {
    i32::try_from(exit.code).unwrap_or(i32::MAX)
}

fn describe(exit: &Exit) -> String {
    let cause = if exit.oom { ": out of memory" } else { "" };
    format!("task: non-zero exit ({}){cause}", exit.code)
}

/// Resolves once the task shall end.
async fn ended(orders: &mut watch::Receiver<Order>) {
    if orders.wait_for(|order| order.ends()).await.is_err() {
        std::future::pending::<()>().await;
    }
}
