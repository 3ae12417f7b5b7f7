//! The steps that stories share: form a swarm, see its nodes and tasks, wait for services.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::host::Host;
use crate::lab::Lab;
use crate::rows::{NetworkRow, NodeRow, ServiceRow, TaskRow};
use crate::task::Inside;
use crate::wait::wait;

/// How long a story waits for what has no bound of its own. Generous: it costs time only when a story fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

impl Lab {
    /// A formed swarm: the first `managers` hosts are managers, `workers` more are workers.
    pub fn swarm(story: &str, managers: u8, workers: u8) -> Self {
        Self::swarm_with(story, managers, workers, &[])
    }

    /// As `swarm`, with more arguments for `swarm init`.
    pub fn swarm_with(story: &str, managers: u8, workers: u8, init: &[&str]) -> Self {
        let lab = Self::new(story, managers + workers);
        lab.hosts().iter().for_each(Host::launch);
        lab.form(managers, init);
        lab
    }

    /// As `swarm` with managers only, each with the settings of a user who names nothing but places: no debug log.
    pub fn plain_swarm(story: &str, managers: u8) -> Self {
        let lab = Self::new(story, managers);
        lab.hosts().iter().for_each(Host::launch_plain);
        lab.form(managers, &[]);
        lab
    }

    /// Makes a swarm of hosts whose `swarmd` was launched.
    fn form(&self, managers: u8, init: &[&str]) {
        self.hosts().iter().for_each(Host::wait_ready);

        let first = self.host(1);
        first.init(init);
        let (manager_token, worker_token) = (first.token("manager"), first.token("worker"));
        for (number, host) in self.hosts().iter().enumerate().skip(1) {
            let token = if number < usize::from(managers) { &manager_token } else { &worker_token };
            host.join(token, first).ok();
        }
        first.wait_nodes(self.hosts().len());
    }

    /// Where a running task is: its process and what can be done inside.
    #[track_caller]
    pub fn enter(&self, task: &TaskRow) -> Inside {
        Inside::of(self.host(1), &task.id)
    }

    #[track_caller]
    pub fn host_named(&self, name: &str) -> &Host {
        let found = self.hosts().iter().find(|host| host.name() == name);
        found.unwrap_or_else(|| panic!("no host is named {name}"))
    }
}

impl Host {
    /// Makes this host the first manager of a new swarm.
    pub fn init(&self, more: &[&str]) {
        let addr = self.addr().to_string();
        self.ctl(&[&["swarm", "init", "--advertise-addr", &addr], more].concat()).ok();
    }

    /// The token with which a `role` joins, asked of this manager.
    pub fn token(&self, role: &str) -> String {
        self.ctl(&["swarm", "join-token", "-q", role]).ok()
    }

    pub fn join(&self, token: &str, manager: &Self) -> crate::Output {
        self.ctl(&["swarm", "join", "--token", token, &format!("{}:2377", manager.addr())])
    }

    #[track_caller]
    pub fn nodes(&self) -> Vec<NodeRow> {
        self.rows(&["node", "ls"])
    }

    #[track_caller]
    pub fn node(&self, hostname: &str) -> NodeRow {
        let found = self.nodes().into_iter().find(|node| node.hostname == hostname);
        found.unwrap_or_else(|| panic!("no node has the hostname {hostname}"))
    }

    /// Waits until `count` nodes are ready.
    #[track_caller]
    pub fn wait_nodes(&self, count: usize) {
        wait(&format!("{count} nodes to be ready"), PATIENCE, || {
            let nodes: Vec<NodeRow> = self.try_rows(&["node", "ls"])?;
            let ready = nodes.iter().filter(|node| node.status == "Ready").count();
            if ready == count { Ok(()) } else { Err(format!("{ready} of {count} are: {nodes:#?}")) }
        });
    }

    /// Waits until the node `hostname` is seen with `status`.
    #[track_caller]
    pub fn wait_status(&self, hostname: &str, status: &str, bound: Duration) {
        wait(&format!("node {hostname} to be {status}"), bound, || {
            let nodes: Vec<NodeRow> = self.try_rows(&["node", "ls"])?;
            let seen = nodes.iter().any(|node| node.hostname == hostname && node.status == status);
            if seen { Ok(()) } else { Err(format!("{nodes:#?}")) }
        });
    }

    #[track_caller]
    pub fn services(&self) -> Vec<ServiceRow> {
        self.rows(&["service", "ls"])
    }

    #[track_caller]
    pub fn networks(&self) -> Vec<NetworkRow> {
        self.rows(&["network", "ls"])
    }

    /// All tasks, also those that have ended.
    #[track_caller]
    pub fn tasks(&self, service: &str) -> Vec<TaskRow> {
        let tasks: Vec<TaskRow> = self.rows(&["task", "ls"]);
        tasks.into_iter().filter(|task| task.belongs_to(service)).collect()
    }

    #[track_caller]
    pub fn running(&self, service: &str) -> Vec<TaskRow> {
        self.tasks(service).into_iter().filter(TaskRow::running).collect()
    }

    /// Waits until `service` has exactly `count` running tasks and no other that is meant to run.
    #[track_caller]
    pub fn wait_running(&self, service: &str, count: usize) -> Vec<TaskRow> {
        self.wait_running_within(PATIENCE, service, count)
    }

    #[track_caller]
    pub fn wait_running_within(&self, bound: Duration, service: &str, count: usize) -> Vec<TaskRow> {
        self.wait_tasks(&format!("{count} running tasks of {service}"), bound, service, |tasks| {
            all_running(tasks, count)
        })
    }

    /// Likewise, when `dead` has been killed: it counts as running until its node has cleared it away.
    #[track_caller]
    pub fn wait_running_without(&self, dead: &TaskRow, service: &str, count: usize) -> Vec<TaskRow> {
        let what = format!("{count} running tasks of {service} without {}", dead.id);
        self.wait_tasks(&what, PATIENCE, service, |tasks| {
            all_running(tasks, count).filter(|running| running.iter().all(|task| task.id != dead.id))
        })
    }

    /// Waits until `found` finds what it looks for among the tasks of `service`.
    #[track_caller]
    pub fn wait_tasks<T>(
        &self,
        what: &str,
        bound: Duration,
        service: &str,
        found: impl Fn(&[TaskRow]) -> Option<T>,
    ) -> T {
        wait(what, bound, || {
            let mut tasks: Vec<TaskRow> = self.try_rows(&["task", "ls"])?;
            tasks.retain(|task| task.belongs_to(service));
            found(&tasks).ok_or_else(|| summary(&tasks))
        })
    }

    /// Creates an overlay network and returns its id.
    #[track_caller]
    pub fn create_network(&self, name: &str, subnet: &str) -> String {
        self.ctl(&["network", "create", "--driver", "overlay", "--subnet", subnet, name]).ok()
    }

    /// Creates a service of the image with the web server and waits for it to converge.
    #[track_caller]
    pub fn create_web(&self, lab: &Lab, name: &str, network: &str, replicas: usize) -> Vec<TaskRow> {
        let (image, count) = (lab.web(), replicas.to_string());
        self.ctl(&["service", "create", "--replicas", &count, "--network", network, "--name", name, &image])
            .ok();
        self.wait_running(name, replicas)
    }

    /// What `<object> inspect` says of one object.
    #[track_caller]
    pub fn inspect(&self, object: &str, name: &str) -> Value {
        let mut found = self.ctl_json(&[object, "inspect", name]);
        assert!(found.len() == 1, "{object} inspect {name} shows {} objects", found.len());
        found.remove(0)
    }

    /// Everything a client can see of the cluster's wishes, for showing that nothing has changed.
    #[track_caller]
    pub fn wishes(&self) -> BTreeMap<&'static str, BTreeSet<String>> {
        let views = [
            ("networks", ["network", "ls", "-q"]),
            ("services", ["service", "ls", "-q"]),
            ("nodes", ["node", "ls", "-q"]),
        ];
        let views =
            views.map(|(kind, view)| (kind, self.ctl(&view).ok().lines().map(str::to_owned).collect()));
        BTreeMap::from(views)
    }

    #[track_caller]
    fn rows<T: DeserializeOwned + Debug>(&self, arguments: &[&str]) -> Vec<T> {
        self.try_rows(arguments).unwrap_or_else(|error| panic!("{error}"))
    }

    fn try_rows<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<Vec<T>, String> {
        let output = self.ctl(&[arguments, &["--format", "json"]].concat());
        if !output.succeeded() {
            return Err(output.to_string());
        }
        let rows = serde_json::Deserializer::from_str(&output.stdout).into_iter();
        rows.collect::<Result<_, _>>().map_err(|error| format!("unexpected rows: {error}: {output}"))
    }
}

/// The running tasks, if there are so many and no other is meant to run.
fn all_running(tasks: &[TaskRow], count: usize) -> Option<Vec<TaskRow>> {
    let wanted = tasks.iter().filter(|task| task.wanted()).count();
    let running: Vec<_> = tasks.iter().filter(|task| task.running()).cloned().collect();
    (running.len() == count && wanted == count).then_some(running)
}

fn summary(tasks: &[TaskRow]) -> String {
    let line = |task: &TaskRow| {
        let TaskRow { name, id, node, desired_state, current_state, error, .. } = task;
        format!("\n  {name} {id} on {node:?}: {current_state}, meant to be {desired_state} {error}")
    };
    if tasks.is_empty() { "there are no tasks".to_owned() } else { tasks.iter().map(line).collect() }
}
