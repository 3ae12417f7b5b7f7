//! Keeps one runner for each task of this node.
//!
//! Decides which tasks there are: those that the last complete set of a manager named, with the differences since,
//! and until a first set comes, those that the node remembers and finds running. What a task does is its runner's.
//!
//! Invariant: no two runners have the same task, and a runner is gone only when nothing is left of its task.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use proto::model::{ServiceId, TaskId, TaskState, TaskStatus};
use proto::wire;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::adopt::{self, Found, Told};
use super::assigned::{Assigned, Order};
use super::runner::{Runner, Shared};
use super::step::{Container, Seen};
use crate::agent::db::Change;
use crate::backoff::Backoff;
use crate::runtime::ContainerState;

const RETRY: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
/// Attempts to remove a container that belongs to nobody.
const STRAY_ATTEMPTS: u32 = 5;

pub enum Instruction {
    /// Everything that is assigned to this node.
    Complete(Vec<wire::Task>),
    Difference {
        update: Vec<wire::Task>,
        remove: Vec<TaskId>,
    },
    /// Ends all tasks; no further assignment counts.
    StopAll,
    /// Removes all tasks and answers when nothing is left of them.
    RemoveAll(oneshot::Sender<()>),
}

/// The tasks that this node has, with their services.
pub type Roster = BTreeMap<TaskId, ServiceId>;

pub struct Supervisor {
    shared: Shared,
    orders: BTreeMap<TaskId, watch::Sender<Order>>,
    /// Yields the task, if it was one, whose runner has nothing more to do.
    runners: JoinSet<Option<TaskId>>,
    dormant: BTreeMap<TaskId, (Assigned, Seen)>,
    unknown: BTreeMap<String, ContainerState>,
    /// Assigned again while what was before is still being removed.
    returning: BTreeMap<TaskId, Box<wire::Task>>,
    /// Not understood, and reported as rejected.
    refused: BTreeSet<TaskId>,
    /// A manager has named all tasks of this node.
    confirmed: bool,
    leaving: bool,
    emptied: Option<oneshot::Sender<()>>,
    roster: watch::Sender<Roster>,
}

impl Supervisor {
    pub fn new(shared: Shared, roster: watch::Sender<Roster>) -> Self {
        Self {
            shared,
            orders: BTreeMap::new(),
            runners: JoinSet::new(),
            dormant: BTreeMap::new(),
            unknown: BTreeMap::new(),
            returning: BTreeMap::new(),
            refused: BTreeSet::new(),
            confirmed: false,
            leaving: false,
            emptied: None,
            roster,
        }
    }

    /// Adopts what is there, says so, and then follows instructions until `stop`, which leaves containers as they
    /// are.
    pub async fn run(
        mut self,
        remembered: Vec<(wire::Task, Option<wire::TaskStatus>)>,
        mut instructions: mpsc::Receiver<Instruction>,
        adopted: oneshot::Sender<()>,
        stop: CancellationToken,
    ) {
        let work = async {
            self.adopt(remembered).await;
            // Nobody may wait for it.
            let _ = adopted.send(());
            loop {
                self.answer_emptied();
                tokio::select! {
                    instruction = instructions.recv() => match instruction {
                        Some(instruction) => self.follow(instruction).await,
                        None => return,
                    },
                    Some(ended) = self.runners.join_next() => self.ended(ended).await,
                }
            }
        };
        let _ = stop.run_until_cancelled(work).await;
        self.runners.shutdown().await;
    }

    async fn adopt(&mut self, remembered: Vec<(wire::Task, Option<wire::TaskStatus>)>) {
        for (task, status) in &remembered {
            // No manager may have heard yet how it ended.
            if let Some(Ok(status)) = status.clone().map(TaskStatus::try_from)
                && status.state.is_terminal()
            {
                self.shared.statuses.report(&task.id.as_str().into(), status);
            }
        }
        let boot_id = &self.shared.facts.boot_id;
        let Found { known, dormant, unknown } = adopt::find(remembered, self.containers().await, boot_id);
        (self.dormant, self.unknown) = (dormant, unknown);
        // All of them first: a network that one of them needs must not go with another.
        for (assigned, seen) in &known {
            self.keep_network(assigned, seen);
        }
        tracing::info!(tasks = known.len(), unconfirmed = self.dormant.len(), "found tasks of before");
        for (assigned, seen) in known {
            let order = assigned.order();
            self.start(assigned, seen, order);
        }
    }

    /// The containers of this node, as soon as the runtime can be asked.
    async fn containers(&self) -> Vec<ContainerState> {
        let mut backoff = RETRY;
        loop {
            match self.shared.runtime.list().await {
                Ok(containers) => return containers,
                Err(error) => {
                    tracing::warn!(error = error.report(), "cannot list containers");
                    tokio::time::sleep(backoff.delay(rand::random())).await;
                }
            }
        }
    }

    async fn follow(&mut self, instruction: Instruction) {
        match instruction {
            Instruction::Complete(_) | Instruction::Difference { .. } if self.leaving => {}
            Instruction::Complete(tasks) => self.complete(tasks).await,
            Instruction::Difference { update, remove } => {
                self.assign(update).await;
                for task in &remove {
                    self.remove(task);
                }
            }
            Instruction::StopAll => {
                self.leaving = true;
                self.shared.drains.give_up();
                self.orders.values().for_each(|order| order.send_modify(|order| order.stop = true));
            }
            Instruction::RemoveAll(emptied) => {
                self.leaving = true;
                self.shared.drains.give_up();
                self.emptied = Some(emptied);
                self.retain(&BTreeSet::new());
                self.remove_strays();
            }
        }
    }

    async fn complete(&mut self, tasks: Vec<wire::Task>) {
        let named: BTreeSet<TaskId> = tasks.iter().map(|task| task.id.as_str().into()).collect();
        for task in &tasks {
            let known = task.status.as_ref().map_or(TaskState::New, |status| status.state().into());
            self.shared.statuses.compare(&task.id.as_str().into(), known);
        }
        self.assign(tasks).await;
        self.retain(&named);
        if !self.confirmed {
            self.confirmed = true;
            self.remove_strays();
        }
    }

    /// Removes every task that is not named.
    fn retain(&mut self, named: &BTreeSet<TaskId>) {
        let known = self.orders.keys().chain(self.dormant.keys()).chain(&self.refused);
        let others: Vec<TaskId> = known.filter(|task| !named.contains(*task)).cloned().collect();
        for task in &others {
            self.remove(task);
        }
    }

    fn remove(&mut self, task: &TaskId) {
        self.returning.remove(task);
        if self.refused.remove(task) {
            self.shared.statuses.forget(task);
        }
        if let Some(order) = self.orders.get(task) {
            order.send_modify(|order| order.remove = true);
        } else if let Some((assigned, seen)) = self.dormant.remove(task) {
            self.start(assigned, seen, Order { remove: true, ..Order::default() });
        }
    }

    async fn assign(&mut self, tasks: Vec<wire::Task>) {
        let mut changes = Vec::new();
        let mut starting = Vec::new();
        for task in tasks {
            let id = TaskId::from(task.id.as_str());
            match self.orders.get(&id) {
                Some(order) if order.borrow().remove => {
                    self.returning.insert(id, Box::new(task));
                }
                Some(order) if change(order, Order::read(&task)) => {
                    changes.push(Change::Task(Box::new(task)));
                }
                Some(_) => {}
                None => match Assigned::try_from(task.clone()) {
                    Ok(assigned) => {
                        starting.push(assigned);
                        changes.push(Change::Task(Box::new(task)));
                    }
                    Err(error) => self.refuse(&task, &error),
                },
            }
        }
        for assigned in starting {
            self.begin(assigned);
        }
        // Beside their preparation. Should the record be lost, the next manager's set accounts for what is there.
        if let Err(error) = self.shared.database.write(changes).await {
            tracing::error!(%error, "cannot remember tasks");
        }
    }

    fn begin(&mut self, assigned: Assigned) {
        let id = assigned.id();
        let (known, container) = (Told::from(&assigned.task.status), self.unknown.remove(id.as_str()));
        let mut seen = adopt::seen(known, container, &self.shared.facts.boot_id);
        if let Some((_, before)) = self.dormant.remove(id) {
            seen.network |= before.network;
            seen.remains |= before.remains;
        }
        self.keep_network(&assigned, &seen);
        let order = assigned.order();
        self.start(assigned, seen, order);
    }

    fn keep_network(&self, assigned: &Assigned, seen: &Seen) {
        if matches!(seen.container, Container::Running { .. }) {
            self.shared.networks.keep(assigned.id().clone(), assigned.wish.clone());
        }
    }

    fn start(&mut self, assigned: Assigned, seen: Seen, order: Order) {
        let (id, service) = (assigned.id().clone(), assigned.task.service.clone());
        let (sender, orders) = watch::channel(order);
        let runner = Runner::new(self.shared.clone(), assigned, orders, seen);
        self.runners.spawn(async move { Some(runner.run().await) });
        self.orders.insert(id.clone(), sender);
        self.roster.send_modify(|roster| {
            roster.insert(id, service);
        });
    }

    /// A task that is not understood: the user sees why. One that has ended before needs no understanding.
    fn refuse(&mut self, task: &wire::Task, error: &proto::convert::Error) {
        let ended = task.status.as_ref().is_some_and(|status| TaskState::from(status.state()).is_terminal());
        if ended || task.id.is_empty() {
            return;
        }
        tracing::warn!(task = task.id, %error, "refused a task");
        let id = TaskId::from(task.id.as_str());
        let mut status = TaskStatus::new(TaskState::Rejected, "preparing", SystemTime::now());
        status.err = error.to_string();
        self.shared.statuses.report(&id, status);
        self.refused.insert(id);
    }

    /// Containers that no task accounts for go, and after them what else nobody wants.
    fn remove_strays(&mut self) {
        let (strays, shared) = (std::mem::take(&mut self.unknown), self.shared.clone());
        self.runners.spawn(async move {
            for id in strays.keys() {
                tracing::warn!(container = id, "removing a container that belongs to no task");
                remove_stray(&shared, id).await;
            }
            shared.networks.settle();
            None
        });
    }

    async fn ended(&mut self, ended: Result<Option<TaskId>, tokio::task::JoinError>) {
        let task = match ended {
            Ok(Some(task)) => task,
            Ok(None) => return,
            Err(error) => return tracing::error!(%error, "the runner of a task ended abnormally"),
        };
        self.orders.remove(&task);
        self.roster.send_modify(|roster| {
            roster.remove(&task);
        });
        if let Some(again) = self.returning.remove(&task) {
            self.assign(vec![*again]).await;
        }
    }

    fn answer_emptied(&mut self) {
        if self.runners.is_empty()
            && let Some(emptied) = self.emptied.take()
        {
            // The one who asked may have given up.
            let _ = emptied.send(());
        }
    }
}

fn change(order: &watch::Sender<Order>, wanted: Order) -> bool {
    order.send_if_modified(|order| std::mem::replace(order, wanted) != wanted)
}

async fn remove_stray(shared: &Shared, id: &str) {
    let mut backoff = RETRY;
    for _ in 0..STRAY_ATTEMPTS {
        let removed = shared.runtime.remove(id).await;
        let removed = match removed {
            Ok(()) => shared.runtime.remove_logs(id).await,
            failed => failed,
        };
        let Err(error) = removed else { return };
        tracing::warn!(container = id, error = error.report(), "cannot remove a container");
        tokio::time::sleep(backoff.delay(rand::random())).await;
    }
}
