//! Nodes.

use proto::model::{Availability, Node, NodeState, Reachability, Role};
use serde_json::{Value, json};

use super::{annotated, object};

pub const fn state(state: NodeState) -> &'static str {
    match state {
        NodeState::Unknown => "unknown",
        NodeState::Down => "down",
        NodeState::Ready => "ready",
        NodeState::Disconnected => "disconnected",
    }
}

pub const fn availability(availability: Availability) -> &'static str {
    match availability {
        Availability::Active => "active",
        Availability::Pause => "pause",
        Availability::Drain => "drain",
    }
}

const fn role(role: Role) -> &'static str {
    match role {
        Role::Worker => "worker",
        Role::Manager => "manager",
    }
}

const fn reachability(reachability: Reachability) -> &'static str {
    match reachability {
        Reachability::Unknown => "unknown",
        Reachability::Unreachable => "unreachable",
        Reachability::Reachable => "reachable",
    }
}

pub fn inspect(node: &Node) -> Value {
    let mut members = object(node.id.as_str(), &node.meta);
    let spec = json!({
        "Role": role(node.spec.desired_role),
        "Availability": availability(node.spec.availability),
    });
    members.insert("Spec".into(), annotated(&node.spec.annotations, spec));
    members.insert("Description".into(), description(node));
    members.insert(
        "Status".into(),
        json!({
            "State": state(node.status.state), "Message": node.status.message, "Addr": node.status.addr,
        }),
    );
    if let Some(manager) = &node.manager {
        let status = json!({
            "Leader": manager.leader,
            "Reachability": reachability(manager.reachability),
            "Addr": manager.addr,
            "Lag": manager.lag,
        });
        members.insert("ManagerStatus".into(), status);
    }
    Value::Object(members)
}

fn description(node: &Node) -> Value {
    let Some(description) = &node.description else { return json!({}) };
    let plugins = description.engine.plugins.iter();
    let plugins: Vec<Value> = plugins.map(|(kind, name)| json!({ "Type": kind, "Name": name })).collect();
    json!({
        "Hostname": description.hostname,
        "Platform": { "Architecture": description.platform.architecture, "OS": description.platform.os },
        "Resources": { "NanoCPUs": description.nano_cpus, "MemoryBytes": description.memory_bytes },
        "Engine": {
            "EngineVersion": description.engine.version,
            "Labels": description.engine.labels,
            "Plugins": plugins,
        },
    })
}
