//! The networks that a service names, and the addresses that it asks for there.
//!
//! What is refused here the allocator would find too, later, and its tasks would wait for ever. What others take between
//! this look and the allocator's, the tasks say.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use proto::model::{AttachmentConfig, Hosts, Network, Service, ServiceId, ServiceSpec, TaskSpec};
use raft_store::{AddressOwner, Tables};

use crate::error::Error;

/// The spec with the ids of the networks that it names.
pub(super) fn resolve(tables: &Tables, own: &ServiceId, spec: &ServiceSpec) -> Result<ServiceSpec, Error> {
    let mut task = TaskSpec::clone(&spec.task);
    let mut seen = BTreeSet::new();
    for (i, config) in task.networks.iter_mut().enumerate() {
        let field = format!("spec.task.networks[{i}]");
        let network = find(tables, config.network.as_str())
            .ok_or_else(|| Error::not_found("network", config.network.as_str()))?;
        check_network(&format!("{field}.target"), network)?;
        if !seen.insert(network.id.clone()) {
            let remedy = "the network is there twice: name it once";
            return Err(Error::invalid(format!("{field}.target"), network.name(), remedy));
        }
        for address in config.addresses.iter().filter_map(|address| address.parse().ok()) {
            let available = check_address(tables, own, network, address);
            available.map_err(|why| Error::invalid(format!("{field}.addresses"), address, why))?;
        }
        config.network = network.id.clone();
    }
    Ok(ServiceSpec { task: Arc::new(task), ..spec.clone() })
}

fn find<'a>(tables: &'a Tables, target: &str) -> Option<&'a Arc<Network>> {
    tables.network(&target.into()).or_else(|| tables.network_by_name(target))
}

fn check_network(field: &str, network: &Network) -> Result<(), Error> {
    if network.pending_delete {
        return Err(Error::invalid(field, network.name(), "the network is being removed"));
    }
    if network.spec.is_config_only() {
        let remedy = "it holds settings only: create a network with --config-from and name that";
        return Err(Error::invalid(field, network.name(), remedy));
    }
    Ok(())
}

/// Whether a task of the service `own` can have the address; else why not.
fn check_address(tables: &Tables, own: &ServiceId, network: &Network, address: IpAddr) -> Result<(), String> {
    let subnets = subnets(network);
    let Some(subnet) = subnets.iter().find(|subnet| subnet.contains(&address)) else {
        let subnets: Vec<String> = subnets.iter().map(ToString::to_string).collect();
        return Err(format!(
            "it is in no subnet of network {:?}, which has {}",
            network.name(),
            subnets.join(", ")
        ));
    };
    if !Hosts::of_net(subnet).contains(address) {
        return Err(format!("it belongs to the subnet {subnet} itself: choose another address"));
    }
    let other = tables.services_by_network(&network.id).find(|service| {
        service.id != *own && service.spec.task.networks.iter().any(|config| asks(config, network, address))
    });
    let holder = tables.address_owner(&network.id, address).and_then(|owner| holder(tables, own, owner));
    let reserved = network.spec.ipam.iter().flat_map(|config| &config.reserved);
    let reserved = reserved
        .filter(|(_, reserved)| **reserved == address)
        .map(|(name, _)| format!("the reservation {name}"));
    let other = other.map(|service| format!("service {:?}", service.name()));
    match holder.or_else(|| reserved.into_iter().next()).or(other) {
        Some(by) => Err(format!("it is in use by {by}: choose another address")),
        None => Ok(()),
    }
}

/// Those that it has, or has asked for as long as it was given none.
fn subnets(network: &Network) -> Vec<IpNet> {
    match &network.state {
        Some(state) => state.subnets.iter().map(|subnet| subnet.net).collect(),
        None => network.spec.ipam.iter().map(|config| config.subnet).collect(),
    }
}

fn asks(config: &AttachmentConfig, network: &Network, address: IpAddr) -> bool {
    config.network == network.id && config.addresses.iter().any(|asked| asked.parse() == Ok(address))
}

/// Who has the address and will not give it up for a task of the service `own`.
fn holder(tables: &Tables, own: &ServiceId, owner: &AddressOwner) -> Option<String> {
    let name = |service: &ServiceId| {
        tables.service(service).map_or(service.as_str(), |s| Service::name(s)).to_owned()
    };
    match owner {
        AddressOwner::Task(id) => match tables.task(id) {
            // It ends before the next one of its place needs the address.
            Some(task) if task.service == *own => None,
            Some(task) => Some(format!("service {:?}", name(&task.service))),
            None => Some(owner.to_string()),
        },
        AddressOwner::Service(id) => Some(format!("service {:?} as its virtual address", name(id))),
        AddressOwner::Gateway | AddressOwner::Reserved(_) => Some(owner.to_string()),
    }
}
