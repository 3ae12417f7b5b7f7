//! Tasks.

use proto::model::{Health, Task};
use serde_json::{Value, json};

use super::{object, service};
use crate::units;

pub fn inspect(task: &Task) -> Value {
    let mut members = object(task.id.as_str(), &task.meta);
    let attachments = task.attachments.iter().map(|attachment| {
        json!({
            "Network": { "ID": attachment.network.as_str() },
            "Addresses": attachment.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
    });
    let rest = json!({
        "Name": task.annotations.name,
        "Labels": task.annotations.labels,
        "Spec": service::template(&task.spec),
        "ServiceID": task.service.as_str(),
        "Slot": task.slot.0,
        "NodeID": task.node.as_ref().map_or("", |node| node.as_str()),
        "Status": status(task),
        "DesiredState": task.desired.name(),
        "NetworksAttachments": attachments.collect::<Vec<_>>(),
    });
    if let Value::Object(rest) = rest {
        members.extend(rest);
    }
    Value::Object(members)
}

fn status(task: &Task) -> Value {
    let mut status = json!({
        "Timestamp": units::timestamp(task.status.timestamp),
        "State": task.status.state.name(),
        "Message": task.status.message,
    });
    if !task.status.err.is_empty() {
        status["Err"] = task.status.err.clone().into();
    }
    if let Some(container) = &task.status.container {
        status["ContainerStatus"] = json!({
            "ContainerID": container.container_id, "PID": container.pid, "ExitCode": container.exit_code,
        });
        if let Some(health) = &container.health {
            status["ContainerStatus"]["Health"] = self::health(health);
        }
    }
    status
}

/// As Docker shows it of a container.
fn health(health: &Health) -> Value {
    let log = health.probes.iter().map(|probe| {
        json!({
            "Start": units::timestamp(probe.started),
            "End": units::timestamp(probe.ended),
            "ExitCode": probe.exit_code,
            "Output": probe.output,
        })
    });
    json!({
        "Status": health.state.name(),
        "FailingStreak": health.failing_streak,
        "Log": log.collect::<Vec<_>>(),
    })
}
