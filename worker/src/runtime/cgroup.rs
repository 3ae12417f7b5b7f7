//! What the kernel's control groups can do here, what they say of a container, and their end with it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Error;
use super::spec::Node;

/// How often it is looked whether a process that was killed has left its group, and how long between.
const ROUNDS: u32 = 50;
const ROUND: Duration = Duration::from_millis(20);

#[derive(Debug, Clone)]
pub(super) struct Cgroups {
    /// The group that all containers have theirs in.
    parent: String,
    /// All hierarchies.
    roots: Vec<PathBuf>,
    /// Where memory is accounted: a hierarchy of its own in version 1, the only one in version 2.
    memory: Option<PathBuf>,
    unified: bool,
}

impl Cgroups {
    pub(super) fn detect(parent: &str) -> Self {
        Self::from_mounts(parent, &std::fs::read_to_string("/proc/self/mounts").unwrap_or_default())
    }

    fn from_mounts(parent: &str, mounts: &str) -> Self {
        let mounts = mounts.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            Some((*fields.get(1)?, *fields.get(2)?, *fields.get(3)?))
        });
        let (mut roots, mut memory, mut second) = (Vec::new(), None, None);
        for (path, kind, options) in mounts.filter(|(_, kind, _)| matches!(*kind, "cgroup" | "cgroup2")) {
            roots.push(PathBuf::from(path));
            if kind == "cgroup2" {
                second = Some(path.into());
            } else if options.split(',').any(|option| option == "memory") {
                memory = Some(path.into());
            }
        }
        // With both mounted (hybrid) version 1 has the controllers.
        let unified = memory.is_none() && second.is_some();
        let parent = parent.trim_end_matches('/').to_owned();
        Self { parent, roots, memory: memory.or(second), unified }
    }

    /// The group of a container, in each hierarchy.
    pub(super) fn group(&self, id: &str) -> String {
        format!("{}/{id}", self.parent)
    }

    fn path(&self, root: &Path, id: &str) -> PathBuf {
        root.join(self.group(id).trim_start_matches('/'))
    }

    pub(super) fn node(&self) -> Node {
        let cpus = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
        let open_files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(_, hard)| hard);
        Node { cpus, swap_accounting: self.swap_accounting(), unified: self.unified, open_files }
    }

    fn swap_accounting(&self) -> bool {
        match (&self.memory, self.unified) {
            (Some(root), false) => root.join("memory.memsw.limit_in_bytes").exists(),
            // The root group has no such file, its children have.
            (Some(_), true) => self.any_child_has("memory.swap.max"),
            (None, _) => false,
        }
    }

    fn any_child_has(&self, file: &str) -> bool {
        let entries = self.memory.iter().filter_map(|root| std::fs::read_dir(root).ok()).flatten().flatten();
        entries.into_iter().any(|entry| entry.path().join(file).exists())
    }

    /// Whether the kernel has killed a process of the container for lack of memory. False once its group is gone.
    pub(super) fn oom_killed(&self, id: &str) -> bool {
        let file = if self.unified { "memory.events" } else { "memory.oom_control" };
        let path = self.memory.as_ref().map(|root| self.path(root, id).join(file));
        let text = path.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
        text.lines().filter_map(|line| line.strip_prefix("oom_kill ")).any(|count| count.trim() != "0")
    }

    /// Kills what is left in the container's group and removes it from all hierarchies. The OCI runtime does that, unless
    /// it was killed between making the group and writing down that there is a container: then nobody else knows of it.
    pub(super) async fn remove(&self, id: &str) -> Result<(), Error> {
        for path in self.roots.iter().map(|root| self.path(root, id)).filter(|path| path.exists()) {
            remove(&path).await.map_err(Error::io("remove", path))?;
        }
        Ok(())
    }
}

async fn remove(path: &Path) -> io::Result<()> {
    let mut rounds = 0;
    loop {
        match remove_once(path) {
            // What was killed leaves when the kernel comes to it.
            Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) && rounds < ROUNDS => rounds += 1,
            result => return result,
        }
        tokio::time::sleep(ROUND).await;
    }
}

/// From the leaves on, since the kernel removes no group that has others within.
fn remove_once(path: &Path) -> io::Result<()> {
    let gone = |error: io::Error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) };
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) => return gone(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_once(&entry.path())?;
        }
    }
    let processes = std::fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    for pid in processes.lines().filter_map(|line| line.parse().ok()) {
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    std::fs::remove_dir(path).or_else(gone)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn finds_the_memory_controller() {
        let hybrid = "cgroup /cg/cpu cgroup rw,cpu 0 0\ncgroup /cg/memory cgroup rw,memory 0 0\n\
                      cgroup2 /cg/unified cgroup2 rw 0 0\n";
        let found = Cgroups::from_mounts("/swarmd", hybrid);
        assert_eq!((found.memory.as_deref(), found.unified), (Some(Path::new("/cg/memory")), false));
        let found = Cgroups::from_mounts("/swarmd/", "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n");
        assert_eq!((found.memory.as_deref(), found.unified), (Some(Path::new("/sys/fs/cgroup")), true));
    }
    #[tokio::test]
    async fn a_group_goes_with_what_is_in_it() {
        let cgroups = Cgroups::detect(&format!("/swarmd-test-{}", std::process::id()));
        let paths = cgroups.roots.iter().map(|root| cgroups.path(root, "left"));
        // Only where a group needs no settings before it takes a process.
        let paths: Vec<_> = paths.filter(|path| !path.starts_with("/sys/fs/cgroup/cpuset")).collect();
        assert!(!paths.is_empty(), "no control groups are mounted");
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        for path in &paths {
            std::fs::create_dir_all(path.join("within")).unwrap();
            std::fs::write(path.join("within/cgroup.procs"), child.id().to_string()).unwrap();
        }
        // As init does for those whose parent has died.
        let reaped = std::thread::spawn(move || child.wait());
        cgroups.remove("left").await.unwrap();
        assert!(!reaped.join().unwrap().unwrap().success());
        assert!(paths.iter().all(|path| !path.exists()));
        cgroups.remove("left").await.unwrap();
        paths.iter().for_each(|path| std::fs::remove_dir(path.parent().unwrap()).unwrap());
    }
}
