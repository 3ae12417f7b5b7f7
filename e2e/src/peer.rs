//! Docker's swarm mode on the hosts of a lab: the peer of the benchmarks.

use std::process::Child;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::command::{Output, end, run, start_logged};
use crate::host::Host;
use crate::lab::Lab;
use crate::registry;
use crate::wait::wait;

/// A swarm of dockerd, one on each host of a lab.
#[derive(Debug)]
pub struct Peer<'a> {
    pub(crate) lab: &'a Lab,
    daemons: Vec<Daemon<'a>>,
}

#[derive(Debug)]
pub struct Daemon<'a> {
    host: &'a Host,
    process: Child,
}

impl<'a> Peer<'a> {
    /// Forms a swarm: the first `managers` hosts are managers, the others workers.
    pub fn form(lab: &'a Lab, managers: usize) -> Self {
        let daemons: Vec<_> = lab.hosts().iter().map(Daemon::start).collect();
        daemons.iter().for_each(Daemon::wait_ready);

        let addr = lab.host(1).addr().to_string();
        daemons[0].docker(&["swarm", "init", "--advertise-addr", &addr]).ok();
        let token = |role: &str| daemons[0].docker(&["swarm", "join-token", "-q", role]).ok();
        let (manager, worker) = (token("manager"), token("worker"));
        for (number, daemon) in daemons.iter().enumerate().skip(1) {
            let token = if number < managers { &manager } else { &worker };
            let own = daemon.host.addr().to_string();
            let join = ["swarm", "join", "--advertise-addr", &own, "--token", token, &format!("{addr}:2377")];
            daemon.docker(&join).ok();
        }
        Self { lab, daemons }
    }

    pub fn daemons_mut(&mut self) -> &mut [Daemon<'a>] {
        &mut self.daemons
    }

    pub fn daemons(&self) -> &[Daemon<'a>] {
        &self.daemons
    }
}

impl<'a> Daemon<'a> {
    /// Ends the daemon and waits for that.
    pub fn stop(&mut self, signal: Signal) {
        end(&mut self.process, signal);
    }

    /// Starts it again after `stop`, without waiting.
    pub fn restart(&mut self) {
        *self = Self::start(self.host);
    }

    fn start(host: &'a Host) -> Self {
        let folder = host.folder().display();
        let mut command = host.command("dockerd");
        command.args([
            "--data-root",
            &format!("{folder}/docker"),
            "--exec-root",
            &format!("{folder}/dockerrun"),
        ]);
        command.args(["--pidfile", &format!("{folder}/docker.pid"), "-H", &Self::socket(host)]);
        command.args(["--cgroup-parent", &format!("/{}", host.cgroup())]);
        command.args(["--insecure-registry", registry::ADDRESS]);
        let process = start_logged(&mut command, &host.log("dockerd.log"));
        Self { host, process }
    }

    fn socket(host: &Host) -> String {
        format!("unix://{}/docker.sock", host.folder().display())
    }

    /// Path of the socket of its API.
    pub fn socket_path(&self) -> String {
        format!("{}/docker.sock", self.host.folder().display())
    }

    pub fn pid(&self) -> i32 {
        self.process.id() as i32
    }

    pub fn docker(&self, arguments: &[&str]) -> Output {
        let socket = Self::socket(self.host);
        run("docker", &[&["-H", &socket], arguments].concat())
    }

    #[track_caller]
    fn wait_ready(&self) {
        wait("dockerd to answer", Duration::from_secs(60), || {
            let answer = self.docker(&["info"]);
            if answer.succeeded() { Ok(()) } else { Err(answer) }
        });
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
