//! Networks.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use proto::model::{Network, Node, NodeId, Task, VXLAN_ID_LIST};
use serde_json::{Map, Value, json};

use crate::units;

/// `tasks` and `nodes` are those of the whole swarm: unlike Docker, which knows only its own node, we show all
/// containers on the network and all nodes that it has been extended to.
pub fn inspect(network: &Network, tasks: &[Task], nodes: &[Node]) -> Value {
    let attached: Vec<(&Task, &[IpNet])> =
        tasks.iter().filter_map(|task| attachment(network, task)).collect();
    json!({
        "Name": network.name(),
        "Id": network.id.as_str(),
        "Created": units::timestamp(network.meta.created_at),
        "Scope": "swarm",
        "Driver": network.spec.driver.name,
        "EnableIPv6": network.spec.ipv6,
        "IPAM": { "Driver": "default", "Options": null, "Config": configs(network) },
        "Internal": network.spec.internal,
        "Attachable": network.spec.attachable,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": attached.iter().map(|(task, addrs)| container(task, addrs)).collect::<Map<_, _>>(),
        "Options": options(network),
        "Labels": network.spec.annotations.labels,
        "Peers": peers(&attached, nodes),
    })
}

/// The task's addresses on the network, while it holds them on a node.
fn attachment<'a>(network: &Network, task: &'a Task) -> Option<(&'a Task, &'a [IpNet])> {
    let attachment = task.attachments.iter().find(|attachment| attachment.network == network.id)?;
    let holds = task.node.is_some() && !task.status.state.is_terminal();
    holds.then_some((task, attachment.addresses.as_slice()))
}

fn configs(network: &Network) -> Vec<Value> {
    let subnets = network.state.iter().flat_map(|state| &state.subnets);
    let configs = subnets.map(|subnet| {
        let mut config = json!({ "Subnet": subnet.net.to_string(), "Gateway": subnet.gateway.to_string() });
        if let Some(range) = subnet.range {
            config["IPRange"] = range.to_string().into();
        }
        if !subnet.reserved.is_empty() {
            config["AuxiliaryAddresses"] = json!(subnet.reserved);
        }
        config
    });
    configs.collect()
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
