//! Ends shims that containerd has lost: processes of our containers for which it knows no task.
//!
//! It loses one when a request to make or delete a task is broken off at the wrong moment, by the death of either
//! side. It may even go on with such a request, and make a task for a container that is removed meanwhile. Then only
//! the process itself tells of it, by its command line, which names container and containerd.
//!
//! Looking through all processes costs milliseconds, so it is done where there is a reason: at the start, and where
//! a task is missing that nobody is known to have taken away; and once more a while later, since a request that was
//! broken off may still be under way.
//!
//! Invariant: the shim of a start that this process waits for is left alone.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use containerd_client::services::v1::GetRequest;
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::cgroup::Cgroups;
use super::client::{Client, NAMESPACE, failed, or_absent};
use super::containerd::Config;
use super::{Error, supervisor};

const PROGRAM: &str = "containerd-shim-runc-v2";

/// What containerd does with a request that was broken off is over by then.
const SETTLED: Duration = Duration::from_secs(10);

pub(super) struct Shims {
    lost: Arc<Lost>,
    doubt: Arc<Notify>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

struct Lost {
    client: Client,
    /// The containerd that they belong to.
    socket: PathBuf,
    runc: PathBuf,
    runc_root: PathBuf,
    /// Where containerd has what its shims work on, if it is ours.
    bundles: Option<PathBuf>,
    cgroups: Cgroups,
    /// Containers whose start is under way.
    starting: Mutex<HashSet<String>>,
}

/// Held while a container is started.
pub(super) struct Starting<'a> {
    lost: &'a Lost,
    id: &'a str,
}

impl Shims {
    /// With settings in which everything is settled. Looks for the first time.
    pub(super) async fn open(
        client: Client,
        socket: PathBuf,
        config: &Config,
        cgroups: Cgroups,
    ) -> Result<Self, Error> {
        let state = config.containerd.is_none().then(|| supervisor::state_directory(&config.exec_root));
        let lost = Arc::new(Lost {
            client,
            socket,
            runc: config.runtime_binary.clone().expect("it was settled at the start"),
            runc_root: config.runc_root().join(NAMESPACE),
            bundles: state.map(|state| state.join("io.containerd.runtime.v2.task").join(NAMESPACE)),
            cgroups,
            starting: Mutex::default(),
        });
        lost.end_all().await?;
        let (doubt, stop, tasks) = (Arc::new(Notify::new()), CancellationToken::new(), TaskTracker::new());
        // The process before this one may have died with a request under way.
        doubt.notify_one();
        let looking = look_again(Arc::clone(&lost), Arc::clone(&doubt));
        tasks.spawn(stop.clone().run_until_cancelled_owned(looking));
        tasks.close();
        Ok(Self { lost, doubt, stop, tasks })
    }

    pub(super) async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }

    /// A start begins, and lasts as long as what is returned.
    pub(super) fn starting<'a>(&'a self, id: &'a str) -> Starting<'a> {
        self.lost.starting().insert(id.to_owned());
        Starting { lost: &self.lost, id }
    }

    /// Ends that of container `id`, which has no task and is not being started.
    pub(super) async fn end_lost_of(&self, id: &str) {
        if let Some(pid) = running(&self.lost.socket).remove(id) {
            self.lost.end(id, pid).await;
        }
        self.doubt.notify_one();
    }
}

/// Dropped without `shutdown`, it looks no more.
impl Drop for Shims {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn look_again(lost: Arc<Lost>, doubt: Arc<Notify>) {
    loop {
        doubt.notified().await;
        tokio::time::sleep(SETTLED).await;
        if let Err(error) = lost.end_all().await {
            tracing::warn!(error = error.report(), "cannot look for shims that containerd has lost");
        }
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.lost.starting().remove(self.id);
    }
}

impl Lost {
    fn starting(&self) -> MutexGuard<'_, HashSet<String>> {
        // Nothing that runs under the lock leaves the set half changed.
        self.starting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all that have no task, or no container.
    async fn end_all(&self) -> Result<(), Error> {
        for (id, pid) in running(&self.socket) {
            // In this order: a start that ends in between has made a task.
            let starting = self.starting().contains(&id);
            if !starting && !self.has_task(&id).await? {
                self.end(&id, pid).await;
            }
        }
        Ok(())
    }

    /// False also if the container is gone: containerd does not tell of its task then.
    async fn has_task(&self, id: &str) -> Result<bool, Error> {
        let request = GetRequest { container_id: id.to_owned(), ..GetRequest::default() };
        let found = or_absent(self.client.tasks().get(request).await);
        found.map(|found| found.is_some()).map_err(failed("find a task"))
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
        if let Err(error) = self.cgroups.remove(id).await {
            tracing::error!(container = id, error = error.report(), "the control group cannot be removed");
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
