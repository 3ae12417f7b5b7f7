//! One node for a test: directories, a network namespace, a containerd of its own. Dropping it leaves nothing, also
//! after a panic.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::watch;
use worker::logs::{LogLine, LogQuery, LogSource};
use worker::runtime::containerd::{Config, Containerd};
use worker::runtime::{ContainerConfig, Error, Exit, ResolvedImage, Runtime};

use crate::image;

pub const IMAGE: &str = "test/plain:v1";
/// For everything that should be quick.
pub const LIMIT: Duration = Duration::from_secs(60);

pub struct Node {
    pub runtime: Option<Containerd>,
    pub config: Config,
    pub netns: Netns,
    /// Last, so that it goes after what lies in it.
    pub place: Place,
}

/// Directories, and on drop the end of all that has to do with them.
pub struct Place {
    pub root: PathBuf,
    cgroup: String,
}

pub struct Netns(String);

impl Node {
    /// With the image [`IMAGE`] loaded.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(adjust: impl FnOnce(&mut Config)) -> Self {
        let mut node = Self::stopped();
        adjust(&mut node.config);
        node.runtime = Some(Containerd::start(node.config.clone()).await.unwrap());
        let archive = image::plain().oci_archive(IMAGE);
        let names = node.runtime().load_image(Box::new(Cursor::new(archive))).await.unwrap();
        assert_eq!(names, [format!("docker.io/{IMAGE}")]);
        node
    }

    /// Nothing runs yet.
    pub fn stopped() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("rt-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let place = Place { root: Path::new("/tmp/rt").join(&name), cgroup: format!("/{name}") };
        let (data, exec) = (place.root.join("data"), place.root.join("exec"));
        let mut config = Config::new(data, exec, env!("CARGO_BIN_EXE_swarm-logger"));
        config.cgroup_parent.clone_from(&place.cgroup);
        Self { runtime: None, config, netns: Netns::new(name), place }
    }

    pub fn runtime(&self) -> &Containerd {
        self.runtime.as_ref().expect("the node was started")
    }

    /// A container that runs a shell script.
    pub fn script(&self, id: &str, script: &str) -> ContainerConfig {
        ContainerConfig {
            id: id.to_owned(),
            image: IMAGE.to_owned(),
            args: vec![script.to_owned()],
            netns: self.netns.path(),
            ..ContainerConfig::default()
        }
    }

    pub async fn start_container(&self, config: &ContainerConfig) -> u32 {
        self.runtime().create(config).await.unwrap();
        self.runtime().start(&config.id).await.unwrap().pid
    }

    /// Runs a container to its end.
    pub async fn run(&self, config: &ContainerConfig) -> (Exit, Vec<LogLine>) {
        self.start_container(config).await;
        let exit = soon(self.runtime().wait(&config.id)).await.unwrap();
        let lines = self.output(&config.id).await;
        (exit, lines)
    }

    /// Runs a shell script that must succeed; what it writes to standard output.
    pub async fn stdout_of(&self, config: &ContainerConfig) -> String {
        let (exit, lines) = self.run(config).await;
        let text = |source| {
            let lines = lines.iter().filter(|line| line.source == source);
            String::from_utf8(lines.flat_map(|line| line.data.clone()).collect()).unwrap()
        };
        assert_eq!(exit.code, 0, "{}", text(LogSource::Stderr));
        text(LogSource::Stdout)
    }

    /// All output of a container that ends.
    pub async fn output(&self, id: &str) -> Vec<LogLine> {
        let stream = self.runtime().logs(id, LogQuery { follow: true, ..LogQuery::default() });
        soon(stream.map(Result::unwrap).collect()).await
    }

    /// Waits until a running container has written `text`.
    pub async fn wrote(&self, id: &str, text: &str) {
        let stream = self.runtime().logs(id, LogQuery { follow: true, ..LogQuery::default() });
        let lines = stream.filter(|line| {
            let found = String::from_utf8_lossy(&line.as_ref().unwrap().data).contains(text);
            std::future::ready(found)
        });
        let mut lines = std::pin::pin!(lines);
        assert!(soon(lines.next()).await.is_some(), "{id} ended without writing {text:?}");
    }

    pub async fn pull(&self, image: &str) -> Result<ResolvedImage, Error> {
        soon(self.runtime().pull(image, None, &watch::Sender::default())).await
    }

    /// A control file of a container, of either version of control groups.
    pub fn cgroup_file(&self, id: &str, controller: &str, name: &str) -> PathBuf {
        let group = format!("{}/{id}", self.place.cgroup.trim_start_matches('/'));
        let first = Path::new("/sys/fs/cgroup").join(controller).join(&group).join(name);
        if first.exists() { first } else { Path::new("/sys/fs/cgroup").join(group).join(name) }
    }
}

pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("it takes too long")
}

/// Looks until `condition` holds.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let waited = tokio::time::timeout(LIMIT, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("not within {LIMIT:?}: {what}"));
}

impl Netns {
    fn new(name: String) -> Self {
        assert!(ip(&["netns", "add", &name]), "ip netns add works");
        Self(name)
    }

    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.0)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        ip(&["netns", "delete", &self.0]);
    }
}

fn ip(arguments: &[&str]) -> bool {
    Command::new("ip").args(arguments).status().is_ok_and(|status| status.success())
}

impl Place {
    /// Processes that have to do with this place: those that name it, and those in our containers.
    pub fn processes(&self) -> Vec<u32> {
        let root = self.root.to_string_lossy().into_owned();
        let names_it = |pid: &u32| {
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            let grouped = cgroup.lines().any(|line| line.contains(&format!(":{}/", self.cgroup)));
            *pid != std::process::id() && (String::from_utf8_lossy(&arguments).contains(&root) || grouped)
        };
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(names_it).collect()
    }

    pub fn mounts(&self) -> Vec<PathBuf> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let paths = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        paths.map(PathBuf::from).filter(|path| path.starts_with(&self.root)).collect()
    }

    fn cgroups(&self) -> Vec<PathBuf> {
        let roots = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
        let groups = roots.chain([PathBuf::from("/sys/fs/cgroup")]);
        groups
            .map(|root| root.join(self.cgroup.trim_start_matches('/')))
            .filter(|path| path.is_dir())
            .collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for _ in 0..100 {
            let processes = self.processes();
            if processes.is_empty() {
                break;
            }
            for pid in processes {
                let pid = nix::unistd::Pid::from_raw(pid.try_into().unwrap());
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        for mount in self.mounts().into_iter().rev() {
            let _ = nix::mount::umount2(&mount, nix::mount::MntFlags::MNT_DETACH);
        }
        for group in self.cgroups() {
            for child in fs::read_dir(&group).into_iter().flatten().flatten() {
                let _ = fs::remove_dir(child.path());
            }
            let _ = fs::remove_dir(group);
        }
        match std::thread::panicking() {
            true => eprintln!("{} is kept", self.root.display()),
            false => drop(fs::remove_dir_all(&self.root)),
        }
    }
}
