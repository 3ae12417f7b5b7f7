//! Settings that `service create` and `service update` share: each is written into the spec if it was given.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use proto::model::{self, RestartPolicy, UpdateConfig};
use proto::wire;
use proto::wire::endpoint_spec::ResolutionMode;

use super::health::Health;
use crate::{settings, units};

#[derive(Debug, Args)]
pub struct Options {
    /// Number of tasks
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    replicas: Option<String>,
    /// Most tasks on one node, 0: no limit
    #[arg(long, value_name = "N")]
    replicas_max_per_node: Option<u64>,
    /// vip or dnsrr
    #[arg(long, value_enum)]
    endpoint_mode: Option<EndpointMode>,

    /// Program to run instead of the image's entry point
    #[arg(long, value_name = "COMMAND", value_parser = settings::words)]
    entrypoint: Option<std::vec::Vec<String>>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// User: <name|uid>[:<group|gid>]
    #[arg(short, long)]
    user: Option<String>,
    /// Host name
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Root file system is read-only
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    read_only: Option<bool>,
    /// Allocate a terminal
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    tty: Option<bool>,
    /// Run an init that reaps and forwards signals
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    init: Option<bool>,
    /// Signal that asks the program to stop
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,
    /// Time before a program that does not stop is killed
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    stop_grace_period: Option<Duration>,
    /// Preference of the kernel to end it when memory is short, -1000 to 1000
    #[arg(long, value_name = "SCORE", allow_hyphen_values = true, value_parser = clap::value_parser!(i64).range(-1000..=1000))]
    oom_score_adj: Option<i64>,

    /// Most CPUs, such as 0.5
    #[arg(long, value_name = "CPUS", value_parser = units::nano_cpus)]
    limit_cpu: Option<u64>,
    /// Most memory, such as 512m
    #[arg(long, value_name = "BYTES", value_parser = units::bytes)]
    limit_memory: Option<u64>,
    /// Most processes, 0: no limit
    #[arg(long, value_name = "N")]
    limit_pids: Option<u32>,
    /// CPUs set aside for each task
    #[arg(long, value_name = "CPUS", value_parser = units::nano_cpus)]
    reserve_cpu: Option<u64>,
    /// Memory set aside for each task
    #[arg(long, value_name = "BYTES", value_parser = units::bytes)]
    reserve_memory: Option<u64>,

    /// When an ended task is replaced: none, on-failure or any
    #[arg(long, value_enum)]
    restart_condition: Option<RestartCondition>,
    /// Time before an ended task is replaced
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    restart_delay: Option<Duration>,
    /// Replacements before giving up, 0: no limit
    #[arg(long, value_name = "N")]
    restart_max_attempts: Option<u64>,
    /// Time in which replacements are counted
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    restart_window: Option<Duration>,

    /// Tasks updated at a time, 0: all
    #[arg(long, value_name = "N")]
    update_parallelism: Option<u64>,
    /// Time between updates of tasks
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    update_delay: Option<Duration>,
    /// Whether the new task starts before the old one stops
    #[arg(long, value_enum)]
    update_order: Option<UpdateOrder>,
    /// What happens when a new task fails: pause or continue
    #[arg(long, value_enum)]
    update_failure_action: Option<FailureAction>,
    /// Time after its start in which a new task's failure counts
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    update_monitor: Option<Duration>,
    /// Part of the tasks that may fail, 0 to 1
    #[arg(long, value_name = "RATIO")]
    update_max_failure_ratio: Option<f32>,

    /// Log driver: json-file or none
    #[arg(long, value_name = "DRIVER")]
    log_driver: Option<String>,
    /// Option of the log driver, such as max-size=10m
    #[arg(long, value_name = "KEY=VALUE", value_parser = units::pair)]
    log_opt: Vec<(String, String)>,
    /// Send this user's credentials for the registry to the nodes
    #[arg(long)]
    with_registry_auth: bool,

    #[command(flatten)]
    health: Health,
    #[command(flatten)]
    not_yet: NotYet,
}

/// What Docker's users may ask for and this version does not have: it is refused as what it is, not as unknown flags.
#[derive(Debug, Args)]
struct NotYet {
    #[arg(short, long, alias = "publish-add", hide = true, value_parser = not_yet("published ports"))]
    publish: Option<Infallible>,
    #[arg(long, alias = "secret-add", hide = true, value_parser = not_yet("secrets"))]
    secret: Option<Infallible>,
    #[arg(long, alias = "config-add", hide = true, value_parser = not_yet("configs"))]
    config: Option<Infallible>,
}

fn not_yet(what: &'static str) -> impl Fn(&str) -> Result<Infallible, String> + Clone {
    move |_| Err(format!("{what} are not supported by this version"))
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum EndpointMode {
    Vip,
    Dnsrr,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RestartCondition {
    None,
    OnFailure,
    Any,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum UpdateOrder {
    StopFirst,
    StartFirst,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FailureAction {
    Pause,
    Continue,
}

impl Options {
    /// Writes what was given into `spec`. Image and mode must be set before.
    pub fn apply(&self, spec: &mut wire::ServiceSpec) -> Result<()> {
        self.apply_mode(spec)?;
        if let Some(mode) = self.endpoint_mode {
            let mode = match mode {
                EndpointMode::Vip => ResolutionMode::Vip,
                EndpointMode::Dnsrr => ResolutionMode::Dnsrr,
            };
            spec.endpoint.get_or_insert_default().mode = mode.into();
        }
        self.apply_update(spec);
        let task = spec.task.get_or_insert_default();
        self.apply_resources(task);
        self.apply_restart(task);
        self.apply_logging(task);
        if let Some(max) = self.replicas_max_per_node {
            task.placement.get_or_insert_default().max_replicas = max;
        }
        let container = container(task);
        self.apply_container(container);
        self.health.apply(container)?;
        self.apply_credentials(container)
    }

    fn apply_mode(&self, spec: &mut wire::ServiceSpec) -> Result<()> {
        let Some(replicas) = &self.replicas else { return Ok(()) };
        let Ok(replicas) = replicas.parse() else {
            bail!("--replicas {replicas}: expected a number, 0 or more");
        };
        match &mut spec.mode {
            Some(wire::service_spec::Mode::Replicated(replicated)) => replicated.replicas = replicas,
            _ => bail!("--replicas {replicas}: a global service has one task a node; use --mode replicated"),
        }
        Ok(())
    }

    fn apply_container(&self, container: &mut wire::ContainerSpec) {
        set(&mut container.command, self.entrypoint.as_ref());
        set(&mut container.dir, self.workdir.as_ref());
        set(&mut container.user, self.user.as_ref());
        set(&mut container.hostname, self.hostname.as_ref());
        set(&mut container.read_only, self.read_only.as_ref());
        set(&mut container.tty, self.tty.as_ref());
        set(&mut container.stop_signal, self.stop_signal.as_ref());
        set(&mut container.oom_score_adj, self.oom_score_adj.as_ref());
        set(&mut container.pids_limit, self.limit_pids.map(i64::from).as_ref());
        if self.init.is_some() {
            container.init = self.init;
        }
        if let Some(period) = self.stop_grace_period {
            container.stop_grace_period = period.try_into().ok();
        }
    }

    fn apply_resources(&self, task: &mut wire::TaskSpec) {
        let amount = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let resources = task.resources.get_or_insert_default();
        let limits = resources.limits.get_or_insert_default();
        set(&mut limits.nano_cpus, self.limit_cpu.map(amount).as_ref());
        set(&mut limits.memory_bytes, self.limit_memory.map(amount).as_ref());
        let reservations = resources.reservations.get_or_insert_default();
        set(&mut reservations.nano_cpus, self.reserve_cpu.map(amount).as_ref());
        set(&mut reservations.memory_bytes, self.reserve_memory.map(amount).as_ref());
    }

    fn apply_restart(&self, task: &mut wire::TaskSpec) {
        use wire::restart_policy::RestartCondition as Condition;
        let policy = task.restart.get_or_insert_with(|| (&RestartPolicy::default()).into());
        if let Some(condition) = self.restart_condition {
            let condition = match condition {
                RestartCondition::None => Condition::None,
                RestartCondition::OnFailure => Condition::OnFailure,
                RestartCondition::Any => Condition::Any,
            };
            policy.condition = condition.into();
        }
        set_duration(&mut policy.delay, self.restart_delay);
        set(&mut policy.max_attempts, self.restart_max_attempts.as_ref());
        set_duration(&mut policy.window, self.restart_window);
    }

    fn apply_update(&self, spec: &mut wire::ServiceSpec) {
        let config = spec.update.get_or_insert_with(|| (&UpdateConfig::default()).into());
        set(&mut config.parallelism, self.update_parallelism.as_ref());
        set_duration(&mut config.delay, self.update_delay);
        set_duration(&mut config.monitor, self.update_monitor);
        set(&mut config.max_failure_ratio, self.update_max_failure_ratio.as_ref());
        if let Some(order) = self.update_order {
            let order = match order {
                UpdateOrder::StopFirst => model::UpdateOrder::StopFirst,
                UpdateOrder::StartFirst => model::UpdateOrder::StartFirst,
            };
            config.order = wire::update_config::UpdateOrder::from(order).into();
        }
        if let Some(action) = self.update_failure_action {
            let action = match action {
                FailureAction::Pause => model::FailureAction::Pause,
                FailureAction::Continue => model::FailureAction::Continue,
            };
            config.failure_action = wire::update_config::FailureAction::from(action).into();
        }
    }

    fn apply_logging(&self, task: &mut wire::TaskSpec) {
        if let Some(name) = &self.log_driver {
            task.log_driver = Some(wire::Driver { name: name.clone(), ..Default::default() });
        }
        if !self.log_opt.is_empty() {
            let driver = task
                .log_driver
                .get_or_insert_with(|| wire::Driver { name: "json-file".into(), ..Default::default() });
            driver.options.extend(self.log_opt.iter().cloned());
        }
    }

    fn apply_credentials(&self, container: &mut wire::ContainerSpec) -> Result<()> {
        if !self.with_registry_auth {
            return Ok(());
        }
        let dir =
            std::env::var("DOCKER_CONFIG").or_else(|_| std::env::var("HOME").map(|home| home + "/.docker"));
        let path =
            dir.context("--with-registry-auth: neither DOCKER_CONFIG nor HOME is set")? + "/config.json";
        let text =
            std::fs::read(&path).with_context(|| format!("--with-registry-auth: cannot read {path}"))?;
        let config = serde_json::from_slice(&text).with_context(|| format!("{path} is not valid JSON"))?;
        let Some(auth) = settings::registry_auth(&container.image, &config) else {
            bail!("--with-registry-auth: {path} has no credentials for the registry of {}", container.image);
        };
        container.pull_options.get_or_insert_default().registry_auth = auth;
        Ok(())
    }
}

/// The container that the tasks run.
pub fn container(task: &mut wire::TaskSpec) -> &mut wire::ContainerSpec {
    let runtime = task.runtime.get_or_insert_with(|| wire::task_spec::Runtime::Container(Default::default()));
    let wire::task_spec::Runtime::Container(container) = runtime;
    container
}

fn set<T: Clone>(field: &mut T, given: Option<&T>) {
    if let Some(value) = given {
        field.clone_from(value);
    }
}

fn set_duration(field: &mut Option<prost_types::Duration>, given: Option<Duration>) {
    if let Some(value) = given {
        *field = value.try_into().ok();
    }
}
