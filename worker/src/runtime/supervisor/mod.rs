//! Our own containerd: started, kept running, found again by the next process, stopped at the end.
//!
//! It is in a process group of its own and writes to a file, so it lives on when this process is killed; the pid
//! file tells the next one. Containers belong to their shims and outlive containerd in turn.

mod config;
mod log;
mod process;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(super) use process::find_program;

use super::Error;
use process::Process;

const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(10);
/// One that has lived so long is started again at once.
const STEADY: Duration = Duration::from_secs(60);
/// How long containerd may take to end before it is killed.
const STOP_GRACE: Duration = Duration::from_secs(10);
const LOG_CHECK: Duration = Duration::from_secs(60);

/// Dropped without [`shutdown`](Self::shutdown) it lets containerd run on, for the next one to adopt.
#[derive(Debug)]
pub(super) struct Supervisor {
    socket: PathBuf,
    log: PathBuf,
    pid: Arc<AtomicU32>,
    stop: CancellationToken,
    abandon: CancellationToken,
    tasks: TaskTracker,
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.abandon.cancel();
    }
}

/// Where things of our containerd are.
#[derive(Debug, Clone)]
struct Paths {
    binary: PathBuf,
    config: PathBuf,
    pidfile: PathBuf,
    socket: PathBuf,
    log: PathBuf,
}

fn directory(exec_root: &Path) -> PathBuf {
    exec_root.join("containerd")
}

/// What our containerd keeps there does not outlive the machine's next start.
pub(super) fn state_directory(exec_root: &Path) -> PathBuf {
    directory(exec_root).join("state")
}

impl Supervisor {
    /// Adopts the one that runs, else starts one. It may not answer yet when this returns.
    pub(super) async fn start(data_root: &Path, exec_root: &Path) -> Result<Self, Error> {
        let missing = || Error::config("containerd", "it is not installed: install the package containerd");
        let directory = directory(exec_root);
        let paths = Paths {
            binary: find_program("containerd").ok_or_else(missing)?,
            config: directory.join("config.toml"),
            pidfile: directory.join("containerd.pid"),
            socket: directory.join("containerd.sock"),
            log: data_root.join("containerd.log"),
        };
        config::write(&paths, &data_root.join("containerd"), &state_directory(exec_root))?;
        let process = match Process::adopt(&paths)? {
            Some(process) => process,
            None => Process::launch(&paths)?,
        };
        let (pid, stop) = (Arc::new(AtomicU32::new(process.pid())), CancellationToken::new());
        let (tasks, socket, log) = (TaskTracker::new(), paths.socket.clone(), paths.log.clone());
        let abandon = CancellationToken::new();
        let supervised = supervise(paths, process, pid.clone(), stop.clone());
        tasks.spawn(abandon.clone().run_until_cancelled_owned(supervised));
        tasks.close();
        Ok(Self { socket, log, pid, stop, abandon, tasks })
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// `None` while it is down.
    pub(super) fn pid(&self) -> Option<u32> {
        Some(self.pid.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
    }

    /// Adds to an error where containerd itself tells more.
    pub(super) fn explain(&self, error: Error) -> Error {
        match error {
            Error::Unavailable { reason } => {
                Error::Unavailable { reason: format!("{reason}; see {}", self.log.display()) }
            }
            error => error,
        }
    }

    /// Stops containerd and waits for its end.
    pub(super) async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

/// Keeps one running until told to stop it.
async fn supervise(paths: Paths, first: Process, pid: Arc<AtomicU32>, stop: CancellationToken) {
    let (mut running, mut backoff) = (Some(first), FIRST_BACKOFF);
    loop {
        if let Some(mut process) = running.take() {
            let begun = Instant::now();
            pid.store(process.pid(), Ordering::Relaxed);
            tokio::select! {
                () = process.ended() => tracing::error!(pid = process.pid(), "containerd has ended"),
                never = log::keep_bounded(&paths.log, LOG_CHECK) => match never {},
                () = stop.cancelled() => {
                    process.stop(STOP_GRACE).await;
                    return pid.store(0, Ordering::Relaxed);
                }
            }
            pid.store(0, Ordering::Relaxed);
            if begun.elapsed() > STEADY {
                backoff = FIRST_BACKOFF;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(backoff) => {}
            () = stop.cancelled() => return,
        }
        backoff = (backoff * 2).min(LAST_BACKOFF);
        match Process::launch(&paths) {
            Ok(process) => running = Some(process),
            Err(error) => tracing::error!(error = error.report(), "containerd cannot be started"),
        }
    }
}
