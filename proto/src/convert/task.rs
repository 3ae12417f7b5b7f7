//! Tasks.

use std::sync::Arc;
use std::time::SystemTime;

use super::enums::enum_in;
use super::scalar::{
    annotations_in, annotations_out, each, id, meta_in, meta_out, optional_id, parse, required, time_in,
    time_out, version_in, version_out,
};
use super::{Error, Within};
use crate::model::{Attachment, ContainerStatus, Endpoint, Health, Slot, Task, TaskStatus};
use crate::wire;

impl TryFrom<wire::Task> for Task {
    type Error = Error;

    fn try_from(task: wire::Task) -> Result<Self, Error> {
        Ok(Self {
            id: id("id", task.id)?,
            meta: meta_in(task.meta)?,
            spec: Arc::new(required("spec", task.spec)?.try_into().within("spec")?),
            spec_version: version_in(task.spec_version),
            service: id("service_id", task.service_id)?,
            slot: Slot(task.slot),
            node: optional_id(task.node_id),
            annotations: annotations_in(task.annotations),
            service_annotations: annotations_in(task.service_annotations),
            status: required("status", task.status)?.try_into().within("status")?,
            desired: enum_in::<wire::TaskState, _>("desired_state", task.desired_state)?,
            attachments: each("networks", task.networks, Attachment::try_from)?,
            endpoint: task.endpoint.map(Endpoint::try_from).transpose().within("endpoint")?,
            log_driver: task.log_driver.map(Into::into),
        })
    }
}

/// Names its networks by id alone; the dispatcher adds what a node must know of them.
impl From<&Task> for wire::Task {
    fn from(task: &Task) -> Self {
        Self {
            id: task.id.to_string(),
            meta: meta_out(&task.meta),
            spec: Some(task.spec.as_ref().into()),
            spec_version: version_out(task.spec_version),
            service_id: task.service.to_string(),
            slot: task.slot.0,
            node_id: task.node.as_ref().map(ToString::to_string).unwrap_or_default(),
            annotations: annotations_out(&task.annotations),
            service_annotations: annotations_out(&task.service_annotations),
            status: Some((&task.status).into()),
            desired_state: wire::TaskState::from(task.desired).into(),
            networks: task.attachments.iter().map(Into::into).collect(),
            endpoint: task.endpoint.as_ref().map(Into::into),
            log_driver: task.log_driver.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<wire::TaskStatus> for TaskStatus {
    type Error = Error;

    fn try_from(status: wire::TaskStatus) -> Result<Self, Error> {
        let container = status.runtime_status.map(|runtime| {
            let wire::task_status::RuntimeStatus::Container(container) = runtime;
            ContainerStatus::try_from(container)
        });
        Ok(Self {
            timestamp: time_in("timestamp", status.timestamp)?.unwrap_or(SystemTime::UNIX_EPOCH),
            state: enum_in::<wire::TaskState, _>("state", status.state)?,
            message: status.message,
            err: status.err,
            container: container.transpose().within("container")?,
            applied_by: status.applied_by,
            applied_at: time_in("applied_at", status.applied_at)?,
        })
    }
}

impl TryFrom<wire::ContainerStatus> for ContainerStatus {
    type Error = Error;

    fn try_from(status: wire::ContainerStatus) -> Result<Self, Error> {
        Ok(Self {
            container_id: status.container_id,
            pid: status.pid,
            exit_code: status.exit_code,
            health: status.health.map(Health::try_from).transpose().within("health")?,
        })
    }
}

impl From<&TaskStatus> for wire::TaskStatus {
    fn from(status: &TaskStatus) -> Self {
        let container = status.container.as_ref().map(|container| {
            wire::task_status::RuntimeStatus::Container(wire::ContainerStatus {
                container_id: container.container_id.clone(),
                pid: container.pid,
                exit_code: container.exit_code,
                health: container.health.as_ref().map(Into::into),
            })
        });
        Self {
            timestamp: time_out(status.timestamp),
            state: wire::TaskState::from(status.state).into(),
            message: status.message.clone(),
            err: status.err.clone(),
            applied_by: status.applied_by.clone(),
            applied_at: status.applied_at.and_then(time_out),
            runtime_status: container,
        }
    }
}

impl TryFrom<wire::NetworkAttachment> for Attachment {
    type Error = Error;

    fn try_from(attachment: wire::NetworkAttachment) -> Result<Self, Error> {
        let network = required("network", attachment.network)?;
        Ok(Self {
            network: id("network.id", network.id)?,
            addresses: each("addresses", attachment.addresses, |address| {
                parse("", &address, "an IP address with mask length")
            })?,
            aliases: attachment.aliases,
            options: attachment.driver_attachment_opts,
        })
    }
}

impl From<&Attachment> for wire::NetworkAttachment {
    fn from(attachment: &Attachment) -> Self {
        Self {
            network: Some(wire::Network { id: attachment.network.to_string(), ..Default::default() }),
            addresses: attachment.addresses.iter().map(ToString::to_string).collect(),
            aliases: attachment.aliases.clone(),
            driver_attachment_opts: attachment.options.clone(),
        }
    }
}
