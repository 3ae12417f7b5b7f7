//! Hands out addresses of one network during a plan.
//!
//! Goes round each subnet from the address taken last, so that a released one is reused as late as can be: caches and
//! connections to its former owner have had time to go. What the plan has handed out counts as in use, and addresses
//! that users have chosen for a service are kept for it.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use proto::model::{Family, Hosts, NetworkId, NetworkState, NodeState, Subnet, TaskId};
use raft_store::{AddressOwner, Tables};

/// The addresses of one network.
pub(super) struct Addresses<'a> {
    view: &'a Tables,
    network: &'a NetworkId,
    name: &'a str,
    state: NetworkState,
    /// Handed out in this plan, and to whom.
    taken: HashMap<IpAddr, String>,
    /// Asked for by some service: given to its tasks alone.
    chosen: HashSet<IpAddr>,
    /// By subnet: the address handed out last.
    last: HashMap<IpNet, IpAddr>,
    full: HashSet<IpNet>,
}

impl<'a> Addresses<'a> {
    pub(super) fn new(view: &'a Tables, network: &'a NetworkId, name: &'a str, state: NetworkState) -> Self {
        let (taken, full) = (HashMap::new(), HashSet::new());
        let chosen = chosen(view, network).collect();
        Self { view, network, name, state, taken, chosen, last: HashMap::new(), full }
    }

    pub(super) fn subnets(&self, family: Family) -> impl Iterator<Item = &Subnet> {
        self.state.subnets.iter().filter(move |subnet| Family::of_net(&subnet.net) == family)
    }

    /// One address of each family that the network has; those asked for in place of any. All or nothing.
    /// `holder` is who gets them, as others that want one of them are told.
    pub(super) fn take(&mut self, asked: &[String], holder: &str) -> Result<Vec<IpNet>, String> {
        let mut given = Vec::new();
        let outcome = self.take_into(asked, holder, &mut given);
        if outcome.is_err() {
            self.give_back(&given);
        }
        outcome.map(|()| given)
    }

    fn take_into(&mut self, asked: &[String], holder: &str, given: &mut Vec<IpNet>) -> Result<(), String> {
        for text in asked {
            given.push(self.take_asked(text, holder)?);
        }
        for family in Family::ALL {
            if self.subnets(family).next().is_some() && !given.iter().any(|net| Family::of_net(net) == family)
            {
                given.push(self.take_any(family, holder)?);
            }
        }
        Ok(())
    }

    /// An address of the family, with the mask length of its subnet.
    pub(super) fn take_any(&mut self, family: Family, holder: &str) -> Result<IpNet, String> {
        let subnets: Vec<Subnet> = self.subnets(family).cloned().collect();
        for subnet in &subnets {
            if let Some(address) = self.next_free(subnet) {
                return Ok(self.note(subnet, address, holder));
            }
        }
        let full = subnets.iter().map(|subnet| {
            let net = subnet.range.unwrap_or(subnet.net);
            let hosts = subnet.hosts().count();
            format!("{net} ({hosts} of {hosts} in use)")
        });
        Err(format!("network {}: no free address in {}", self.name, full.collect::<Vec<_>>().join(", ")))
    }

    fn take_asked(&mut self, text: &str, holder: &str) -> Result<IpNet, String> {
        let refuse = |why: String| Err(format!("network {}: address {text} {why}", self.name));
        let parsed = text.parse::<IpAddr>().or_else(|_| text.parse::<IpNet>().map(|net| net.addr()));
        let Ok(address) = parsed else { return refuse("is not an IP address".into()) };
        let Some(subnet) = self.state.subnets.iter().find(|subnet| subnet.net.contains(&address)).cloned()
        else {
            return refuse("is in none of its subnets".into());
        };
        if !Hosts::of_net(&subnet.net).contains(address) {
            return refuse(format!("belongs to the subnet {} itself", subnet.net));
        }
        if let Some(owner) = self.view.address_owner(self.network, address) {
            return refuse(format!("is in use by {}", described(self.view, owner)));
        }
        if let Some(holder) = self.taken.get(&address) {
            return refuse(format!("is in use by {holder}"));
        }
        if self.is_used(&subnet, address) {
            return refuse("is in use".into());
        }
        // No step of the round.
        self.taken.insert(address, holder.into());
        Ok(with_mask(address, &subnet))
    }

    pub(super) fn give_back(&mut self, addresses: &[IpNet]) {
        for address in addresses {
            self.taken.remove(&address.addr());
        }
        self.full.clear();
    }

    fn note(&mut self, subnet: &Subnet, address: IpAddr, holder: &str) -> IpNet {
        self.taken.insert(address, holder.into());
        self.last.insert(subnet.net, address);
        with_mask(address, subnet)
    }

    /// Looks at each address once at most, and at most once in a plan in vain.
    fn next_free(&mut self, subnet: &Subnet) -> Option<IpAddr> {
        if self.full.contains(&subnet.net) {
            return None;
        }
        let last =
            self.last.get(&subnet.net).copied().or_else(|| self.view.last_address(self.network, &subnet.net));
        let is_free = |address: &IpAddr| !self.chosen.contains(address) && !self.is_used(subnet, *address);
        let free = subnet.hosts().after(last).find(is_free);
        if free.is_none() {
            self.full.insert(subnet.net);
        }
        free
    }

    /// Gateway and reserved addresses are asked of the subnet too: the network may be part of this very plan.
    fn is_used(&self, subnet: &Subnet, address: IpAddr) -> bool {
        subnet.is_own(address)
            || self.taken.contains_key(&address)
            || self.view.address_owner(self.network, address).is_some()
    }
}

fn with_mask(address: IpAddr, subnet: &Subnet) -> IpNet {
    IpNet::new(address, subnet.net.prefix_len()).expect("the address is of the subnet's family")
}

/// The addresses that services on the network ask for.
fn chosen<'a>(view: &'a Tables, network: &'a NetworkId) -> impl Iterator<Item = IpAddr> {
    let configs = view.services_by_network(network).flat_map(|service| &service.spec.task.networks);
    let configs = configs.filter(move |config| config.network == *network);
    configs.flat_map(|config| &config.addresses).filter_map(|address| address.parse().ok())
}

/// The owner as people know it; of a task that holds an address on a node that is down, that too.
fn described(view: &Tables, owner: &AddressOwner) -> String {
    match owner {
        AddressOwner::Task(id) => described_task(view, id).unwrap_or_else(|| owner.to_string()),
        AddressOwner::Service(id) => view
            .service(id)
            .map_or_else(|| owner.to_string(), |service| format!("service {}", service.name())),
        AddressOwner::Gateway | AddressOwner::Reserved(_) => owner.to_string(),
    }
}

fn described_task(view: &Tables, id: &TaskId) -> Option<String> {
    let task = view.task(id)?;
    let node = task.node.as_ref().and_then(|node| view.node(node));
    let down = node.filter(|node| node.status.state == NodeState::Down);
    let down = down.map(|node| format!(" on node {}, which is down", node.hostname())).unwrap_or_default();
    Some(format!("task {}{down}", task.annotations.name))
}
