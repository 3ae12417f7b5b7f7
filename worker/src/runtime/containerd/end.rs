//! How containers end: waiting, signals, removal.
//!
//! One `wait` request a container stays open in containerd: it costs nothing while it waits, and there is no
//! event to miss. When the connection is lost it is asked again.

use std::time::{Duration, SystemTime};

use containerd_client::services::v1::snapshots::RemoveSnapshotRequest;
use containerd_client::services::v1::{DeleteContainerRequest, DeleteTaskRequest, KillRequest, WaitRequest};
use tonic::Code;

use super::Containerd;
use crate::runtime::client::{failed, lost, or_absent};
use crate::runtime::{Error, Exit, Signal, Status, files, volumes};

/// Between attempts to ask a containerd that is not there.
const RETRY: Duration = Duration::from_millis(200);
/// What a container has that was killed.
const KILLED: u32 = 137;

impl Containerd {
    pub(super) async fn wait_container(&self, id: &str) -> Result<Exit, Error> {
        let mut interrupted = false;
        loop {
            let request = WaitRequest { container_id: id.to_owned(), ..WaitRequest::default() };
            let status = match self.client.tasks().wait(request).await {
                Ok(answer) => {
                    let answer = answer.into_inner();
                    return Ok(self.exit(id, answer.exit_status, answer.exited_at));
                }
                Err(status) => status,
            };
            if status.code() == Code::NotFound {
                return self.ended_unseen(id, interrupted).await;
            }
            if !lost(&status) {
                tracing::debug!(container = id, error = %status, "waiting is interrupted");
            }
            interrupted = true;
            tokio::time::sleep(RETRY).await;
        }
    }

    /// There is no task. If there was one a moment ago, its shim has died, and the container with it.
    async fn ended_unseen(&self, id: &str, interrupted: bool) -> Result<Exit, Error> {
        match (self.record(id).await?, interrupted) {
            (None, _) => Err(Error::NoSuchContainer { id: id.to_owned() }),
            (Some(_), false) => Err(Error::NotRunning { id: id.to_owned() }),
            (Some(_), true) => Ok(Exit { code: KILLED, oom: false, at: SystemTime::now() }),
        }
    }

    pub(super) fn exit(&self, id: &str, code: u32, at: Option<prost_types::Timestamp>) -> Exit {
        let at = at.and_then(|at| SystemTime::try_from(at).ok()).unwrap_or_else(SystemTime::now);
        // An ordinary end is none of the kernel's doing, even if it has killed a child before.
        let oom = code != 0 && self.cgroups.oom_killed(&self.config.cgroup(id));
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
        match self.wait_container(id).await {
            Err(Error::NotRunning { .. }) => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    pub(super) async fn remove_container(&self, id: &str) -> Result<(), Error> {
        self.delete_task(id).await?;
        let container = async {
            let request = DeleteContainerRequest { id: id.to_owned() };
            or_absent(self.client.containers().delete(request).await)
        };
        let snapshot = async {
            let request = RemoveSnapshotRequest { snapshotter: self.snapshotter.clone(), key: id.to_owned() };
            or_absent(self.client.snapshots().remove(request).await)
        };
        let (container, snapshot) = tokio::join!(container, snapshot);
        container.map_err(failed("remove the container"))?;
        snapshot.map_err(failed("remove the container's file system"))?;
        let directory = self.config.container_dir(id);
        volumes::remove_anonymous(&directory)?;
        files::remove(&directory)?;
        // Goes only if there was no output.
        let _ = tokio::fs::remove_dir(&directory).await;
        Ok(())
    }

    async fn delete_task(&self, id: &str) -> Result<(), Error> {
        const ACTION: &str = "remove the container's task";
        let delete = || async {
            let request = DeleteTaskRequest { container_id: id.to_owned() };
            or_absent(self.client.tasks().delete(request).await).map(drop)
        };
        match delete().await {
            Err(status) if status.code() == Code::FailedPrecondition => {}
            outcome => return outcome.map_err(failed(ACTION)),
        }
        if let Some((Status::Running { .. }, _)) = self.status(id).await?
            && self.signalled(id, Signal::KILL).await?
        {
            self.ended(id).await?;
        }
        delete().await.map_err(failed(ACTION))
    }
}
