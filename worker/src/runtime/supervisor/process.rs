//! One containerd process, ours or inherited from a process before.
//!
//! A handle on the process (pidfd) tells of its end and takes signals, so a process id that was used again is never
//! mistaken for it.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::unix::AsyncFd;

use super::{Paths, log};
use crate::runtime::Error;

/// Where system programs are, for an environment that leaves them out of its PATH.
const SYSTEM_PATHS: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Debug)]
pub(super) struct Process {
    pid: u32,
    handle: AsyncFd<OwnedFd>,
    /// To be reaped, if it is ours.
    child: Option<Child>,
}

impl Process {
    pub(super) fn launch(paths: &Paths) -> Result<Self, Error> {
        let log = log::open(&paths.log)?;
        let stderr = log.try_clone().map_err(Error::io("open", &paths.log))?;
        let child = Command::new(&paths.binary)
            .arg("--config")
            .arg(&paths.config)
            .args(["--log-level", "warn"])
            .env("PATH", search_path())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(stderr)
            // Not to be interrupted from our terminal.
            .process_group(0)
            .spawn()
            .map_err(Error::io("start", &paths.binary))?;
        let pid = child.id();
        let process =
            Self { pid, handle: handle(pid).map_err(Error::io("watch", &paths.binary))?, child: Some(child) };
        let started = start_time(pid).unwrap_or_default();
        std::fs::write(&paths.pidfile, format!("{pid} {started}\n"))
            .map_err(Error::io("write", &paths.pidfile))?;
        tracing::info!(pid, "containerd is started");
        Ok(process)
    }

    /// The one that the pid file tells of, if it is still that one.
    pub(super) fn adopt(paths: &Paths) -> Result<Option<Self>, Error> {
        let text = std::fs::read_to_string(&paths.pidfile).unwrap_or_default();
        let mut words = text.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(pid)), Some(Ok(started))) = (words.next(), words.next()) else {
            return Ok(None);
        };
        let Some(pid) = u32::try_from(pid).ok().filter(|pid| *pid > 0) else {
            return Ok(None);
        };
        // The handle first: what is checked afterwards is then true of the process that it is a handle on.
        let Ok(handle) = handle(pid) else {
            return Ok(None);
        };
        if start_time(pid) != Some(started) || !runs_with(pid, &paths.config) {
            return Ok(None);
        }
        tracing::info!(pid, "containerd is adopted");
        Ok(Some(Self { pid, handle, child: None }))
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) async fn ended(&mut self) {
        // The handle is readable from the process's end on; an error would mean that it is no handle.
        let _ = self.handle.readable().await;
        if let Some(child) = &mut self.child {
            let _ = child.wait();
        }
    }

    /// Asks it to end, and makes it after `grace`.
    pub(super) async fn stop(mut self, grace: Duration) {
        let _ = pidfd_send_signal(self.handle.get_ref(), Signal::TERM);
        if tokio::time::timeout(grace, self.ended()).await.is_err() {
            tracing::warn!(pid = self.pid, "containerd does not end and is killed");
            let _ = pidfd_send_signal(self.handle.get_ref(), Signal::KILL);
            self.ended().await;
        }
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe, for types that change their descriptor; OwnedFd does not"
)]
fn handle(pid: u32) -> std::io::Result<AsyncFd<OwnedFd>> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(std::io::ErrorKind::InvalidInput)?;
    AsyncFd::new(pidfd_open(pid, PidfdFlags::NONBLOCK)?)
}

/// Clock ticks from boot to the process's start: field 22 of its `stat`, counted after the name, which may have
/// blanks.
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19)?.parse().ok()
}

fn runs_with(pid: u32, config: &Path) -> bool {
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    arguments.split(|byte| *byte == 0).any(|argument| argument == config.as_os_str().as_encoded_bytes())
}

fn search_path() -> String {
    match std::env::var("PATH") {
        Ok(path) if !path.is_empty() => format!("{path}:{SYSTEM_PATHS}"),
        _ => SYSTEM_PATHS.to_owned(),
    }
}

/// A program by name, from the PATH and where system programs are.
pub(in crate::runtime) fn find_program(name: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let executable = |path: &PathBuf| {
        File::open(path)
            .and_then(|file| file.metadata())
            .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    let path = search_path();
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(executable)
}
