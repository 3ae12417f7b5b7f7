//! One host: a network namespace with an address on the bridge, folders of its own, and a `swarmd`.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::command::{self, Output, inside, run, run_inside, start_logged};
use crate::lab::{Site, build_folder};
use crate::registry;
use crate::wait::wait;
use crate::{clean, names, trace};

const READY: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Host {
    site: Site,
    name: String,
    addr: Ipv4Addr,
    folder: PathBuf,
    daemon: Mutex<Option<Child>>,
}

impl Host {
    /// Host `number` of a lab: `h<number>` with the address 192.168.77.(10 + number).
    pub(crate) fn new(site: &Site, number: u8) -> Self {
        let name = format!("h{number}");
        let folder = site.folder.join(&name);
        fs::create_dir_all(&folder)
            .unwrap_or_else(|error| panic!("cannot make {}: {error}", folder.display()));
        let addr = Ipv4Addr::new(192, 168, 77, 10 + number);
        let host = Self { site: site.clone(), name, addr, folder, daemon: Mutex::new(None) };
        host.plug_in();
        host
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn addr(&self) -> Ipv4Addr {
        self.addr
    }

    /// Path of the host's network namespace.
    pub fn netns(&self) -> String {
        self.site.netns(&self.name)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn socket(&self) -> String {
        format!("unix://{}/swarmd.sock", self.folder.display())
    }

    pub fn data_root(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Where a manager keeps its log and snapshots.
    pub fn store(&self) -> PathBuf {
        self.data_root().join("raft")
    }

    pub fn exec_root(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// The cgroup below which the host's containers run, as a path below each hierarchy.
    pub(crate) fn cgroup(&self) -> String {
        format!("{}/{}", self.site.name, self.name)
    }

    /// The file of that name among the lab's logs.
    pub(crate) fn log(&self, kind: &str) -> PathBuf {
        self.site.logs.join(format!("{}.{kind}", self.name))
    }

    fn plug_in(&self) {
        let (namespace, name, addr) = (format!("{}-{}", self.site.name, self.name), &self.name, self.addr);
        run("ip", &["netns", "add", &namespace]).ok();
        let port = format!(
            "ip link add {name} type veth peer name eth0 netns {namespace}
             ip link set {name} master br0 up"
        );
        run_inside(&self.site.bridge(), "sh", &["-ec", &port]).ok();
        let gateway = registry::ADDRESS.split(':').next().unwrap_or_default();
        // A machine keeps its MAC address over a reboot; its neighbours count on that.
        let own = format!(
            "ip link set lo up
             ip link set eth0 address 02:00:c0:a8:4d:{:02x}
             ip address add {addr}/24 dev eth0
             ip link set eth0 up
             ip route add default via {gateway}",
            addr.octets()[3]
        );
        self.sh(&own).ok();
    }

    /// Runs a shell script in the host's network namespace.
    pub fn sh(&self, script: &str) -> Output {
        run_inside(&self.netns(), "sh", &["-ec", script])
    }

    /// Does `work` on a thread in the host's network namespace.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        names::within(&self.netns(), work)
    }

    /// Takes a UDP port of the host, until the socket is dropped.
    pub fn bind_udp(&self, address: (&'static str, u16)) -> UdpSocket {
        let netns = self.netns();
        // A thread that ends takes the namespace that it entered with it; the socket stays.
        let bound = std::thread::spawn(move || {
            let namespace = fs::File::open(netns)?;
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            UdpSocket::bind(address)
        });
        let bound = bound.join().unwrap_or_else(|_| panic!("cannot bind {address:?}"));
        bound.unwrap_or_else(|error| panic!("cannot bind {address:?} on {}: {error}", self.name))
    }

    pub(crate) fn command(&self, program: &str) -> Command {
        inside(&self.netns(), program)
    }

    /// Runs `swarmctl` against this host's daemon.
    pub fn ctl(&self, arguments: &[&str]) -> Output {
        self.ctl_within(command::BOUND, arguments)
    }

    /// As `ctl`, ended after `bound` with a code other than 0.
    pub fn ctl_within(&self, bound: Duration, arguments: &[&str]) -> Output {
        let socket = self.socket();
        command::run_within(bound, &program("swarmctl"), &[&["-H", &socket], arguments].concat())
    }

    /// As `ctl`, with a line on its standard input.
    pub fn ctl_told(&self, line: &str, arguments: &[&str]) -> Output {
        let (socket, program) = (self.socket(), program("swarmctl"));
        let told = ["-ec", "printf '%s\\n' \"$0\" | \"$@\"", line, &program, "-H", &socket];
        command::run("sh", &[&told, arguments].concat())
    }

    /// As `ctl`, with Docker's client configuration in the folder `config`.
    pub fn ctl_with_config(&self, config: &Path, arguments: &[&str]) -> Output {
        let (config, program) = (format!("DOCKER_CONFIG={}", config.display()), program("swarmctl"));
        let socket = self.socket();
        command::run("env", &[&[config.as_str(), &program, "-H", &socket], arguments].concat())
    }

    /// Runs `swarmctl … --format json` and returns the objects printed: those of an array, or one a line.
    ///
    /// # Panics
    ///
    /// When the command fails or prints something else.
    #[track_caller]
    pub fn ctl_json(&self, arguments: &[&str]) -> Vec<Value> {
        let output = self.ctl(&[arguments, &["--format", "json"]].concat());
        let shown = output.to_string();
        let text = output.ok();
        let values: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(&text).into_iter().collect();
        let values = values.unwrap_or_else(|error| panic!("no JSON: {error}: {shown}"));
        values
            .into_iter()
            .flat_map(|value| if let Value::Array(list) = value { list } else { vec![value] })
            .collect()
    }

    /// Starts `swarmd` and waits until it answers.
    pub fn start(&self) {
        self.launch();
        self.wait_ready();
    }

    /// Starts `swarmd` without waiting.
    pub fn launch(&self) {
        self.launch_dying("");
    }

    /// Starts a `swarmd` that dies at a step of its work, as `SWARMD_DIE_AT` names it; at none if that is empty.
    pub fn launch_dying(&self, step: &str) {
        let dying = if step.is_empty() { &[][..] } else { &[("SWARMD_DIE_AT", step)] };
        self.launch_in(dying);
    }

    /// Starts a `swarmd` that finds only the programs in this folder.
    pub fn launch_among(&self, programs: &Path) {
        self.launch_in(&[("PATH", &programs.display().to_string())]);
    }

    /// Starts a `swarmd` whose clock is off by `offset`, as faketime writes it: `+365d`.
    pub fn launch_at(&self, offset: &str) {
        let library = run("sh", &["-c", "ls /usr/lib/*/faketime/libfaketime.so.1"]).ok();
        let clock = [("LD_PRELOAD", library.as_str()), ("FAKETIME", offset)];
        self.launch_in(&[&clock[..], &[("FAKETIME_DONT_FAKE_MONOTONIC", "1")]].concat());
    }

    fn launch_in(&self, environment: &[(&str, &str)]) {
        let (data, exec) = (self.data_root().display().to_string(), self.exec_root().display().to_string());
        let cgroup = format!("/{}", self.cgroup());
        let arguments = [
            &["--data-root", &data, "--exec-root", &exec, "--cgroup-parent", &cgroup][..],
            &["--host", &self.socket(), "--hostname", &self.name, "--log-level", "debug"],
            &["--insecure-registry", registry::ADDRESS],
        ];
        let mut command = self.command(&program("swarmd"));
        command.args(arguments.concat());
        command.envs(environment.iter().copied());
        self.spawn(command);
    }

    /// Starts `swarmd` without waiting and without a debug log.
    pub fn launch_plain(&self) {
        let (data, exec) = (self.data_root().display().to_string(), self.exec_root().display().to_string());
        let cgroup = format!("/{}", self.cgroup());
        let places = ["--data-root", &data, "--exec-root", &exec, "--cgroup-parent", &cgroup];
        self.launch_with(&[&places[..], &["--host", &self.socket(), "--hostname", &self.name]].concat());
    }

    /// Starts `swarmd` with these arguments and no other.
    pub fn launch_with(&self, arguments: &[&str]) {
        let mut command = self.command(&program("swarmd"));
        command.args(arguments);
        self.spawn(command);
    }

    fn spawn(&self, mut command: Command) {
        let mut daemon = self.daemon();
        assert!(daemon.is_none(), "swarmd of {} runs already", self.name);
        *daemon = Some(start_logged(&mut command, &self.log("swarmd.log")));
    }

    /// Waits until `swarmd` answers.
    #[track_caller]
    pub fn wait_ready(&self) {
        wait(&format!("swarmd of {} to answer", self.name), READY, || {
            self.assert_alive();
            let answer = self.ctl(&["info"]);
            if answer.succeeded() { Ok(()) } else { Err(answer) }
        });
    }

    /// A daemon that has ended will not answer: its last words say more than a wait in vain.
    #[track_caller]
    fn assert_alive(&self) {
        let ended = self.daemon().as_mut().and_then(|daemon| daemon.try_wait().ok().flatten());
        if let Some(status) = ended {
            let log = self.logged();
            let last: Vec<_> = log.lines().rev().take(5).collect();
            let last: Vec<_> = last.into_iter().rev().collect();
            panic!("swarmd of {} ended with {status}:\n{}", self.name, last.join("\n"));
        }
    }

    /// Whether a `swarmd` was started here and not ended by the story.
    pub(crate) fn runs(&self) -> bool {
        self.daemon().is_some()
    }

    /// Process id of `swarmd`, which must run.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        let daemon = self.daemon();
        daemon.as_ref().unwrap_or_else(|| panic!("swarmd of {} does not run", self.name)).id() as i32
    }

    /// Ends `swarmd` with SIGKILL. Tasks and containerd are left alone.
    pub fn kill(&self) {
        self.stop(Signal::SIGKILL);
    }

    /// Asks `swarmd` to end and waits for it.
    #[track_caller]
    pub fn terminate(&self) -> ExitStatus {
        self.stop(Signal::SIGTERM)
    }

    #[track_caller]
    fn stop(&self, signal: Signal) -> ExitStatus {
        let daemon = self.daemon().take();
        let mut daemon = daemon.unwrap_or_else(|| panic!("swarmd of {} does not run", self.name));
        let pid = Pid::from_raw(daemon.id() as i32);
        kill(pid, signal).unwrap_or_else(|error| panic!("cannot signal swarmd of {}: {error}", self.name));
        self.reap(&mut daemon)
    }

    /// Whether the `swarmd` that was started here has ended by itself. `wait_exit` takes note of it.
    pub fn has_exited(&self) -> bool {
        self.daemon().as_mut().is_some_and(|daemon| daemon.try_wait().is_ok_and(|status| status.is_some()))
    }

    /// Waits until a `swarmd` that ends by itself has.
    #[track_caller]
    pub fn wait_exit(&self) -> ExitStatus {
        let daemon = self.daemon().take();
        let mut daemon = daemon.unwrap_or_else(|| panic!("swarmd of {} does not run", self.name));
        self.reap(&mut daemon)
    }

    #[track_caller]
    fn reap(&self, daemon: &mut Child) -> ExitStatus {
        wait(&format!("swarmd of {} to end", self.name), READY, || match daemon.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err(format!("process {} runs", daemon.id())),
            Err(error) => Err(error.to_string()),
        })
    }

    /// Stops `swarmd` where it stands, as a machine that hangs, until `resume`.
    pub fn freeze(&self) {
        kill(Pid::from_raw(self.pid()), Signal::SIGSTOP)
            .unwrap_or_else(|error| panic!("cannot stop swarmd: {error}"));
    }

    pub fn resume(&self) {
        kill(Pid::from_raw(self.pid()), Signal::SIGCONT)
            .unwrap_or_else(|error| panic!("cannot resume swarmd: {error}"));
    }

    /// Takes the host off the network silently: its link stays up, no packet passes.
    pub fn cut(&self) {
        run_inside(&self.site.bridge(), "ip", &["link", "set", &self.name, "nomaster"]).ok();
    }

    /// Undoes `cut`.
    pub fn heal(&self) {
        run_inside(&self.site.bridge(), "ip", &["link", "set", &self.name, "master", "br0"]).ok();
    }

    /// Lets no more than `rate` (in the words of `tc`, such as `16mbit`) come in from the network.
    pub fn throttle(&self, rate: &str) {
        let limit = ["root", "tbf", "rate", rate, "burst", "64k", "latency", "400ms"];
        let port = ["qdisc", "replace", "dev", &self.name];
        run_inside(&self.site.bridge(), "tc", &[&port[..], &limit].concat()).ok();
    }

    /// Pulls the plug: every process ends at once, and what a machine loses at a reboot is lost. The disk is kept.
    pub fn power_off(&self) {
        if let Some(mut daemon) = self.daemon().take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        clean::kill(&self.cgroup(), &self.folder);
        clean::unmount_below(&self.folder);
        // The kernel takes its time over a namespace, and would answer pings meanwhile; a device goes at once.
        run_inside(&self.site.bridge(), "ip", &["link", "delete", &self.name]).ok();
        run("ip", &["netns", "delete", &format!("{}-{}", self.site.name, self.name)]).ok();
        let _ = fs::remove_dir_all(self.exec_root());
    }

    /// Boots the host after `power_off`, with `swarmd` not yet started.
    pub fn power_on(&self) {
        self.plug_in();
    }

    /// Everything in the kernel and on disk that a network or a task leaves on this host, one thing a line, for
    /// comparing before with after.
    pub fn footprint(&self) -> std::collections::BTreeSet<String> {
        trace::footprint(&self.netns(), &self.folder, &self.cgroup())
    }

    /// Everything else that a task leaves on this host, one thing a line.
    pub fn residue(&self) -> std::collections::BTreeSet<String> {
        trace::residue(&self.folder, &self.cgroup())
    }

    /// Process ids of this host's programs with that name.
    pub fn processes(&self, program: &str) -> Vec<i32> {
        crate::running_program(program, &format!("{}/", self.folder.display()))
    }

    /// Paths of the network namespaces of tasks and overlays on this host.
    pub fn namespaces(&self) -> Vec<PathBuf> {
        trace::namespaces(&self.folder)
    }

    /// What `swarmd` has written to its log.
    pub fn logged(&self) -> String {
        fs::read_to_string(self.log("swarmd.log")).unwrap_or_default()
    }

    /// The files of `swarmd` on this host that contain `text`. Images and containers are left out.
    pub fn files_with(&self, text: &str) -> Vec<String> {
        let folder = self.folder.display().to_string();
        let found =
            run("grep", &["-rlaF", "--exclude-dir=io.containerd*", "--exclude=*.log", "--", text, &folder]);
        found.stdout.lines().map(str::to_owned).collect()
    }

    pub(crate) fn describe(&self) -> String {
        let views = [&["node", "ls"][..], &["service", "ls"], &["task", "ls", "--format", "json"], &["info"]];
        let views = views.map(|view| self.ctl_within(Duration::from_secs(5), view).to_string());
        format!("{}\n{}", views.join("\n"), trace::describe(&self.netns(), &self.folder, &self.cgroup()))
    }

    fn daemon(&self) -> MutexGuard<'_, Option<Child>> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Host {
    /// Reaps the child; the rest is removed with the lab.
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon().take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// Path of one of our programs, built beside this one.
fn program(name: &str) -> String {
    let path = build_folder().join(name);
    assert!(path.exists(), "{} is not built: run `make build`", path.display());
    path.display().to_string()
}
