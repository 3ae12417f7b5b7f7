//! What `network inspect --verbose` adds: services with their tasks, and the tunnel ends.
//!
//! Docker shows what its own node heard by gossip; here it is the managers' view of the whole swarm. Its member names are
//! kept where they say the same; `State`, `Message`, `EndpointMode` and what is told of a peer's tasks are ours.

use std::collections::BTreeMap;

use proto::model::{EndpointMode, Network, Node, NodeId, Service, Task};
use serde_json::{Map, Value, json};

use super::{Swarm, attachment};
use crate::docker::capitalized;

pub fn services(network: &Network, swarm: &Swarm<'_>) -> Map<String, Value> {
    let on =
        |service: &&Service| service.spec.task.networks.iter().any(|config| config.network == network.id);
    let mut services: Vec<&Service> = swarm.services.iter().filter(on).collect();
    services.sort_by(|a, b| a.name().cmp(b.name()));
    services
        .into_iter()
        .map(|service| (service.name().to_owned(), self::service(network, service, swarm)))
        .collect()
}

fn service(network: &Network, service: &Service, swarm: &Swarm<'_>) -> Value {
    let vips = service.endpoint.virtual_ips.iter().filter(|vip| vip.network == network.id);
    let vips: Vec<String> = vips.map(|vip| vip.addr.addr().to_string()).collect();
    let of = |task: &&Task| task.service == service.id && attachment(network, task).is_some();
    let mut tasks: Vec<&Task> = swarm.tasks.iter().filter(of).collect();
    tasks.sort_by(|a, b| (a.slot, &a.id).cmp(&(b.slot, &b.id)));
    json!({
        "VIP": vips.first().cloned().unwrap_or_default(),
        "VIPs": vips,
        "Ports": [],
        "EndpointMode": match service.endpoint.mode {
            EndpointMode::Vip => "vip",
            EndpointMode::DnsRoundRobin => "dnsrr",
        },
        "Tasks": tasks.into_iter().map(|task| self::task(network, task, swarm)).collect::<Vec<_>>(),
    })
}

fn task(network: &Network, task: &Task, swarm: &Swarm<'_>) -> Value {
    let addresses = attachment(network, task).map(|(_, addresses)| addresses).unwrap_or_default();
    let addresses: Vec<String> = addresses.iter().map(|net| net.addr().to_string()).collect();
    let node = task.node.as_ref().and_then(|id| swarm.nodes.iter().find(|node| node.id == *id));
    json!({
        "Name": task.annotations.name,
        "ID": task.id.as_str(),
        "EndpointID": task.id.as_str(),
        "EndpointIP": addresses.first().cloned().unwrap_or_default(),
        "EndpointIPs": addresses,
        "Info": { "Host IP": node.and_then(Node::vtep).map(|vtep| vtep.to_string()).unwrap_or_default() },
        "Node": node.map(Node::hostname).unwrap_or_default(),
        "State": capitalized(task.status.state.name()),
        "Message": if task.status.err.is_empty() { &task.status.message } else { &task.status.err },
    })
}

/// The nodes to which the network extends, each with the tasks that are the reason.
pub fn peers(network: &Network, swarm: &Swarm<'_>) -> Vec<Value> {
    let mut tasks: BTreeMap<&NodeId, Vec<&str>> = BTreeMap::new();
    for task in swarm.tasks.iter().filter(|task| attachment(network, task).is_some()) {
        if let Some(node) = &task.node {
            tasks.entry(node).or_default().push(&task.annotations.name);
        }
    }
    let known = swarm.nodes.iter().filter_map(|node| Some((node, tasks.get(&node.id)?)));
    let peer = |(node, tasks): (&Node, &Vec<&str>)| {
        let mut tasks = tasks.clone();
        tasks.sort_unstable();
        json!({
            "Name": node.id.as_str(),
            "IP": node.vtep().map(|addr| addr.to_string()).unwrap_or_default(),
            "Hostname": node.hostname(),
            "Tasks": tasks,
        })
    };
    known.map(peer).collect()
}
