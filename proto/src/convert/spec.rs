//! What tasks are made of.

use super::enums::enum_in;
use super::scalar::{amount, amount_out, duration, duration_or_zero, duration_out, each, id, required};
use super::{Error, Within};
use crate::model::{AttachmentConfig, Placement, Preference, Resources, RestartPolicy, TaskSpec};
use crate::wire;

impl TryFrom<wire::TaskSpec> for TaskSpec {
    type Error = Error;

    fn try_from(spec: wire::TaskSpec) -> Result<Self, Error> {
        let wire::task_spec::Runtime::Container(container) = required("container", spec.runtime)?;
        check_times(&container).within("container")?;
        let resources = spec.resources.unwrap_or_default();
        refuse_swap(&resources).within("resources")?;
        let restart = spec.restart.map(RestartPolicy::try_from).transpose().within("restart")?;
        Ok(Self {
            container,
            limits: resources_in(resources.limits).within("resources.limits")?,
            reservations: resources_in(resources.reservations).within("resources.reservations")?,
            restart: restart.unwrap_or_default(),
            placement: spec.placement.unwrap_or_default().try_into().within("placement")?,
            networks: each("networks", spec.networks, AttachmentConfig::try_from)?,
            log_driver: spec.log_driver.map(Into::into),
            force_update: spec.force_update,
        })
    }
}

impl From<&TaskSpec> for wire::TaskSpec {
    fn from(spec: &TaskSpec) -> Self {
        Self {
            runtime: Some(wire::task_spec::Runtime::Container(spec.container.clone())),
            resources: Some(wire::ResourceRequirements {
                limits: Some(resources_out(spec.limits)),
                reservations: Some(resources_out(spec.reservations)),
                ..Default::default()
            }),
            restart: Some((&spec.restart).into()),
            placement: Some((&spec.placement).into()),
            log_driver: spec.log_driver.as_ref().map(Into::into),
            networks: spec.networks.iter().map(Into::into).collect(),
            force_update: spec.force_update,
        }
    }
}

/// Managers and workers reckon with them; the rest of the container is judged by those who make one of it.
fn check_times(container: &wire::ContainerSpec) -> Result<(), Error> {
    duration("stop_grace_period", container.stop_grace_period)?;
    let Some(health) = &container.healthcheck else { return Ok(()) };
    let times = [
        ("interval", health.interval),
        ("timeout", health.timeout),
        ("start_period", health.start_period),
        ("start_interval", health.start_interval),
    ];
    times.into_iter().try_for_each(|(field, time)| duration(field, time).within("healthcheck").map(drop))
}

fn refuse_swap(resources: &wire::ResourceRequirements) -> Result<(), Error> {
    if resources.swap_bytes.is_some() {
        return Err(Error::unsupported("swap_bytes", "limits of swap"));
    }
    if resources.memory_swappiness.is_some() {
        return Err(Error::unsupported("memory_swappiness", "settings of swap"));
    }
    Ok(())
}

fn resources_in(resources: Option<wire::Resources>) -> Result<Resources, Error> {
    let resources = resources.unwrap_or_default();
    if !resources.generic.is_empty() {
        return Err(Error::unsupported("generic", "generic resources"));
    }
    Ok(Resources {
        nano_cpus: amount("nano_cpus", resources.nano_cpus)?,
        memory_bytes: amount("memory_bytes", resources.memory_bytes)?,
    })
}

fn resources_out(resources: Resources) -> wire::Resources {
    wire::Resources {
        nano_cpus: amount_out(resources.nano_cpus),
        memory_bytes: amount_out(resources.memory_bytes),
        generic: Vec::new(),
    }
}

impl TryFrom<wire::RestartPolicy> for RestartPolicy {
    type Error = Error;

    fn try_from(policy: wire::RestartPolicy) -> Result<Self, Error> {
        let delay = duration("delay", policy.delay)?;
        Ok(Self {
            condition: enum_in::<wire::restart_policy::RestartCondition, _>("condition", policy.condition)?,
            delay: delay.unwrap_or(Self::default().delay),
            max_attempts: policy.max_attempts,
            window: duration_or_zero("window", policy.window)?,
        })
    }
}

impl From<&RestartPolicy> for wire::RestartPolicy {
    fn from(policy: &RestartPolicy) -> Self {
        Self {
            condition: wire::restart_policy::RestartCondition::from(policy.condition).into(),
            delay: duration_out(policy.delay),
            max_attempts: policy.max_attempts,
            window: duration_out(policy.window),
        }
    }
}

impl TryFrom<wire::Placement> for Placement {
    type Error = Error;

    fn try_from(placement: wire::Placement) -> Result<Self, Error> {
        Ok(Self {
            constraints: placement.constraints,
            preferences: each("preferences", placement.preferences, Preference::try_from)?,
            platforms: placement.platforms.into_iter().map(Into::into).collect(),
            max_replicas: placement.max_replicas,
        })
    }
}

impl From<&Placement> for wire::Placement {
    fn from(placement: &Placement) -> Self {
        Self {
            constraints: placement.constraints.clone(),
            preferences: placement.preferences.iter().map(Into::into).collect(),
            platforms: placement.platforms.iter().map(Into::into).collect(),
            max_replicas: placement.max_replicas,
        }
    }
}

impl TryFrom<wire::PlacementPreference> for Preference {
    type Error = Error;

    fn try_from(preference: wire::PlacementPreference) -> Result<Self, Error> {
        let wire::placement_preference::Preference::Spread(spread) =
            required("preference", preference.preference)?;
        Ok(Self::Spread(spread.spread_descriptor))
    }
}

impl From<&Preference> for wire::PlacementPreference {
    fn from(preference: &Preference) -> Self {
        let Preference::Spread(descriptor) = preference;
        let spread = wire::SpreadOver { spread_descriptor: descriptor.clone() };
        Self { preference: Some(wire::placement_preference::Preference::Spread(spread)) }
    }
}

impl TryFrom<wire::NetworkAttachmentConfig> for AttachmentConfig {
    type Error = Error;

    fn try_from(config: wire::NetworkAttachmentConfig) -> Result<Self, Error> {
        Ok(Self {
            network: id("target", config.target)?,
            aliases: config.aliases,
            addresses: config.addresses,
            options: config.driver_attachment_opts,
        })
    }
}

impl From<&AttachmentConfig> for wire::NetworkAttachmentConfig {
    fn from(config: &AttachmentConfig) -> Self {
        Self {
            target: config.network.to_string(),
            aliases: config.aliases.clone(),
            addresses: config.addresses.clone(),
            driver_attachment_opts: config.options.clone(),
        }
    }
}
