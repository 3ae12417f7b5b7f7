//! Networks.

mod verbose;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use proto::model::{Network, Node, NodeId, Service, Task, Usage, VXLAN_ID_LIST};
use serde_json::{Map, Value, json};

use crate::units;

/// Tasks, services and nodes are those of the whole swarm: unlike Docker, which knows only its own node, we show all
/// containers on the network and all nodes that it has been extended to.
pub struct Swarm<'a> {
    pub tasks: &'a [Task],
    pub services: &'a [Service],
    pub nodes: &'a [Node],
}

/// `verbose` adds `Services`, as Docker has it, and tells more of the `Peers`.
pub fn inspect(network: &Network, swarm: &Swarm<'_>, verbose: bool) -> Value {
    let mut object = plain(network, swarm);
    if verbose {
        object["Services"] = verbose::services(network, swarm).into();
        object["Peers"] = verbose::peers(network, swarm).into();
    }
    object
}

fn plain(network: &Network, swarm: &Swarm<'_>) -> Value {
    let attached: Vec<(&Task, &[IpNet])> =
        swarm.tasks.iter().filter_map(|task| attachment(network, task)).collect();
    json!({
        "Name": network.name(),
        "Id": network.id.as_str(),
        "Created": units::timestamp(network.meta.created_at),
        "Scope": "swarm",
        "Driver": network.spec.driver.name,
        "EnableIPv4": true,
        "EnableIPv6": network.spec.ipv6,
        "IPAM": { "Driver": "default", "Options": null, "Config": configs(network) },
        "Internal": network.spec.internal,
        "Attachable": network.spec.attachable,
        "Ingress": false,
        "ConfigFrom": { "Network": network.spec.config_from.as_deref().unwrap_or_default() },
        "ConfigOnly": network.spec.is_config_only(),
        "Containers": attached.iter().map(|(task, addrs)| container(task, addrs)).collect::<Map<_, _>>(),
        "Options": options(network),
        "Labels": network.spec.annotations.labels,
        "Peers": peers(&attached, swarm.nodes),
        "Status": { "IPAM": { "Subnets": usage(network, swarm) } },
    })
}

/// As Docker 29 has it: what is in use of each subnet, by the network itself too, and what is left to give out.
fn usage(network: &Network, swarm: &Swarm<'_>) -> Map<String, Value> {
    let tasks = swarm.tasks.iter().filter(|task| !task.status.state.is_terminal());
    let attachments = tasks.flat_map(|task| &task.attachments).filter(|held| held.network == network.id);
    let vips = swarm.services.iter().flat_map(|service| &service.endpoint.virtual_ips);
    let vips = vips.filter(|vip| vip.network == network.id).map(|vip| vip.addr.addr());
    let held: Vec<IpAddr> =
        attachments.flat_map(|held| &held.addresses).map(IpNet::addr).chain(vips).collect();
    let subnets = network.state.iter().flat_map(|state| &state.subnets).map(|subnet| {
        let Usage { in_use, available } = subnet.usage(held.iter().copied());
        let saturated = |number: u128| u64::try_from(number).unwrap_or(u64::MAX);
        let usage = json!({ "IPsInUse": saturated(in_use), "DynamicIPsAvailable": saturated(available) });
        (subnet.net.to_string(), usage)
    });
    subnets.collect()
}

/// The task's addresses on the network, while it holds them on a node.
fn attachment<'a>(network: &Network, task: &'a Task) -> Option<(&'a Task, &'a [IpNet])> {
    let attachment = task.attachments.iter().find(|attachment| attachment.network == network.id)?;
    let holds = task.node.is_some() && !task.status.state.is_terminal();
    holds.then_some((task, attachment.addresses.as_slice()))
}

/// As given; of a network that holds settings for others, and of one that was given nothing yet, as asked for.
fn configs(network: &Network) -> Vec<Value> {
    match &network.state {
        Some(state) => state
            .subnets
            .iter()
            .map(|subnet| config(subnet.net, Some(subnet.gateway), subnet.range, &subnet.reserved))
            .collect(),
        None => {
            let asked = network.spec.ipam.iter();
            asked.map(|asked| config(asked.subnet, asked.gateway, asked.range, &asked.reserved)).collect()
        }
    }
}

fn config(
    net: IpNet,
    gateway: Option<IpAddr>,
    range: Option<IpNet>,
    reserved: &BTreeMap<String, IpAddr>,
) -> Value {
    let mut config = json!({ "Subnet": net.to_string() });
    if let Some(gateway) = gateway {
        config["Gateway"] = gateway.to_string().into();
    }
    if let Some(range) = range {
        config["IPRange"] = range.to_string().into();
    }
    if !reserved.is_empty() {
        config["AuxiliaryAddresses"] = json!(reserved);
    }
    config
}

fn options(network: &Network) -> BTreeMap<String, String> {
    let mut options = network.spec.driver.options.clone();
    if let Some(state) = &network.state {
        options.insert(VXLAN_ID_LIST.into(), state.vni.to_string());
    }
    options
}

fn container(task: &Task, addresses: &[IpNet]) -> (String, Value) {
    let address = |v4: bool| addresses.iter().find(|net| net.addr().is_ipv4() == v4).map(ToString::to_string);
    let members = json!({
        "Name": task.annotations.name,
        // A task has one end point on a network: the pair of ids names it.
        "EndpointID": task.id.as_str(),
        "MacAddress": addresses.first().map(|net| mac(net.addr())).unwrap_or_default(),
        "IPv4Address": address(true).unwrap_or_default(),
        "IPv6Address": address(false).unwrap_or_default(),
    });
    (task.id.to_string(), members)
}

/// The MAC address follows from the IPv4 address: 02:42 and its four bytes.
fn mac(addr: IpAddr) -> String {
    match addr {
        IpAddr::V4(addr) => {
            let [a, b, c, d] = addr.octets();
            format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
        }
        IpAddr::V6(_) => String::new(),
    }
}

fn peers(attached: &[(&Task, &[IpNet])], nodes: &[Node]) -> Vec<Value> {
    let mut ids: Vec<&NodeId> = attached.iter().filter_map(|(task, _)| task.node.as_ref()).collect();
    ids.sort();
    ids.dedup();
    let known = nodes.iter().filter(|node| ids.binary_search(&&node.id).is_ok());
    let peers = known.map(|node| {
        json!({ "Name": node.id.as_str(), "IP": node.vtep().map(|addr| addr.to_string()).unwrap_or_default() })
    });
    peers.collect()
}
