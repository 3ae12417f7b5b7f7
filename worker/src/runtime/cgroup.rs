//! What the kernel's control groups can do here, and what they say of a container.

use std::path::PathBuf;

use nix::sys::resource::{Resource, getrlimit};

use super::spec::Node;

/// Where memory is accounted: a hierarchy of its own in version 1, the only one in version 2.
#[derive(Debug, Clone)]
pub(super) struct Cgroups {
    memory: Option<PathBuf>,
    unified: bool,
}

impl Cgroups {
    pub(super) fn detect() -> Self {
        Self::from_mounts(&std::fs::read_to_string("/proc/self/mounts").unwrap_or_default())
    }

    fn from_mounts(mounts: &str) -> Self {
        let mounts = mounts.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            Some((*fields.get(1)?, *fields.get(2)?, *fields.get(3)?))
        });
        let (mut memory, mut second) = (None, None);
        for (path, kind, options) in mounts {
            match kind {
                "cgroup" if options.split(',').any(|option| option == "memory") => memory = Some(path.into()),
                "cgroup2" => second = Some(path.into()),
                _ => {}
            }
        }
        // With both mounted (hybrid) version 1 has the controllers.
        let unified = memory.is_none() && second.is_some();
        Self { memory: memory.or(second), unified }
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

    /// Whether the kernel has killed a process of the group for lack of memory. False once the group is gone.
    pub(super) fn oom_killed(&self, group: &str) -> bool {
        let file = if self.unified { "memory.events" } else { "memory.oom_control" };
        let path = self.memory.as_ref().map(|root| root.join(group.trim_start_matches('/')).join(file));
        let text = path.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
        text.lines().filter_map(|line| line.strip_prefix("oom_kill ")).any(|count| count.trim() != "0")
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn finds_the_memory_controller() {
        let hybrid = "cgroup /cg/cpu cgroup rw,cpu 0 0\ncgroup /cg/memory cgroup rw,memory 0 0\n\
                      cgroup2 /cg/unified cgroup2 rw 0 0\n";
        let found = Cgroups::from_mounts(hybrid);
        assert_eq!((found.memory.as_deref(), found.unified), (Some(Path::new("/cg/memory")), false));
        let found = Cgroups::from_mounts("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n");
        assert_eq!((found.memory.as_deref(), found.unified), (Some(Path::new("/sys/fs/cgroup")), true));
    }
}
