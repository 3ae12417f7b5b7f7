//! Services.

use proto::model::{
    EndpointMode, FailureAction, Mode, Resources, RestartCondition, Service, ServiceSpec, TaskSpec,
    UpdateConfig, UpdateOrder, UpdateState,
};
use proto::wire;
use serde_json::{Value, json};

use super::{annotated, nanos, object, without_empty};
use crate::units;

pub fn inspect(service: &Service) -> Value {
    let mut members = object(service.id.as_str(), &service.meta);
    members.insert("Spec".into(), spec(&service.spec));
    if let Some(previous) = &service.previous_spec {
        members.insert("PreviousSpec".into(), spec(previous));
    }
    members.insert("Endpoint".into(), endpoint(service));
    if let Some(status) = &service.update_status {
        let time = |time: Option<std::time::SystemTime>| time.map(units::timestamp);
        let status = json!({
            "State": update_state(status.state),
            "StartedAt": time(status.started_at),
            "CompletedAt": time(status.completed_at),
            "Message": status.message,
        });
        members.insert("UpdateStatus".into(), without_empty(status));
    }
    Value::Object(members)
}

pub const fn update_state(state: UpdateState) -> &'static str {
    match state {
        UpdateState::Unknown => "unknown",
        UpdateState::Updating => "updating",
        UpdateState::Paused => "paused",
        UpdateState::Completed => "completed",
        UpdateState::RollbackStarted => "rollback_started",
        UpdateState::RollbackPaused => "rollback_paused",
        UpdateState::RollbackCompleted => "rollback_completed",
    }
}

fn endpoint(service: &Service) -> Value {
    let vips = service.endpoint.virtual_ips.iter();
    let vips = vips.map(|vip| json!({ "NetworkID": vip.network.as_str(), "Addr": vip.addr.to_string() }));
    json!({
        "Spec": { "Mode": endpoint_mode(service.endpoint.mode) },
        "VirtualIPs": vips.collect::<Vec<_>>(),
    })
}

const fn endpoint_mode(mode: EndpointMode) -> &'static str {
    match mode {
        EndpointMode::Vip => "vip",
        EndpointMode::DnsRoundRobin => "dnsrr",
    }
}

fn spec(spec: &ServiceSpec) -> Value {
    let mode = match spec.mode {
        Mode::Replicated { replicas } => json!({ "Replicated": { "Replicas": replicas } }),
        Mode::Global => json!({ "Global": {} }),
    };
    let mut members = json!({
        "TaskTemplate": template(&spec.task),
        "Mode": mode,
        "UpdateConfig": update_config(&spec.update),
        "EndpointSpec": { "Mode": endpoint_mode(spec.endpoint) },
    });
    if let Some(rollback) = &spec.rollback {
        members["RollbackConfig"] = update_config(rollback);
    }
    annotated(&spec.annotations, members)
}

fn update_config(config: &UpdateConfig) -> Value {
    json!({
        "Parallelism": config.parallelism,
        "Delay": nanos(config.delay),
        "FailureAction": match config.failure_action {
            FailureAction::Pause => "pause",
            FailureAction::Continue => "continue",
            FailureAction::Rollback => "rollback",
        },
        "Monitor": nanos(config.monitor),
        "MaxFailureRatio": config.max_failure_ratio,
        "Order": match config.order {
            UpdateOrder::StopFirst => "stop-first",
            UpdateOrder::StartFirst => "start-first",
        },
    })
}

/// What tasks are made of.
pub fn template(spec: &TaskSpec) -> Value {
    let networks = spec.networks.iter().map(|attachment| {
        without_empty(json!({
            "Target": attachment.network.as_str(),
            "Aliases": attachment.aliases,
            "DriverOpts": attachment.options,
            // Ours.
            "Addresses": attachment.addresses,
        }))
    });
    let limits = json!({
        "NanoCPUs": spec.limits.nano_cpus,
        "MemoryBytes": spec.limits.memory_bytes,
        "Pids": spec.container.pids_limit,
    });
    json!({
        "ContainerSpec": container(&spec.container),
        "Resources": { "Limits": without_empty(limits), "Reservations": reservations(spec.reservations) },
        "RestartPolicy": {
            "Condition": match spec.restart.condition {
                RestartCondition::None => "none",
                RestartCondition::OnFailure => "on-failure",
                RestartCondition::Any => "any",
            },
            "Delay": nanos(spec.restart.delay),
            "MaxAttempts": spec.restart.max_attempts,
            "Window": nanos(spec.restart.window),
        },
        "Placement": placement(spec),
        "Networks": networks.collect::<Vec<_>>(),
        "ForceUpdate": spec.force_update,
        "Runtime": "container",
    })
}

fn reservations(resources: Resources) -> Value {
    without_empty(json!({ "NanoCPUs": resources.nano_cpus, "MemoryBytes": resources.memory_bytes }))
}

fn placement(spec: &TaskSpec) -> Value {
    let preferences = spec.placement.preferences.iter().map(|preference| {
        let proto::model::Preference::Spread(descriptor) = preference;
        json!({ "Spread": { "SpreadDescriptor": descriptor } })
    });
    let platforms = spec.placement.platforms.iter();
    let platforms =
        platforms.map(|platform| json!({ "Architecture": platform.architecture, "OS": platform.os }));
    without_empty(json!({
        "Constraints": spec.placement.constraints,
        "Preferences": preferences.collect::<Vec<_>>(),
        "Platforms": platforms.collect::<Vec<_>>(),
        "MaxReplicas": spec.placement.max_replicas,
    }))
}

/// Credentials that travel with the spec are not shown.
fn container(spec: &wire::ContainerSpec) -> Value {
    let grace = spec.stop_grace_period.and_then(|period| std::time::Duration::try_from(period).ok());
    let dns = spec
        .dns_config
        .as_ref()
        .map(|dns| json!({ "Nameservers": dns.nameservers, "Search": dns.search, "Options": dns.options }));
    without_empty(json!({
        "Image": spec.image,
        "Labels": spec.labels,
        "Command": spec.command,
        "Args": spec.args,
        "Hostname": spec.hostname,
        "Env": spec.env,
        "Dir": spec.dir,
        "User": spec.user,
        "Groups": spec.groups,
        "TTY": spec.tty,
        "Init": spec.init,
        "ReadOnly": spec.read_only,
        "StopSignal": spec.stop_signal,
        "StopGracePeriod": grace.map(nanos),
        "Healthcheck": spec.healthcheck.as_ref().map(healthcheck),
        "Mounts": spec.mounts.iter().map(mount).collect::<Vec<_>>(),
        "Hosts": spec.hosts,
        "DNSConfig": dns,
        "Sysctls": spec.sysctls,
        "CapabilityAdd": spec.capability_add,
        "CapabilityDrop": spec.capability_drop,
        "OomScoreAdj": spec.oom_score_adj,
    }))
}

fn healthcheck(health: &wire::HealthConfig) -> Value {
    let time = |time: Option<prost_types::Duration>| {
        time.and_then(|time| std::time::Duration::try_from(time).ok()).map(nanos)
    };
    without_empty(json!({
        "Test": health.test,
        "Interval": time(health.interval),
        "Timeout": time(health.timeout),
        "Retries": health.retries,
        "StartPeriod": time(health.start_period),
        "StartInterval": time(health.start_interval),
    }))
}

fn mount(mount: &wire::Mount) -> Value {
    let kind = match mount.r#type() {
        wire::mount::Type::Bind => "bind",
        wire::mount::Type::Volume => "volume",
        wire::mount::Type::Tmpfs => "tmpfs",
        wire::mount::Type::Npipe => "npipe",
        wire::mount::Type::Cluster => "cluster",
    };
    let tmpfs = mount.tmpfs_options.as_ref();
    let tmpfs = tmpfs.map(|options| json!({ "SizeBytes": options.size_bytes, "Mode": options.mode }));
    without_empty(json!({
        "Type": kind,
        "Source": mount.source,
        "Target": mount.target,
        "ReadOnly": mount.readonly,
        "TmpfsOptions": tmpfs,
    }))
}
