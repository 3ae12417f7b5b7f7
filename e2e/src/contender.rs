//! What a benchmark does to either side: our swarm, or Docker's.
//!
//! Both print tasks in Docker's shape, so both are read by the same code.

use std::net::Ipv4Addr;

use serde_json::Value;

use crate::command::Output;
use crate::lab::Lab;
use crate::peer::Peer;
use crate::process;
use crate::swarm::PATIENCE;
use crate::task::Inside;
use crate::wait::wait;

/// One side of a contest.
pub trait Contender {
    fn name(&self) -> &'static str;
    fn lab(&self) -> &Lab;
    /// Runs a command against the first manager, in the words that both sides share.
    fn command(&self, arguments: &[&str]) -> Output;
    /// The same against the manager on host `number`.
    fn command_on(&self, number: usize, arguments: &[&str]) -> Output;
    /// What `inspect` says of a task.
    fn inspect_task(&self, id: &str) -> Output;
    /// Number of containers on all hosts, in whichever state.
    fn containers(&self) -> usize;

    /// Without VIPs: the peer's do not work on every kernel.
    fn create(&self, service: &str, network: &str, replicas: usize) {
        let count = replicas.to_string();
        let image = self.lab().web();
        let create = ["service", "create", "--detach", "--endpoint-mode", "dnsrr", "--replicas", &count];
        self.command(&[&create[..], &["--network", network, "--name", service, &image]].concat()).ok();
    }

    /// The constraint that puts a task on host `number`.
    fn place(&self, number: usize) -> String;

    /// How a service is reached if the user says nothing, where that works.
    fn endpoint_mode(&self) -> &'static str;

    /// Starts to create a service on one host, with addresses as its users have them.
    fn create_at(&self, service: &str, network: &str, number: usize, replicas: usize) {
        let (count, place, image) = (replicas.to_string(), self.place(number), self.lab().web());
        let create = ["service", "create", "--detach", "--endpoint-mode", self.endpoint_mode()];
        let place = ["--constraint", &place, "--replicas", &count];
        let rest = ["--network", network, "--name", service, &image];
        self.command(&[&create[..], &place, &rest].concat()).ok();
    }

    fn create_network(&self, name: &str, subnet: &str) {
        self.command(&["network", "create", "--driver", "overlay", "--subnet", subnet, name]).ok();
    }

    /// Ids of the tasks that run and are meant to.
    fn running(&self, service: &str) -> Vec<String> {
        running(&self.command(&["service", "ps", "--no-trunc", "--format", "json", service]))
    }

    fn wait_running(&self, service: &str, count: usize) {
        wait(&format!("{count} tasks of {service} at {}", self.name()), PATIENCE * 5, || {
            let running = self.running(service).len();
            if running == count { Ok(()) } else { Err(format!("{running} run")) }
        });
    }

    /// Removes the service and waits until no container is left.
    fn remove(&self, service: &str) {
        self.command(&["service", "rm", service]).ok();
        wait(&format!("the containers of {} to go", self.name()), PATIENCE * 2, || match self.containers() {
            0 => Ok(()),
            left => Err(format!("{left} are left")),
        });
    }

    /// The inside and the overlay address of each running task.
    fn endpoints(&self, service: &str) -> Vec<(Inside, Ipv4Addr)> {
        self.running(service).iter().filter_map(|id| endpoint(&self.inspect_task(id).stdout)).collect()
    }
}

/// Rows of `service ps`, one JSON object a line.
fn running(output: &Output) -> Vec<String> {
    let rows = output.stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let runs = |row: &Value| {
        let state = row["CurrentState"].as_str().unwrap_or_default();
        row["DesiredState"] == "Running" && state.starts_with("Running")
    };
    rows.filter(runs).filter_map(|row| row["ID"].as_str().map(str::to_owned)).collect()
}

fn endpoint(inspected: &str) -> Option<(Inside, Ipv4Addr)> {
    let task: Value = serde_json::from_str(inspected).ok()?;
    let pid = task.pointer("/0/Status/ContainerStatus/PID")?.as_i64()?;
    let address = task.pointer("/0/NetworksAttachments/0/Addresses/0")?.as_str()?;
    let address = address.split('/').next()?.parse().ok()?;
    Some((Inside { pid: i32::try_from(pid).ok()? }, address))
}

/// Our side: a lab with a swarm.
#[derive(Debug)]
pub struct Ours<'a>(pub &'a Lab);

impl Contender for Ours<'_> {
    fn name(&self) -> &'static str {
        "swarmd"
    }

    fn lab(&self) -> &Lab {
        self.0
    }

    fn command(&self, arguments: &[&str]) -> Output {
        self.command_on(1, arguments)
    }

    fn command_on(&self, number: usize, arguments: &[&str]) -> Output {
        self.0.host(number).ctl(arguments)
    }

    fn inspect_task(&self, id: &str) -> Output {
        self.command(&["task", "inspect", id])
    }

    fn place(&self, number: usize) -> String {
        format!("node.hostname=={}", self.0.host(number).name())
    }

    fn endpoint_mode(&self) -> &'static str {
        "vip"
    }

    fn containers(&self) -> usize {
        process::in_cgroup(self.0.name()).len()
    }
}

impl Contender for Peer<'_> {
    fn name(&self) -> &'static str {
        "docker"
    }

    fn lab(&self) -> &Lab {
        self.lab
    }

    fn command(&self, arguments: &[&str]) -> Output {
        self.command_on(1, arguments)
    }

    fn command_on(&self, number: usize, arguments: &[&str]) -> Output {
        // This version knows no word `json` for a format.
        let arguments: Vec<_> =
            arguments.iter().map(|word| if *word == "json" { "{{json .}}" } else { word }).collect();
        self.daemons()[number - 1].docker(&arguments)
    }

    fn inspect_task(&self, id: &str) -> Output {
        self.command(&["inspect", "--type", "task", id])
    }

    /// Its daemons all have the machine's name.
    fn place(&self, number: usize) -> String {
        let info = ["info", "--format", "{{.Swarm.NodeID}}"];
        format!("node.id=={}", self.daemons()[number - 1].docker(&info).ok())
    }

    fn endpoint_mode(&self) -> &'static str {
        "dnsrr"
    }

    fn containers(&self) -> usize {
        self.daemons().iter().map(|daemon| daemon.docker(&["ps", "-aq"]).stdout.lines().count()).sum()
    }
}
