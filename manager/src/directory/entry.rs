//! What the directory says of one task and of one service on a network.

use std::net::IpAddr;

use proto::model::template::Context;
use proto::model::{
    Attachment, HealthState, NetworkId, Node, NodeId, NodeState, Service, ServiceId, Task, TaskId, TaskState,
};
use proto::network::{Encryption, Endpoint, Member, NetworkDirectory, NetworkKey, VirtualIp};
use raft_store::Tables;

use super::handover;

/// Everything about a network, for a node.
pub fn complete(tables: &Tables, network: &NetworkId, recipient: &NodeId) -> NetworkDirectory {
    let endpoints = tables.tasks_by_network(network).filter_map(|task| endpoint(tables, network, task));
    let virtual_ips = tables.services_by_network(network).filter_map(|service| virtual_ip(network, service));
    NetworkDirectory {
        endpoints: endpoints.collect(),
        virtual_ips: virtual_ips.collect(),
        encryption: encryption(tables, network, recipient),
    }
}

/// Keys and members of an encrypted network, once it has keys, and how far each is with the recipient.
pub fn encryption(tables: &Tables, network: &NetworkId, recipient: &NodeId) -> Option<Encryption> {
    let keyring = tables.keyring(network)?;
    let keys = keyring
        .keys
        .iter()
        .map(|key| NetworkKey { generation: key.generation, secret: key.secret.expose().clone() });
    let members = tables.nodes_by_network(network).filter_map(|id| {
        let node = tables.node(id)?;
        Some(Member {
            vtep: node.vtep()?.to_string(),
            incarnation: keyring.members.get(id)?.incarnation.to_vec(),
            node_id: id.to_string(),
            handover: handover::between(keyring, recipient, id).into(),
            down: node.status.state == NodeState::Down,
        })
    });
    Some(Encryption {
        keys: keys.collect(),
        sending: keyring.sending,
        epoch: keyring.epoch,
        members: members.collect(),
        roster: keyring.roster,
    })
}

pub fn endpoint_of(tables: &Tables, network: &NetworkId, task: &TaskId) -> Option<Endpoint> {
    endpoint(tables, network, tables.task(task)?)
}

pub fn virtual_ip_of(tables: &Tables, network: &NetworkId, service: &ServiceId) -> Option<VirtualIp> {
    virtual_ip(network, tables.service(service)?)
}

/// The task's place on the network, from its assignment until its end.
///
/// A task on a node that is down stays: it may well live, and whoever reaches it shall find it. It is not ready, since
/// nobody can tell.
pub fn endpoint(tables: &Tables, network: &NetworkId, task: &Task) -> Option<Endpoint> {
    let attachment = attachment(task, network).filter(|_| task.is_placed())?;
    let node = tables.node(task.node.as_ref()?)?;
    let mac = mac(attachment)?;
    Some(Endpoint {
        task_id: task.id.to_string(),
        node_id: node.id.to_string(),
        vtep: node.vtep()?.to_string(),
        mac: mac.to_vec(),
        addresses: attachment.addresses.iter().map(|address| address.addr().to_string()).collect(),
        service_id: task.service.to_string(),
        service_name: task.service_annotations.name.clone(),
        task_name: task.annotations.name.clone(),
        aliases: attachment.aliases.clone(),
        ready: is_ready(task) && node.status.state != NodeState::Down,
        lost: node.status.state == NodeState::Down,
        hostname: hostname(task, node),
    })
}

/// As the node itself fills it in; one that it will refuse is none here.
fn hostname(task: &Task, node: &Node) -> String {
    let Some(description) = &node.description else { return String::new() };
    let context = Context { task, node: &node.id, description };
    context.expand("hostname", &task.spec.container.hostname).unwrap_or_default()
}

fn virtual_ip(network: &NetworkId, service: &Service) -> Option<VirtualIp> {
    let addresses = service.endpoint.virtual_ips.iter().filter(|vip| vip.network == *network);
    let addresses: Vec<_> = addresses.map(|vip| vip.addr.addr().to_string()).collect();
    if addresses.is_empty() {
        return None;
    }
    let config = service.spec.task.networks.iter().find(|config| config.network == *network);
    Some(VirtualIp {
        service_id: service.id.to_string(),
        service_name: service.name().into(),
        addresses,
        aliases: config.map(|config| config.aliases.clone()).unwrap_or_default(),
    })
}

/// Runs, is healthy and shall go on running.
pub fn is_ready(task: &Task) -> bool {
    task.status.state == TaskState::Running && !is_ending(task) && !task.status.has_died()
}

/// Runs and will stop, which it does when no node sends it connections any more.
pub fn is_leaving(task: &Task) -> bool {
    task.status.state == TaskState::Running && is_ending(task)
}

/// Is to stop, or is unhealthy: then its node stops it.
pub fn is_ending(task: &Task) -> bool {
    let unhealthy = || task.status.health().is_some_and(|health| health.state == HealthState::Unhealthy);
    task.desired > TaskState::Running || unhealthy()
}

fn attachment<'a>(task: &'a Task, network: &NetworkId) -> Option<&'a Attachment> {
    task.attachments.iter().find(|attachment| attachment.network == *network)
}

/// `02:42:` (locally administered, Docker's) and the four octets of the IPv4 address, or the last four of the IPv6
/// address. The node gives its task's interface the same one by the same rule (`netdriver`).
pub fn mac(attachment: &Attachment) -> Option<[u8; 6]> {
    let addresses = || attachment.addresses.iter().map(|address| address.addr());
    let [a, b, c, d] = match addresses().find(IpAddr::is_ipv4).or_else(|| addresses().next())? {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(v6) => {
            let [.., a, b, c, d] = v6.octets();
            [a, b, c, d]
        }
    };
    Some([0x02, 0x42, a, b, c, d])
}
