//! The bridge, the hosts on it and the registry: what a story runs on.
//!
//! Each lab has names, namespaces, folders and cgroups of its own, so labs run side by side; the addresses inside
//! are the same in all of them. Logs and what the kernel looked like at the end stay in `target/e2e/<story>` when
//! a story fails, and go when it passes. Every story ends with an `audit` of what the swarm gave out and of each node's
//! kernel.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::audit;
use crate::clean;
use crate::command::{run, run_inside};
use crate::host::Host;
use crate::image;
use crate::registry::{self, Registry, Strictness};

/// What every host of a lab shares.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    /// Unique on this machine; the prefix of every name.
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) logs: PathBuf,
}

impl Site {
    pub(crate) fn netns(&self, of: &str) -> String {
        clean::namespace_path(&format!("{}-{of}", self.name)).display().to_string()
    }

    /// The namespace of the bridge: the network between the hosts, not one of them.
    pub(crate) fn bridge(&self) -> String {
        self.netns("net")
    }
}

#[derive(Debug)]
pub struct Lab {
    site: Site,
    hosts: Vec<Host>,
    registry: Option<Registry>,
    kept: bool,
    damaged: AtomicBool,
}

impl Lab {
    /// Makes a network with `hosts` hosts, h1 and up, and the registry. No `swarmd` runs yet.
    pub fn new(story: &str, hosts: u8) -> Self {
        clean::sweep();
        let folder = clean::claim();
        let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let logs = logs_of(story);
        let mut lab = Self {
            site: Site { name, folder, logs },
            hosts: Vec::new(),
            registry: None,
            kept: false,
            damaged: AtomicBool::new(false),
        };

        make_bridge(&lab.site);
        lab.registry = Some(Registry::start(
            &lab.site.bridge(),
            &lab.registry_folder(),
            &lab.site.logs.join("registry.log"),
        ));
        (0..hosts).for_each(|_| lab.add_host());
        lab.registry.iter().for_each(Registry::ready);
        lab
    }

    /// Adds the next host to the network.
    pub fn add_host(&mut self) {
        let number = u8::try_from(self.hosts.len() + 1).unwrap_or(u8::MAX);
        self.hosts.push(Host::new(&self.site, number));
    }

    /// Joins all hosts by a second network, with the device `eth1` and the address 192.168.88.(10 + number).
    pub fn second_network(&self) {
        let bridge = self.site.bridge();
        run_inside(&bridge, "ip", &["link", "add", "br1", "type", "bridge"]).ok();
        run_inside(&bridge, "ip", &["link", "set", "br1", "up"]).ok();
        for host in &self.hosts {
            let (name, number) = (host.name(), host.addr().octets()[3]);
            let namespace = format!("{}-{name}", self.site.name);
            let port = format!(
                "ip link add {name}b type veth peer name eth1 netns {namespace}
                 ip link set {name}b master br1 up"
            );
            run_inside(&bridge, "sh", &["-ec", &port]).ok();
            host.sh(&format!("ip address add 192.168.88.{number}/24 dev eth1; ip link set eth1 up")).ok();
        }
    }

    /// Host `number`, from 1.
    #[track_caller]
    pub fn host(&self, number: usize) -> &Host {
        &self.hosts[number - 1]
    }

    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Path of the network namespace between the hosts.
    pub fn bridge(&self) -> String {
        self.site.bridge()
    }

    /// Runs a shell script in the network between the hosts, where `h<n>` is the port of a host.
    pub fn between(&self, script: &str) -> crate::Output {
        run_inside(&self.site.bridge(), "sh", &["-ec", script])
    }

    pub fn name(&self) -> &str {
        &self.site.name
    }

    pub fn folder(&self) -> &Path {
        &self.site.folder
    }

    /// The reference of the test image with the web server.
    pub fn web(&self) -> String {
        self.image("web:latest")
    }

    /// The reference of `name` in the lab's registry, whether it exists or not.
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}", registry::ADDRESS)
    }

    /// Starts another registry with the same images, which no host is allowed to speak to in plain HTTP.
    pub fn strict_registry(&self, strictness: Strictness) -> Registry {
        let log = self.site.logs.join("strict-registry.log");
        Registry::strict(&self.site.bridge(), &self.registry_folder(), strictness, &log)
    }

    /// Adds an image as `web`, and larger by `bytes`, to the registry; returns its reference.
    pub fn large_image(&self, name: &str, bytes: usize) -> String {
        registry::publish_large(&self.registry_folder(), name, bytes)
            .unwrap_or_else(|error| panic!("cannot publish {name}: {error}"));
        self.image(name)
    }

    /// Adds an image with a web server that loses no request when it is stopped, `/bin/steady`, with tags 1 and 2;
    /// returns its reference without tag.
    pub fn steady_image(&self) -> String {
        registry::publish_program(&self.registry_folder(), "steady", &build_folder().join("steady"))
            .unwrap_or_else(|error| panic!("cannot publish steady: {error}"));
        self.image("steady")
    }

    /// Adds an image as `web` whose health check looks for the file `/tmp/ok`; returns its reference.
    pub fn checked_image(&self) -> String {
        registry::publish_checked(&self.registry_folder())
            .unwrap_or_else(|error| panic!("cannot publish checked: {error}"));
        self.image("checked")
    }

    fn registry_folder(&self) -> PathBuf {
        self.site.folder.join("registry")
    }

    /// Makes an archive with version 2 of the image, named `reference`, as `image load` takes it.
    pub fn archive(&self, reference: &str) -> PathBuf {
        let scratch = self.site.folder.join("archive");
        fs::create_dir_all(&scratch)
            .unwrap_or_else(|error| panic!("cannot make {}: {error}", scratch.display()));
        let layer = image::layer(&scratch);
        image::archive(&image::web(&layer, "2"), reference, &scratch)
    }

    /// The story changes by hand what nodes have in the kernel, so that they have something to mend.
    pub fn damage(&self) {
        self.damaged.store(true, Ordering::Relaxed);
    }

    /// Leaves everything running when the lab is dropped, until `clean::remove` of its name.
    pub fn keep(mut self) {
        clean::disown(&self.site.folder);
        self.kept = true;
        std::mem::forget(self.registry.take());
        self.hosts.drain(..).for_each(std::mem::forget);
    }

    /// Writes what daemons and kernel look like beside the logs.
    fn diagnose(&self) {
        for host in &self.hosts {
            let path = self.site.logs.join(format!("{}.state", host.name()));
            if let Err(error) = fs::write(&path, host.describe()) {
                eprintln!("cannot write {}: {error}", path.display());
            }
        }
        let (from, to) = (self.site.folder.display(), self.site.logs.display());
        let script =
            format!("cd {from} && find . -name '*.log' -size -20M -exec cp --parents -t {to} {{}} +");
        run("sh", &["-c", &script]);
        eprintln!("logs and state are in {}", self.site.logs.display());
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let panicking = std::thread::panicking();
        let mut flaws = if panicking { Vec::new() } else { audit::flaws(&self.hosts) };
        if !panicking && !self.damaged.load(Ordering::Relaxed) {
            flaws.extend(audit::mended(&self.hosts));
        }
        let failed = panicking || !flaws.is_empty();
        if failed {
            self.diagnose();
        }
        self.registry = None;
        self.hosts.clear();
        clean::remove(&self.site.name);
        if !failed {
            let _ = fs::remove_dir_all(&self.site.logs);
        }
        assert!(flaws.is_empty(), "the swarm is not sound:\n{}", flaws.join("\n"));
    }
}

/// The folder with the programs built beside this one: `target/debug` or `target/release`.
pub(crate) fn build_folder() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_else(|error| panic!("no path of this program: {error}"));
    let mut folder = own.parent().map(Path::to_owned).unwrap_or_default();
    if folder.ends_with("deps") {
        folder.pop();
    }
    folder
}

fn logs_of(story: &str) -> PathBuf {
    let slug: String = story.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let target = build_folder().parent().map(Path::to_owned).unwrap_or_default();
    let logs = target.join("e2e").join(slug);
    let _ = fs::remove_dir_all(&logs);
    fs::create_dir_all(&logs).unwrap_or_else(|error| panic!("cannot make {}: {error}", logs.display()));
    logs
}

fn make_bridge(site: &Site) {
    let namespace = format!("{}-net", site.name);
    run("ip", &["netns", "add", &namespace]).ok();
    let address = registry::ADDRESS.split(':').next().unwrap_or_default();
    let script = format!(
        "ip link set lo up
         ip link add br0 type bridge
         ip address add {address}/24 dev br0
         ip link set br0 up"
    );
    run("nsenter", &[&format!("--net={}", site.bridge()), "sh", "-ec", &script]).ok();
}
