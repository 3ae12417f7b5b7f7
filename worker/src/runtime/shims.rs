//! Ends shims that containerd has lost: processes of our containers for which it knows no task.
//!
//! It loses one when a request to make or delete a task is broken off at the wrong moment, by the death of either
//! side. Then only the process itself tells of it, by its command line, which names container and containerd.
//!
//! Looking through all processes costs milliseconds, so it is done where there is a reason: at the start, and where
//! a task is missing that nobody is known to have taken away.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use containerd_client::services::v1::ListTasksRequest;
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;

use super::client::{Client, NAMESPACE, failed};
use super::containerd::Config;
use super::{Error, supervisor};

const PROGRAM: &str = "containerd-shim-runc-v2";

pub(super) struct Shims {
    client: Client,
    /// The containerd that they belong to.
    socket: PathBuf,
    runc: PathBuf,
    runc_root: PathBuf,
    /// Where containerd has what its shims work on, if it is ours.
    bundles: Option<PathBuf>,
}

impl Shims {
    /// With settings in which everything is settled.
    pub(super) fn new(client: Client, socket: PathBuf, config: &Config) -> Self {
        let state = config.containerd.is_none().then(|| supervisor::state_directory(&config.exec_root));
        Self {
            client,
            socket,
            runc: config.runtime_binary.clone().expect("it was settled at the start"),
            runc_root: config.runc_root().join(NAMESPACE),
            bundles: state.map(|state| state.join("io.containerd.runtime.v2.task").join(NAMESPACE)),
        }
    }

    /// Ends all that have no task. A start must not be under way.
    pub(super) async fn end_lost(&self) -> Result<(), Error> {
        // In this order: one that has begun in between has a task.
        let mut found = running(&self.socket);
        let tasks = self.client.tasks().list(ListTasksRequest::default()).await;
        for task in tasks.map_err(failed("list the tasks"))?.into_inner().tasks {
            found.remove(&task.id);
        }
        for (id, pid) in found {
            self.end(&id, pid).await;
        }
        Ok(())
    }

    /// Ends that of container `id`, which has no task.
    pub(super) async fn end_lost_of(&self, id: &str) {
        if let Some(pid) = running(&self.socket).remove(id) {
            self.end(id, pid).await;
        }
    }

    async fn end(&self, id: &str, pid: Pid) {
        tracing::warn!(container = id, %pid, "containerd has lost a shim; it is ended");
        match kill(pid, Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => tracing::error!(container = id, %pid, %error, "the shim cannot be ended"),
        }
        let mut runc = Command::new(&self.runc);
        runc.arg("--root").arg(&self.runc_root).args(["delete", "--force", id]);
        match runc.output().await {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                let error = String::from_utf8_lossy(&output.stderr);
                tracing::error!(container = id, %error, "what the shim ran cannot be removed");
            }
            Err(error) => tracing::error!(container = id, %error, "runc cannot be executed"),
        }
        if let Some(bundles) = &self.bundles {
            let bundle = bundles.join(id);
            // Mostly there is none left: containerd has taken it away with the task.
            let _ = umount2(&bundle.join("rootfs"), MntFlags::MNT_DETACH);
            let _ = tokio::fs::remove_dir_all(bundle).await;
        }
    }
}

/// The shims of the containerd at `socket`, by container.
fn running(socket: &Path) -> HashMap<String, Pid> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let shim = |pid: i32| {
        // One that ends in between is no shim any more.
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        container(&command, socket).map(|id| (id, Pid::from_raw(pid)))
    };
    pids.filter_map(shim).collect()
}

/// The container of the shim with this command line, whose words end in NUL each.
fn container(command: &[u8], socket: &Path) -> Option<String> {
    let mut words = command.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec()));
    if Path::new(&words.next()?).file_name()? != PROGRAM {
        return None;
    }
    let words: Vec<_> = words.collect();
    let option = |name: &str| words.iter().skip_while(|word| *word != name).nth(1);
    let ours = option("-namespace")? == NAMESPACE && Path::new(option("-address")?) == socket;
    // The short-lived ones that start or delete a shim have a word for it at the end.
    let serves = !words.iter().any(|word| word == "start" || word == "delete");
    (ours && serves).then(|| option("-id")?.to_str().map(str::to_owned)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shim_is_told_by_its_command_line() {
        let of = |command: &str| container(command.replace(' ', "\0").as_bytes(), Path::new("/run/c.sock"));
        let shim = "/usr/bin/containerd-shim-runc-v2 -namespace swarm -id t1 -address /run/c.sock";
        assert_eq!(of(&format!("{shim} ")).as_deref(), Some("t1"));
        assert_eq!(of(&format!("{shim} start ")), None, "this one is about to start another");
        assert_eq!(of(&shim.replace("swarm", "moby")), None);
        assert_eq!(of(&shim.replace("c.sock", "other.sock")), None);
        assert_eq!(of("/bin/sleep -namespace swarm -id t1 -address /run/c.sock"), None);
        assert_eq!(of(""), None);
    }
}
