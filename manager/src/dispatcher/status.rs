//! What nodes report of their tasks, written in batches.
//!
//! While one batch is being committed the next one gathers: alone, a report is written at once; under load, many
//! reports of many nodes share one entry of the log.
//!
//! Invariant: reports of one node are written in the order in which they came, and a call returns after its commit.

use proto::convert::{Error as Malformed, Within};
use proto::model::{NodeId, Task, TaskId, TaskState, TaskStatus};
use proto::wire::update_task_status_request::TaskStatusUpdate;
use raft_store::{Store, Tables, Transaction, UpdateError};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use crate::api::limits;
use crate::error::{Error, status};

/// Calls that may wait to be written; more callers wait for room.
const QUEUED: usize = 1024;
/// Calls that are written together at most.
const BATCH: usize = 256;
/// Bounds what one status can cost every manager.
const LONGEST_TEXT: usize = 4096;
/// Of the last runs of a health check, and of each one's output.
const MOST_PROBES: usize = 5;
const LONGEST_OUTPUT: usize = 1024;

pub type Updates = Vec<(TaskId, TaskStatus)>;

struct Report {
    node: NodeId,
    updates: Updates,
    written: oneshot::Sender<Result<(), Status>>,
}

/// Where reports are handed in.
#[derive(Clone)]
pub struct Reports(mpsc::Sender<Report>);

pub struct Writer {
    store: Store,
    reports: mpsc::Receiver<Report>,
}

pub fn channel(store: Store) -> (Reports, Writer) {
    let (sender, reports) = mpsc::channel(QUEUED);
    (Reports(sender), Writer { store, reports })
}

/// Checks a node's reports: each must be about a task of its own. One about a task that is no more is dropped.
pub fn read(tables: &Tables, node: &NodeId, updates: Vec<TaskStatusUpdate>) -> Result<Updates, Error> {
    let mut read = Vec::with_capacity(updates.len());
    for (i, update) in updates.into_iter().enumerate() {
        let status = read_status(update.status).within(&format!("updates[{i}]"))?;
        let Some(task) = tables.task(&update.task_id.into()) else { continue };
        if task.node.as_ref() != Some(node) {
            return Err(Error::Denied(format!("task {} is not a task of node {node}", task.id)));
        }
        read.push((task.id.clone(), status));
    }
    Ok(read)
}

fn read_status(status: Option<proto::wire::TaskStatus>) -> Result<TaskStatus, Malformed> {
    let mut status =
        TaskStatus::try_from(status.ok_or_else(|| Malformed::missing("status"))?).within("status")?;
    if !(TaskState::Assigned..=TaskState::Rejected).contains(&status.state) {
        let expected = "a state between assigned and rejected, which are those that a node can observe";
        return Err(Malformed::invalid("status.state", status.state, expected));
    }
    limits::shorten(&mut status.message, LONGEST_TEXT);
    limits::shorten(&mut status.err, LONGEST_TEXT);
    if let Some(health) = status.container.as_mut().and_then(|container| container.health.as_mut()) {
        let surplus = health.probes.len().saturating_sub(MOST_PROBES);
        health.probes.drain(..surplus);
        health.probes.iter_mut().for_each(|probe| limits::shorten(&mut probe.output, LONGEST_OUTPUT));
    }
    Ok(status)
}

impl Reports {
    /// Returns once the reports are committed.
    pub async fn write(&self, node: NodeId, updates: Updates) -> Result<(), Status> {
        if updates.is_empty() {
            return Ok(());
        }
        let stopping = || Status::unavailable("the manager is stopping");
        let (written, committed) = oneshot::channel();
        self.0.send(Report { node, updates, written }).await.map_err(|_| stopping())?;
        committed.await.map_err(|_| stopping())?
    }
}

impl Writer {
    /// Runs until every `Reports` is gone; may be dropped at any time.
    pub async fn run(mut self) {
        let mut batch = Vec::new();
        while self.reports.recv_many(&mut batch, BATCH).await > 0 {
            let updates =
                batch.iter().flat_map(|report| report.updates.iter().map(|update| (&report.node, update)));
            let result = self.commit(&updates.collect::<Vec<_>>()).await;
            if let Err(error) = &result {
                tracing::warn!(%error, reports = batch.len(), "cannot write the status of tasks");
            }
            for report in batch.drain(..) {
                // An error means that the node has hung up; its reports are written all the same.
                let _ = report.written.send(result.clone());
            }
        }
    }

    async fn commit(&self, updates: &[Update<'_>]) -> Result<(), Status> {
        let mut parts = vec![updates];
        while let Some(part) = parts.pop() {
            let written = self.store.update(|tx| {
                part.iter().for_each(|update| apply(tx, *update));
                Ok::<_, Error>(())
            });
            match written.await {
                Ok(()) => {}
                Err(UpdateError::TooLarge { .. }) if part.len() > 1 => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
                Err(error) => return Err(status(error)),
            }
        }
        Ok(())
    }
}

type Update<'a> = (&'a NodeId, &'a (TaskId, TaskStatus));

fn apply(tx: &mut Transaction, (node, (id, status)): Update<'_>) {
    let Some(task) = tx.task(id).filter(|task| is_news(task, node, status)) else { return };
    let mut task = Task::clone(task);
    // Since when it has been in its state; others reckon with that, whatever else is told meanwhile.
    let since = task.status.applied_at.filter(|_| task.status.state == status.state);
    let applied_at = Some(since.unwrap_or_else(|| tx.now()));
    task.status = TaskStatus { applied_by: node.to_string(), applied_at, ..status.clone() };
    tx.update(task);
}

/// States only move forward: what the managers decided meanwhile (that the task is orphaned) is not taken back, nor
/// is what a late message overtook.
fn is_news(task: &Task, node: &NodeId, status: &TaskStatus) -> bool {
    let known = &task.status;
    let same = known.state == status.state
        && known.message == status.message
        && known.err == status.err
        && known.container == status.container;
    task.node.as_ref() == Some(node) && known.state <= status.state && !same
}
