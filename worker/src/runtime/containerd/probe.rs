//! Runs health checks: one process more in a container, as its user and with its environment.
//!
//! The process has a fixed name in containerd, so two never run at once, and what a former process of ours left of one
//! is found and ended. Output comes through a named pipe, of which the beginning is kept and the rest read and dropped:
//! a check that writes much neither fills a disk nor waits for a reader.

use std::convert::Infallible;
use std::future::pending;
use std::path::PathBuf;
use std::time::Duration;

use containerd_client::services::v1::{
    DeleteProcessRequest, ExecProcessRequest, GetContainerRequest, GetRequest, KillRequest, StartRequest,
    WaitRequest,
};
use nix::errno::Errno;
use nix::sys::stat::Mode;
use prost_types::Any;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tonic::{Code, Status as Answer};

use super::Containerd;
use super::task_error::not_started;
use crate::runtime::client::{failed, lost, or_absent};
use crate::runtime::{Error, HealthCheck, Probed, Signal, Status, files, processes};

/// The name of the process within its container.
const EXEC: &str = "health";
const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// How many are started at once on a node. How many run does not matter: most of them wait for something.
pub(super) const STARTS: usize = 4;
/// On a node under load a start takes seconds. That is not the application's fault, so the check's own time begins after.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Until a process that was killed is gone, with its output.
const END_TIMEOUT: Duration = Duration::from_secs(15);
/// What is kept of the output, as in Docker.
const OUTPUT_BYTES: usize = 4096;

impl Containerd {
    pub(super) async fn run_probe(&self, id: &str, check: &HealthCheck) -> Result<Probed, Error> {
        const ACTION: &str = "start a health check";
        let process = self.process(id, &check.command).await?;
        let mut output = Output::open(files::directory(&self.config.container_dir(id)).join(EXEC))?;
        let turn = self.probe_starts.acquire().await;
        let started = tokio::time::timeout(START_TIMEOUT, self.start_probe(id, process, &output)).await;
        drop(turn);
        let late =
            Error::Containerd { action: ACTION, reason: format!("it takes longer than {START_TIMEOUT:?}") };
        match started.unwrap_or(Err(late)) {
            Ok(leader) => self.finish_probe(id, leader, check.timeout, &mut output).await,
            Err(Error::Start { reason }) => match self.status(id).await? {
                Some((Status::Running { .. }, _)) => Ok(Probed { exit_code: None, output: reason }),
                _ => Err(Error::NotRunning { id: id.to_owned() }),
            },
            Err(error) => Err(error),
        }
    }

    /// The container's own process, but for what it executes.
    async fn process(&self, id: &str, command: &[String]) -> Result<Any, Error> {
        let request = GetContainerRequest { id: id.to_owned() };
        let found = or_absent(self.client.containers().get(request).await);
        let found = found.map_err(failed("find the container"))?;
        let container = found.and_then(|found| found.into_inner().container);
        let container = container.ok_or_else(|| Error::NoSuchContainer { id: id.to_owned() })?;
        let spec = container.spec.unwrap_or_default().value;
        let mut spec: Value = serde_json::from_slice(&spec).unwrap_or_default();
        let mut process = spec["process"].take();
        process["args"] = json!(command);
        process["terminal"] = json!(false);
        Ok(Any { type_url: PROCESS_TYPE.to_owned(), value: process.to_string().into_bytes() })
    }

    async fn start_probe(&self, id: &str, process: Any, output: &Output) -> Result<u32, Error> {
        let path = output.path.to_string_lossy().into_owned();
        let request = || ExecProcessRequest {
            container_id: id.to_owned(),
            exec_id: EXEC.to_owned(),
            stdout: path.clone(),
            stderr: path.clone(),
            spec: Some(process.clone()),
            ..ExecProcessRequest::default()
        };
        let mut tasks = self.client.tasks();
        let mut made = tasks.exec(request()).await;
        if made.as_ref().is_err_and(|status| status.code() == Code::AlreadyExists) {
            self.clear_probe(id).await?;
            made = tasks.exec(request()).await;
        }
        made.map_err(|status| not_begun(id, status))?;
        let request = StartRequest { container_id: id.to_owned(), exec_id: EXEC.to_owned() };
        match tasks.start(request).await {
            Ok(answer) => Ok(answer.into_inner().pid),
            Err(status) => {
                // Nothing runs; should it remain, the next run finds it.
                let _ = self.delete_probe(id).await;
                Err(not_begun(id, status))
            }
        }
    }

    async fn finish_probe(
        &self,
        id: &str,
        leader: u32,
        limit: Duration,
        output: &mut Output,
    ) -> Result<Probed, Error> {
        let ended = tokio::select! {
            code = self.wait_probe(id) => Some(code?),
            () = tokio::time::sleep(limit) => None,
            never = output.read() => match never {},
        };
        let cleared = async {
            match ended {
                Some(_) => self.delete_probe(id).await,
                None => self.end_probe(id, leader).await,
            }
        };
        let cleared = tokio::select! {
            cleared = tokio::time::timeout(END_TIMEOUT, cleared) => cleared,
            never = output.read() => match never {},
        };
        // What remains is found by the next run.
        if let Ok(Err(error)) = cleared {
            tracing::debug!(container = id, error = error.report(), "cannot clear a health check away");
        }
        let output = output.finish();
        Ok(match ended {
            Some(code) => Probed { exit_code: Some(code), output },
            None => Probed { exit_code: None, output: format!("it takes longer than {limit:?}: {output}") },
        })
    }

    async fn wait_probe(&self, id: &str) -> Result<u32, Error> {
        let request = WaitRequest { container_id: id.to_owned(), exec_id: EXEC.to_owned() };
        let answer = self.client.tasks().wait(request).await.map_err(|status| not_begun(id, status))?;
        Ok(answer.into_inner().exit_status)
    }

    /// Returns once all output is there.
    async fn delete_probe(&self, id: &str) -> Result<(), Error> {
        let request = DeleteProcessRequest { container_id: id.to_owned(), exec_id: EXEC.to_owned() };
        let deleted = or_absent(self.client.tasks().delete_process(request).await);
        deleted.map_err(failed("remove a health check")).map(drop)
    }

    async fn end_probe(&self, id: &str, leader: u32) -> Result<(), Error> {
        let container = id.to_owned();
        // It only panics if that does, and then there is nobody left to tell.
        let _ = tokio::task::spawn_blocking(move || processes::kill_session(leader, &container)).await;
        let request = KillRequest {
            container_id: id.to_owned(),
            exec_id: EXEC.to_owned(),
            signal: Signal::KILL.number().into(),
            ..KillRequest::default()
        };
        or_absent(self.client.tasks().kill(request).await).map_err(failed("end a health check"))?;
        self.wait_probe(id).await?;
        self.delete_probe(id).await
    }

    /// Ends one that an earlier call, or an earlier process, has left.
    async fn clear_probe(&self, id: &str) -> Result<(), Error> {
        let request = GetRequest { container_id: id.to_owned(), exec_id: EXEC.to_owned() };
        let found =
            or_absent(self.client.tasks().get(request).await).map_err(failed("find a health check"))?;
        match found.and_then(|found| found.into_inner().process) {
            Some(process) if process.pid > 0 => self.end_probe(id, process.pid).await,
            _ => self.delete_probe(id).await,
        }
    }
}

fn not_begun(id: &str, status: Answer) -> Error {
    match status.code() {
        Code::NotFound if !lost(&status) => Error::NotRunning { id: id.to_owned() },
        _ => not_started(status),
    }
}

/// The reading end of what a check writes.
struct Output {
    path: PathBuf,
    pipe: pipe::Receiver,
    kept: Vec<u8>,
}

impl Output {
    fn open(path: PathBuf) -> Result<Self, Error> {
        // A process that was killed may have left one.
        let _ = std::fs::remove_file(&path);
        let made = nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).map_err(io_error);
        made.map_err(Error::io("create", &path))?;
        // As a writer too, so that it never ends before the run does.
        let opened = pipe::OpenOptions::new().read_write(true).open_receiver(&path);
        let pipe = opened.map_err(Error::io("open", &path))?;
        Ok(Self { path, pipe, kept: Vec::new() })
    }

    async fn read(&mut self) -> Infallible {
        let mut chunk = [0; 4096];
        loop {
            match self.pipe.read(&mut chunk).await {
                Ok(length) => self.keep(&chunk[..length]),
                Err(error) => {
                    tracing::warn!(%error, "cannot read the output of a health check");
                    return pending().await;
                }
            }
        }
    }

    /// All that was kept, with what is in the pipe.
    fn finish(&mut self) -> String {
        let mut chunk = [0; 4096];
        while let Ok(length @ 1..) = self.pipe.try_read(&mut chunk) {
            self.keep(&chunk[..length]);
        }
        String::from_utf8_lossy(&self.kept).trim().to_owned()
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = OUTPUT_BYTES - self.kept.len();
        self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // It may have gone with its container.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn io_error(errno: Errno) -> std::io::Error {
    errno.into()
}
