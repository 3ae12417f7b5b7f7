//! Docker's swarm mode on the hosts of a lab: the peer of the benchmarks.

use std::process::Child;
use std::time::Duration;

use crate::command::{Output, run, start_logged};
use crate::host::Host;
use crate::lab::Lab;
use crate::registry;
use crate::swarm::PATIENCE;
use crate::wait::wait;

/// A swarm of dockerd, one on each host of a lab; the first host is the manager.
#[derive(Debug)]
pub struct Peer<'a> {
    daemons: Vec<Daemon<'a>>,
}

#[derive(Debug)]
pub struct Daemon<'a> {
    pub host: &'a Host,
    process: Child,
}

impl<'a> Peer<'a> {
    pub fn form(lab: &'a Lab) -> Self {
        let daemons: Vec<_> = lab.hosts().iter().map(Daemon::start).collect();
        daemons.iter().for_each(Daemon::wait_ready);
        let peer = Self { daemons };

        let first = peer.manager();
        let addr = first.host.addr().to_string();
        first.docker(&["swarm", "init", "--advertise-addr", &addr]).ok();
        let token = first.docker(&["swarm", "join-token", "-q", "worker"]).ok();
        for daemon in peer.daemons.iter().skip(1) {
            daemon.docker(&["swarm", "join", "--token", &token, &format!("{addr}:2377")]).ok();
        }
        peer
    }

    pub fn manager(&self) -> &Daemon<'a> {
        &self.daemons[0]
    }

    pub fn daemons(&self) -> &[Daemon<'a>] {
        &self.daemons
    }

    /// Waits until `service` has `count` running tasks.
    #[track_caller]
    pub fn wait_running(&self, service: &str, count: usize) {
        let bound = PATIENCE * 5;
        wait(&format!("{count} tasks of the peer's {service}"), bound, || {
            let running = self.running(service).len();
            if running == count { Ok(()) } else { Err(format!("{running} run")) }
        });
    }

    /// Ids of the running tasks.
    pub fn running(&self, service: &str) -> Vec<String> {
        let wanted = &[
            "service",
            "ps",
            "-f",
            "desired-state=running",
            "--format",
            "{{.ID}} {{.CurrentState}}",
            service,
        ];
        let rows = self.manager().docker(wanted);
        let rows = rows.stdout.lines().filter_map(|row| row.split_once(' '));
        rows.filter(|(_, state)| state.starts_with("Running")).map(|(id, _)| id.to_owned()).collect()
    }

    /// Removes `service` and waits until no container of any host is left.
    #[track_caller]
    pub fn remove_service(&self, service: &str) {
        self.manager().docker(&["service", "rm", service]).ok();
        wait("the peer's containers to go", PATIENCE * 2, || {
            let left: usize =
                self.daemons.iter().map(|daemon| daemon.docker(&["ps", "-aq"]).stdout.lines().count()).sum();
            if left == 0 { Ok(()) } else { Err(format!("{left} are left")) }
        });
    }
}

impl<'a> Daemon<'a> {
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
