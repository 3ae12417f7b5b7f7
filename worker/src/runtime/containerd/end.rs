//! How containers end: waiting, signals, removal.
//!
//! One `wait` request a container stays open in containerd: it costs nothing while it waits, and there is no
//! event to miss. When the connection is lost it is asked again.

use std::time::{Duration, SystemTime};

use containerd_client::services::v1::snapshots::RemoveSnapshotRequest;
use containerd_client::services::v1::{
    Container, DeleteContainerRequest, DeleteTaskRequest, KillRequest, UpdateContainerRequest, WaitRequest,
};
use prost_types::FieldMask;
use tonic::Code;

use super::Containerd;
use super::record::Record;
use crate::runtime::client::{failed, lost, or_absent};
use crate::runtime::{Died, Error, Exit, Signal, files, volumes};

/// Between attempts to ask a containerd that is not there.
const RETRY: Duration = Duration::from_millis(200);
/// What a container has that was killed.
const KILLED: u32 = 137;

impl Containerd {
    pub(super) async fn watch_container(&self, id: &str, died: &Died<'_>) -> Result<Exit, Error> {
        let mut interrupted = false;
        loop {
            let request = WaitRequest { container_id: id.to_owned(), ..WaitRequest::default() };
            let status = match self.client.tasks().wait(request).await {
                Ok(answer) => {
                    let answer = answer.into_inner();
                    let exit = self.exit(id, answer.exit_status, answer.exited_at);
                    died(&exit);
                    return self.settle(id, exit).await;
                }
                Err(status) => status,
            };
            if status.code() == Code::NotFound {
                return self.without_task(id, interrupted).await;
            }
            if !lost(&status) {
                tracing::debug!(container = id, error = %status, "waiting is interrupted");
            }
            interrupted = true;
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn without_task(&self, id: &str, interrupted: bool) -> Result<Exit, Error> {
        let record = self.record(id).await?.ok_or_else(|| Error::NoSuchContainer { id: id.to_owned() })?;
        match record.exit {
            Some(exit) => Ok(exit.into()),
            None if !interrupted => Err(Error::NotRunning { id: id.to_owned() }),
            // There was a task a moment ago: its shim has died, and the container with it.
            None => self.settle(id, Exit { code: KILLED, oom: false, at: SystemTime::now() }).await,
        }
    }

    /// Writes down how the container ended and lets its task go: shim, logger, control group. What another call
    /// has written down stands.
    async fn settle(&self, id: &str, exit: Exit) -> Result<Exit, Error> {
        let record = self.record(id).await?.ok_or_else(|| Error::NoSuchContainer { id: id.to_owned() })?;
        let first = record.exit.is_none();
        let exit = match &record.exit {
            Some(exit) => exit.clone().into(),
            None => self.note(id, record, exit).await?,
        };
        failpoint::reached("container: remove task");
        if !self.delete_task(id).await? && first {
            self.shims.end_lost_of(id).await;
        }
        Ok(exit)
    }

    async fn note(&self, id: &str, record: Record, exit: Exit) -> Result<Exit, Error> {
        failpoint::reached("container: note end");
        let record = Record { exit: Some((&exit).into()), ..record };
        let container =
            Container { id: id.to_owned(), extensions: record.extensions(), ..Container::default() };
        let mask = FieldMask { paths: vec!["extensions".to_owned()] };
        let request = UpdateContainerRequest { container: Some(container), update_mask: Some(mask) };
        self.client.containers().update(request).await.map_err(failed("note the container's end"))?;
        Ok(exit)
    }

    pub(super) fn exit(&self, id: &str, code: u32, at: Option<prost_types::Timestamp>) -> Exit {
        let at = at.and_then(|at| SystemTime::try_from(at).ok()).unwrap_or_else(SystemTime::now);
        // An ordinary end is none of the kernel's doing, even if it has killed a child before.
        let oom = code != 0 && self.cgroups.oom_killed(id);
        Exit { code, oom, at }
    }

    pub(super) async fn kill_container(&self, id: &str, signal: Signal) -> Result<(), Error> {
        let request = KillRequest {
            container_id: id.to_owned(),
            signal: signal.number().into(),
            ..KillRequest::default()
        };
        match or_absent(self.client.tasks().kill(request).await).map_err(failed("signal the container"))? {
            Some(_) => Ok(()),
            None if self.record(id).await?.is_some() => Err(Error::NotRunning { id: id.to_owned() }),
            None => Err(Error::NoSuchContainer { id: id.to_owned() }),
        }
    }

    pub(super) async fn stop_container(
        &self,
        id: &str,
        signal: Option<Signal>,
        grace: Duration,
    ) -> Result<(), Error> {
        let signal = match signal {
            Some(signal) => signal,
            None => self.stop_signal(id).await?,
        };
        if !self.signalled(id, signal).await? {
            return Ok(());
        }
        if let Ok(ended) = tokio::time::timeout(grace, self.ended(id)).await {
            return ended;
        }
        match self.signalled(id, Signal::KILL).await? {
            true => self.ended(id).await,
            false => Ok(()),
        }
    }

    async fn stop_signal(&self, id: &str) -> Result<Signal, Error> {
        let record = self.record(id).await?.ok_or_else(|| Error::NoSuchContainer { id: id.to_owned() })?;
        let own = record.stop_signal.and_then(|number| number.to_string().parse().ok());
        Ok(own.unwrap_or(Signal::TERM))
    }

    /// False if the container was not running.
    async fn signalled(&self, id: &str, signal: Signal) -> Result<bool, Error> {
        match self.kill_container(id, signal).await {
            Ok(()) => Ok(true),
            Err(Error::NotRunning { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn ended(&self, id: &str) -> Result<(), Error> {
        match self.watch_container(id, &|_| {}).await {
            Err(Error::NotRunning { .. }) => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    pub(super) async fn remove_container(&self, id: &str) -> Result<(), Error> {
        if !self.delete_task(id).await? && self.record(id).await?.is_some_and(|record| record.exit.is_none())
        {
            self.shims.end_lost_of(id).await;
        }
        let container = async {
            let request = DeleteContainerRequest { id: id.to_owned() };
            or_absent(self.client.containers().delete(request).await)
        };
        let snapshot = async {
            let request = RemoveSnapshotRequest { snapshotter: self.snapshotter.clone(), key: id.to_owned() };
            or_absent(self.client.snapshots().remove(request).await)
        };
        failpoint::reached("container: remove");
        let (container, snapshot) = tokio::join!(container, snapshot);
        container.map_err(failed("remove the container"))?;
        snapshot.map_err(failed("remove the container's file system"))?;
        self.cgroups.remove(id).await?;
        failpoint::reached("container: remove files");
        let directory = self.config.container_dir(id);
        volumes::remove_anonymous(&directory)?;
        files::remove(&directory)?;
        // Goes only if there was no output.
        let _ = tokio::fs::remove_dir(&directory).await;
        Ok(())
    }

    /// Removes the task, killing it if it runs. False if there was none.
    async fn delete_task(&self, id: &str) -> Result<bool, Error> {
        const ACTION: &str = "remove the container's task";
        let delete = || async {
            let request = DeleteTaskRequest { container_id: id.to_owned() };
            or_absent(self.client.tasks().delete(request).await).map(|deleted| deleted.is_some())
        };
        let refused = match delete().await {
            Err(status) if !lost(&status) => status,
            outcome => return outcome.map_err(failed(ACTION)),
        };
        // containerd has no code of its own for a task that runs.
        if !self.signalled(id, Signal::KILL).await? {
            return Err(failed(ACTION)(refused));
        }
        let request = WaitRequest { container_id: id.to_owned(), ..WaitRequest::default() };
        or_absent(self.client.tasks().wait(request).await).map_err(failed("wait for the container"))?;
        delete().await.map_err(failed(ACTION))
    }
}
