//! From a task to the settings of its container. Every field of the spec is taken over, or refused by name.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use proto::model::template::{self, Context};
use proto::model::{Task, TaskId};
use proto::wire;

use super::assigned::Assigned;
use super::{mounts, unsupported};
use crate::description::Facts;
use crate::dns::SHORT_ID;
use crate::runtime::{self, ContainerConfig, Dns, HealthSettings, HostEntry, Resources, Ulimit};

/// Label with the boot during which a container was made: see `adopt`.
pub const BOOT_LABEL: &str = "swarm.boot-id";

/// Where a task without an address of its own finds itself, as on Debian.
const NO_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 1, 1));

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{field} has the value {value:?}, expected {expected}")]
    Invalid { field: String, value: String, expected: &'static str },
    #[error("{0} is not supported by this version")]
    Unsupported(String),
    #[error(transparent)]
    Template(#[from] template::Error),
}

impl Error {
    pub(super) fn invalid(field: impl Into<String>, value: impl ToString, expected: &'static str) -> Self {
        Self::Invalid { field: field.into(), value: value.to_string(), expected }
    }
}

/// The settings of the container of `assigned`, whose image is still the one that the user named.
pub fn config(assigned: &Assigned, facts: &Facts, netns: PathBuf) -> Result<ContainerConfig, Error> {
    let task = &assigned.task;
    let spec = &task.spec.container;
    let context = Context { task, node: &facts.node_id, description: &facts.description };
    unsupported::refuse(task)?;
    let hostname = hostname(task, context)?;
    let env = spec.env.iter().map(|entry| context.expand("env", entry));
    Ok(ContainerConfig {
        id: task.id.to_string(),
        image: spec.image.clone(),
        command: spec.command.clone(),
        args: spec.args.clone(),
        env: env.collect::<Result<_, _>>()?,
        dir: spec.dir.clone(),
        user: spec.user.clone(),
        groups: spec.groups.clone(),
        labels: labels(task, facts),
        read_only: spec.read_only,
        init: spec.init.unwrap_or(false),
        tty: spec.tty,
        mounts: mounts::read(&spec.mounts, context)?,
        stop_signal: stop_signal(spec)?,
        stop_grace: grace(spec)?,
        health: spec.healthcheck.as_ref().map(health).transpose()?.unwrap_or_default(),
        resources: resources(task)?,
        cap_add: spec.capability_add.clone(),
        cap_drop: spec.capability_drop.clone(),
        sysctls: spec.sysctls.clone(),
        ulimits: spec.ulimits.iter().map(ulimit).collect(),
        oom_score_adj: oom_score(spec.oom_score_adj)?,
        hosts: hosts(assigned, &hostname)?,
        dns: dns(spec.dns_config.as_ref()),
        hostname,
        netns,
    })
}

/// How long a task may take to stop; none: Docker's default.
pub fn grace(spec: &wire::ContainerSpec) -> Result<Option<std::time::Duration>, Error> {
    let Some(grace) = spec.stop_grace_period else { return Ok(None) };
    let shown = format!("{}.{:09}s", grace.seconds, grace.nanos);
    let grace = grace.try_into();
    grace.map(Some).map_err(|_| Error::invalid("stop_grace_period", shown, "a duration that is not negative"))
}

fn health(asked: &wire::HealthConfig) -> Result<HealthSettings, Error> {
    const KINDS: &str = "NONE, CMD and a program, or CMD-SHELL and a line";
    match asked.test.first().map(String::as_str) {
        None | Some("NONE") => {}
        Some("CMD" | "CMD-SHELL") if asked.test.len() > 1 => {}
        Some(_) => return Err(Error::invalid("healthcheck.test", asked.test.join(" "), KINDS)),
    }
    let refuse = |_| Error::invalid("healthcheck.retries", asked.retries, "0 or more");
    // Checked with the task.
    let time = |time: Option<prost_types::Duration>| {
        time.and_then(|time| std::time::Duration::try_from(time).ok()).unwrap_or_default()
    };
    Ok(HealthSettings {
        test: asked.test.clone(),
        interval: time(asked.interval),
        timeout: time(asked.timeout),
        start_period: time(asked.start_period),
        start_interval: time(asked.start_interval),
        retries: u32::try_from(asked.retries).map_err(refuse)?,
    })
}

fn hostname(task: &Task, context: Context<'_>) -> Result<String, Error> {
    let named = context.expand("hostname", &task.spec.container.hostname)?;
    Ok(if named.is_empty() { short(&task.id).to_owned() } else { named })
}

fn short(id: &TaskId) -> &str {
    id.as_str().get(..SHORT_ID).unwrap_or(id.as_str())
}

/// The user's labels, and those by which Docker marks the containers of a swarm.
fn labels(task: &Task, facts: &Facts) -> std::collections::BTreeMap<String, String> {
    let mut labels = task.spec.container.labels.clone();
    let node = task.node.as_ref().map(ToString::to_string).unwrap_or_default();
    let own = [
        ("com.docker.swarm.task", String::new()),
        ("com.docker.swarm.task.id", task.id.to_string()),
        ("com.docker.swarm.task.name", task.annotations.name.clone()),
        ("com.docker.swarm.node.id", node),
        ("com.docker.swarm.service.id", task.service.to_string()),
        ("com.docker.swarm.service.name", task.service_annotations.name.clone()),
        (BOOT_LABEL, facts.boot_id.clone()),
    ];
    labels.extend(own.map(|(name, value)| (name.to_owned(), value)));
    labels
}

fn stop_signal(spec: &wire::ContainerSpec) -> Result<Option<runtime::Signal>, Error> {
    let text = &spec.stop_signal;
    if text.is_empty() {
        return Ok(None);
    }
    let signal = text.parse();
    signal.map(Some).map_err(|_| Error::invalid("stop_signal", text, "a signal such as SIGTERM"))
}

fn resources(task: &Task) -> Result<Resources, Error> {
    let pids = task.spec.container.pids_limit;
    if pids < -1 {
        return Err(Error::invalid("pids_limit", pids, "a number of processes, 0 or -1 for no limit"));
    }
    let (limits, reservations) = (task.spec.limits, task.spec.reservations);
    let given = |amount: u64| (amount > 0).then_some(amount);
    Ok(Resources {
        nano_cpus: given(limits.nano_cpus),
        memory_bytes: given(limits.memory_bytes),
        pids: u64::try_from(pids).ok().and_then(given),
        reserved_nano_cpus: given(reservations.nano_cpus),
        reserved_memory_bytes: given(reservations.memory_bytes),
    })
}

fn ulimit(limit: &wire::container_spec::Ulimit) -> Ulimit {
    Ulimit { name: limit.name.clone(), soft: limit.soft, hard: limit.hard }
}

fn oom_score(score: i64) -> Result<Option<i32>, Error> {
    match i32::try_from(score) {
        Ok(0) => Ok(None),
        Ok(score) if (-1000..=1000).contains(&score) => Ok(Some(score)),
        _ => Err(Error::invalid("oom_score_adj", score, "-1000 to 1000")),
    }
}

/// The task's own addresses under its host name, and what the user asked for: `address name [alias…]`.
fn hosts(assigned: &Assigned, hostname: &str) -> Result<Vec<HostEntry>, Error> {
    let mut own: Vec<_> = assigned.wish.addresses().collect();
    if own.is_empty() {
        own.push(NO_ADDRESS);
    }
    let own = own.into_iter().map(|address| HostEntry { address, names: vec![hostname.to_owned()] });
    let asked = assigned.task.spec.container.hosts.iter().map(|line| {
        let refuse = || Error::invalid("hosts", line, "an IP address and names, as in /etc/hosts");
        let mut words = line.split_whitespace();
        let address = words.next().and_then(|word| word.parse().ok()).ok_or_else(refuse)?;
        let names: Vec<String> = words.map(str::to_owned).collect();
        if names.is_empty() { Err(refuse()) } else { Ok(HostEntry { address, names }) }
    });
    own.map(Ok).chain(asked).collect()
}

/// The servers are the resolver's affair: it asks them.
fn dns(config: Option<&wire::container_spec::DnsConfig>) -> Dns {
    let Some(config) = config else { return Dns::default() };
    Dns { search: config.search.clone(), options: config.options.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::samples;

    fn converted(change: impl FnOnce(&mut wire::ContainerSpec)) -> Result<ContainerConfig, Error> {
        let mut task = samples::wire_task("t1234567890abcdef");
        let spec = task.spec.as_mut().unwrap().runtime.as_mut().unwrap();
        let wire::task_spec::Runtime::Container(container) = spec;
        change(container);
        config(&task.try_into().unwrap(), &samples::facts(), "/netns/t1".into())
    }

    #[test]
    fn takes_the_fields_over() {
        let config = converted(|spec| {
            spec.env = vec!["SLOT={{.Task.Slot}}".into()];
            spec.stop_signal = "SIGINT".into();
            spec.pids_limit = 20;
            spec.hosts = vec!["10.1.1.1 db db2".into()];
        })
        .unwrap();
        assert_eq!(config.hostname, "t1234567890a");
        assert_eq!(config.env, ["SLOT=2"]);
        assert_eq!(config.resources.pids, Some(20));
        assert_eq!(config.labels["com.docker.swarm.service.name"], "web");
        assert_eq!(config.stop_signal.map(runtime::Signal::number), Some(2));
        let hosts: Vec<_> = config.hosts.iter().map(|h| (h.address.to_string(), h.names.join(" "))).collect();
        let expected = [("10.0.9.3", "t1234567890a"), ("10.1.1.1", "db db2")];
        assert_eq!(hosts, expected.map(|(address, names)| (address.to_owned(), names.to_owned())));
    }

    #[test]
    fn refuses_by_name() {
        type Case = (&'static str, fn(&mut wire::ContainerSpec));
        let cases: [Case; 7] = [
            ("stop_signal", |spec| spec.stop_signal = "SIGNOPE".into()),
            ("pids_limit", |spec| spec.pids_limit = -2),
            ("oom_score_adj", |spec| spec.oom_score_adj = 1001),
            ("hosts", |spec| spec.hosts = vec!["db:10.1.1.1".into()]),
            ("secrets", |spec| spec.secrets = vec![wire::SecretReference::default()]),
            ("open_stdin", |spec| spec.open_stdin = true),
            ("privileges.no_new_privileges", |spec| {
                spec.privileges = Some(wire::Privileges { no_new_privileges: true, ..Default::default() });
            }),
        ];
        for (field, change) in cases {
            let error = converted(change).unwrap_err().to_string();
            assert!(error.starts_with(field), "{field}: {error}");
        }
    }
}
