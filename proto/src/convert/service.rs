//! Services, apart from what their tasks are made of.

use std::sync::Arc;

use super::enums::enum_in;
use super::scalar::{
    annotations_in, annotations_out, duration, duration_or_zero, duration_out, each, id, meta_in, meta_out,
    parse, required, time_in, time_out, version_in, version_out,
};
use super::{Error, Within};
use crate::model::{
    Endpoint, EndpointMode, Mode, Service, ServiceSpec, UpdateConfig, UpdateStatus, VirtualIp,
};
use crate::wire;

impl TryFrom<wire::Service> for Service {
    type Error = Error;

    fn try_from(service: wire::Service) -> Result<Self, Error> {
        let previous =
            service.previous_spec.map(ServiceSpec::try_from).transpose().within("previous_spec")?;
        let update = service.update_status.map(UpdateStatus::try_from).transpose().within("update_status")?;
        Ok(Self {
            id: id("id", service.id)?,
            meta: meta_in(service.meta)?,
            spec: Arc::new(required("spec", service.spec)?.try_into().within("spec")?),
            spec_version: version_in(service.spec_version),
            previous_spec: previous.map(Arc::new),
            endpoint: service.endpoint.unwrap_or_default().try_into().within("endpoint")?,
            update_status: update,
            pending_delete: service.pending_delete,
        })
    }
}

impl From<&Service> for wire::Service {
    fn from(service: &Service) -> Self {
        Self {
            id: service.id.to_string(),
            meta: meta_out(&service.meta),
            spec: Some(service.spec.as_ref().into()),
            spec_version: version_out(service.spec_version),
            previous_spec: service.previous_spec.as_deref().map(Into::into),
            endpoint: Some((&service.endpoint).into()),
            update_status: service.update_status.as_ref().map(Into::into),
            pending_delete: service.pending_delete,
        }
    }
}

impl TryFrom<wire::ServiceSpec> for ServiceSpec {
    type Error = Error;

    fn try_from(spec: wire::ServiceSpec) -> Result<Self, Error> {
        let mut task = required("task", spec.task)?;
        // Older clients name the networks beside the task.
        #[allow(deprecated, reason = "read for older clients, never written")]
        if task.networks.is_empty() {
            task.networks = spec.networks;
        }
        let endpoint = spec.endpoint.unwrap_or_default();
        Ok(Self {
            annotations: annotations_in(spec.annotations),
            task: Arc::new(task.try_into().within("task")?),
            mode: required("mode", spec.mode)?.into(),
            update: spec.update.map(UpdateConfig::try_from).transpose().within("update")?.unwrap_or_default(),
            rollback: spec.rollback.map(UpdateConfig::try_from).transpose().within("rollback")?,
            endpoint: endpoint_mode_in(&endpoint).within("endpoint")?,
        })
    }
}

impl From<&ServiceSpec> for wire::ServiceSpec {
    fn from(spec: &ServiceSpec) -> Self {
        Self {
            annotations: annotations_out(&spec.annotations),
            task: Some(spec.task.as_ref().into()),
            mode: Some(spec.mode.into()),
            update: Some((&spec.update).into()),
            rollback: spec.rollback.as_ref().map(Into::into),
            endpoint: Some(endpoint_spec_out(spec.endpoint)),
            ..Default::default()
        }
    }
}

impl From<wire::service_spec::Mode> for Mode {
    fn from(mode: wire::service_spec::Mode) -> Self {
        match mode {
            wire::service_spec::Mode::Replicated(replicated) => {
                Self::Replicated { replicas: replicated.replicas }
            }
            wire::service_spec::Mode::Global(_) => Self::Global,
        }
    }
}

impl From<Mode> for wire::service_spec::Mode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Replicated { replicas } => Self::Replicated(wire::ReplicatedService { replicas }),
            Mode::Global => Self::Global(wire::GlobalService {}),
        }
    }
}

fn endpoint_mode_in(spec: &wire::EndpointSpec) -> Result<EndpointMode, Error> {
    if !spec.ports.is_empty() {
        return Err(Error::unsupported("ports", "published ports"));
    }
    enum_in::<wire::endpoint_spec::ResolutionMode, _>("mode", spec.mode)
}

fn endpoint_spec_out(mode: EndpointMode) -> wire::EndpointSpec {
    wire::EndpointSpec { mode: wire::endpoint_spec::ResolutionMode::from(mode).into(), ports: Vec::new() }
}

impl TryFrom<wire::Endpoint> for Endpoint {
    type Error = Error;

    fn try_from(endpoint: wire::Endpoint) -> Result<Self, Error> {
        Ok(Self {
            mode: endpoint_mode_in(&endpoint.spec.unwrap_or_default()).within("spec")?,
            virtual_ips: each("virtual_ips", endpoint.virtual_ips, VirtualIp::try_from)?,
        })
    }
}

impl From<&Endpoint> for wire::Endpoint {
    fn from(endpoint: &Endpoint) -> Self {
        Self {
            spec: Some(endpoint_spec_out(endpoint.mode)),
            ports: Vec::new(),
            virtual_ips: endpoint.virtual_ips.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::endpoint::VirtualIp> for VirtualIp {
    type Error = Error;

    fn try_from(vip: wire::endpoint::VirtualIp) -> Result<Self, Error> {
        let addr = parse("addr", &vip.addr, "an IP address with mask length")?;
        Ok(Self { network: id("network_id", vip.network_id)?, addr })
    }
}

impl From<&VirtualIp> for wire::endpoint::VirtualIp {
    fn from(vip: &VirtualIp) -> Self {
        Self { network_id: vip.network.to_string(), addr: vip.addr.to_string() }
    }
}

impl TryFrom<wire::UpdateConfig> for UpdateConfig {
    type Error = Error;

    fn try_from(config: wire::UpdateConfig) -> Result<Self, Error> {
        if !(0.0..=1.0).contains(&config.max_failure_ratio) {
            return Err(Error::invalid("max_failure_ratio", config.max_failure_ratio, "0 to 1"));
        }
        let monitor = duration("monitor", config.monitor)?;
        Ok(Self {
            parallelism: config.parallelism,
            delay: duration_or_zero("delay", config.delay)?,
            failure_action: enum_in::<wire::update_config::FailureAction, _>(
                "failure_action",
                config.failure_action,
            )?,
            monitor: monitor.unwrap_or(Self::default().monitor),
            max_failure_ratio: config.max_failure_ratio,
            order: enum_in::<wire::update_config::UpdateOrder, _>("order", config.order)?,
        })
    }
}

impl From<&UpdateConfig> for wire::UpdateConfig {
    fn from(config: &UpdateConfig) -> Self {
        Self {
            parallelism: config.parallelism,
            delay: duration_out(config.delay),
            failure_action: wire::update_config::FailureAction::from(config.failure_action).into(),
            monitor: duration_out(config.monitor),
            max_failure_ratio: config.max_failure_ratio,
            order: wire::update_config::UpdateOrder::from(config.order).into(),
        }
    }
}

impl TryFrom<wire::UpdateStatus> for UpdateStatus {
    type Error = Error;

    fn try_from(status: wire::UpdateStatus) -> Result<Self, Error> {
        Ok(Self {
            state: enum_in::<wire::update_status::UpdateState, _>("state", status.state)?,
            started_at: time_in("started_at", status.started_at)?,
            completed_at: time_in("completed_at", status.completed_at)?,
            message: status.message,
        })
    }
}

impl From<&UpdateStatus> for wire::UpdateStatus {
    fn from(status: &UpdateStatus) -> Self {
        Self {
            state: wire::update_status::UpdateState::from(status.state).into(),
            started_at: status.started_at.and_then(time_out),
            completed_at: status.completed_at.and_then(time_out),
            message: status.message.clone(),
        }
    }
}
