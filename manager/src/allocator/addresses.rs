//! Hands out addresses of one network during a plan.
//!
//! Goes round each subnet from the address taken last, so that a released one is reused as late as can be: caches and
//! connections to its former owner have had time to go. What the plan has handed out counts as in use.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use proto::model::{NetworkId, NetworkState, Subnet};
use raft_store::Tables;

/// The addresses of one network.
pub(super) struct Addresses<'a> {
    view: &'a Tables,
    network: &'a NetworkId,
    name: &'a str,
    state: NetworkState,
    taken: HashSet<IpAddr>,
    /// By subnet: the address handed out last.
    last: HashMap<IpNet, IpAddr>,
    full: HashSet<IpNet>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(super) fn of(net: &IpNet) -> Self {
        if net.addr().is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl<'a> Addresses<'a> {
    pub(super) fn new(view: &'a Tables, network: &'a NetworkId, name: &'a str, state: NetworkState) -> Self {
        let (taken, full) = (HashSet::new(), HashSet::new());
        Self { view, network, name, state, taken, last: HashMap::new(), full }
    }

    pub(super) fn subnets(&self, family: Family) -> impl Iterator<Item = &Subnet> {
        self.state.subnets.iter().filter(move |subnet| Family::of(&subnet.net) == family)
    }

    /// One address of each family that the network has; those asked for in place of any. All or nothing.
    pub(super) fn take(&mut self, asked: &[String]) -> Result<Vec<IpNet>, String> {
        let mut given = Vec::new();
        let outcome = self.take_into(asked, &mut given);
        if outcome.is_err() {
            self.give_back(&given);
        }
        outcome.map(|()| given)
    }

    fn take_into(&mut self, asked: &[String], given: &mut Vec<IpNet>) -> Result<(), String> {
        for text in asked {
            given.push(self.take_asked(text)?);
        }
        for family in Family::ALL {
            if self.subnets(family).next().is_some() && !given.iter().any(|net| Family::of(net) == family) {
                given.push(self.take_any(family)?);
            }
        }
        Ok(())
    }

    /// An address of the family, with the mask length of its subnet.
    pub(super) fn take_any(&mut self, family: Family) -> Result<IpNet, String> {
        let subnets: Vec<Subnet> = self.subnets(family).cloned().collect();
        for subnet in &subnets {
            if let Some(address) = self.next_free(subnet) {
                return Ok(self.note(subnet, address));
            }
        }
        let full = subnets.iter().map(|subnet| {
            let net = subnet.range.unwrap_or(subnet.net);
            let hosts = Hosts::of(subnet).count();
            format!("{net} ({hosts} of {hosts} in use)")
        });
        Err(format!("network {}: no free address in {}", self.name, full.collect::<Vec<_>>().join(", ")))
    }

    fn take_asked(&mut self, text: &str) -> Result<IpNet, String> {
        let refuse = |why: String| Err(format!("network {}: address {text} {why}", self.name));
        let parsed = text.parse::<IpAddr>().or_else(|_| text.parse::<IpNet>().map(|net| net.addr()));
        let Ok(address) = parsed else { return refuse("is not an IP address".into()) };
        let Some(subnet) = self.state.subnets.iter().find(|subnet| subnet.net.contains(&address)).cloned()
        else {
            return refuse("is in none of its subnets".into());
        };
        if let Some(owner) = self.view.address_owner(self.network, address) {
            return refuse(format!("is in use by {owner}"));
        }
        if self.is_used(&subnet, address) {
            return refuse("is in use".into());
        }
        Ok(self.note(&subnet, address))
    }

    pub(super) fn give_back(&mut self, addresses: &[IpNet]) {
        for address in addresses {
            self.taken.remove(&address.addr());
        }
        self.full.clear();
    }

    fn note(&mut self, subnet: &Subnet, address: IpAddr) -> IpNet {
        self.taken.insert(address);
        self.last.insert(subnet.net, address);
        IpNet::new(address, subnet.net.prefix_len()).expect("the address is of the subnet's family")
    }

    /// Looks at each address once at most, and at most once in a plan in vain.
    fn next_free(&mut self, subnet: &Subnet) -> Option<IpAddr> {
        if self.full.contains(&subnet.net) {
            return None;
        }
        let last =
            self.last.get(&subnet.net).copied().or_else(|| self.view.last_address(self.network, &subnet.net));
        let free = Hosts::of(subnet).after(last).find(|address| !self.is_used(subnet, *address));
        if free.is_none() {
            self.full.insert(subnet.net);
        }
        free
    }

    /// Gateway and reserved addresses are asked of the subnet too: the network may be part of this very plan.
    fn is_used(&self, subnet: &Subnet, address: IpAddr) -> bool {
        address == subnet.gateway
            || self.taken.contains(&address)
            || subnet.reserved.values().any(|reserved| *reserved == address)
            || self.view.address_owner(self.network, address).is_some()
    }
}

/// The addresses that hosts may have, as numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hosts {
    family: Family,
    first: u128,
    last: u128,
}

impl Hosts {
    /// Within the subnet's range, if it has one.
    pub(super) fn of(subnet: &Subnet) -> Self {
        let all = Self::of_net(&subnet.net);
        let Some(range) = &subnet.range else { return all };
        Self {
            first: all.first.max(number(range.network())),
            last: all.last.min(number(range.broadcast())),
            ..all
        }
    }

    /// Without the network's own address and the broadcast address (RFC 1122), or the subnet routers' anycast address
    /// (RFC 4291); in the smallest subnets all are hosts (RFC 3021, RFC 6164).
    pub(super) fn of_net(net: &IpNet) -> Self {
        let (first, last) = (number(net.network()), number(net.broadcast()));
        let family = Family::of(net);
        match family {
            _ if net.max_prefix_len() - net.prefix_len() < 2 => Self { family, first, last },
            Family::V4 => Self { family, first: first + 1, last: last - 1 },
            Family::V6 => Self { family, first: first + 1, last },
        }
    }

    fn count(self) -> u128 {
        if self.last < self.first { 0 } else { (self.last - self.first).saturating_add(1) }
    }

    pub(super) fn iter(self) -> impl Iterator<Item = IpAddr> {
        (self.first..=self.last).map(move |n| address(self.family, n))
    }

    /// All of them, starting behind `last` and going round.
    fn after(self, last: Option<IpAddr>) -> impl Iterator<Item = IpAddr> {
        let start = last.map_or(self.first, |last| number(last).saturating_add(1));
        let start = if (self.first..=self.last).contains(&start) { start } else { self.first };
        (start..=self.last).chain(self.first..start).map(move |n| address(self.family, n))
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn address(family: Family, number: u128) -> IpAddr {
    match family {
        // Only numbers of IPv4 subnets come here.
        Family::V4 => IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX))),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(number)),
    }
}
