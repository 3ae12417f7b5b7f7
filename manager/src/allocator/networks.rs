//! VXLAN network identifiers and subnets for networks.
//!
//! Subnets of the swarm's pools avoid those of other networks and, as far as nodes tell, the destinations of the nodes' own
//! routes: a task shall reach through its node what the node reaches. A route to a whole pool or more says nothing of where in
//! the pool something is, and is passed over. A subnet that a user names is not compared with routes: who names one knows.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};
use proto::model::{
    Cluster, ClusterId, Family, Hosts, IpamConfig, Network, NetworkState, Subnet, VXLAN_ID_LIST, number,
};
use raft_store::Tables;

/// The first identifier that is given out, as SwarmKit has it: lower ones are often in use by others.
const FIRST_VNI: u32 = 4097;

/// 24 bits (RFC 7348).
const LAST_VNI: u32 = (1 << 24) - 1;

/// Mask length of the smallest IPv4 subnet with a gateway and a task.
const SMALLEST: u8 = 30;

/// Mask length of IPv6 subnets (RFC 4291, section 2.5.1).
const V6_SUBNET: u8 = 64;

/// Of a block of unique local addresses (RFC 4193, section 3.1).
const ULA_BLOCK: u8 = 48;

/// What is free, while a plan gives it out.
pub(super) struct Free<'a> {
    view: &'a Tables,
    vnis: HashSet<u32>,
    last_vni: u32,
    /// The last subnet given out of each pool in this plan: below it nothing is free.
    given: BTreeMap<IpNet, IpNet>,
    taken: Vec<IpNet>,
    /// Destinations of the nodes' routes.
    routes: BTreeSet<IpNet>,
}

impl<'a> Free<'a> {
    pub(super) fn new(view: &'a Tables) -> Self {
        let routes = view.nodes().flat_map(|node| node.routes()).map(|route| route.trunc()).collect();
        Self {
            view,
            vnis: HashSet::new(),
            last_vni: view.last_vni(),
            given: BTreeMap::new(),
            taken: Vec::new(),
            routes,
        }
    }

    pub(super) fn allocate(&mut self, network: &Network) -> Result<NetworkState, String> {
        let told = |why: String| format!("network {}: {why}", network.name());
        let vni = self.vni(network).map_err(told)?;
        let mut subnets: Vec<Subnet> = network.spec.ipam.iter().map(subnet_of).collect();
        for family in wanted(network) {
            if subnets.iter().all(|subnet| Family::of_net(&subnet.net) != family) {
                let net = self.subnet_of_pools(family).map_err(told)?;
                // IPv4 first: the first subnet's gateway gives the bridge its MAC.
                let position = if family == Family::V4 { 0 } else { subnets.len() };
                subnets.insert(position, subnet_of(&config_of(net)));
            }
        }
        self.vnis.insert(vni);
        if !network.spec.driver.options.contains_key(VXLAN_ID_LIST) {
            self.last_vni = vni;
        }
        self.taken.extend(subnets.iter().map(|subnet| subnet.net));
        Ok(NetworkState { vni, subnets, options: network.spec.driver.options.clone() })
    }

    /// The one asked for, else the next free one after that which was given last, round and round: so one that is released
    /// is given again as late as can be.
    fn vni(&self, network: &Network) -> Result<u32, String> {
        let is_free = |vni: &u32| self.view.vni_owner(*vni).is_none() && !self.vnis.contains(vni);
        let asked = network.spec.driver.options.get(VXLAN_ID_LIST);
        if let Some(asked) = asked.and_then(|list| list.split(',').next()?.trim().parse().ok()) {
            let refusal = || format!("VXLAN network identifier {asked} is already in use");
            return is_free(&asked).then_some(asked).ok_or_else(refusal);
        }
        let next = (self.last_vni + 1).max(FIRST_VNI);
        let mut rest = (next..=LAST_VNI).chain(FIRST_VNI..=LAST_VNI);
        rest.find(is_free).ok_or_else(|| "all VXLAN network identifiers are in use".into())
    }

    /// The lowest block of the swarm's pools that is in use nowhere.
    fn subnet_of_pools(&mut self, family: Family) -> Result<IpNet, String> {
        let cluster = self.view.cluster().ok_or("the swarm has no address pools")?;
        let pools = pools(cluster, family);
        let sized = |pool: &IpNet| match family {
            Family::V4 => cluster.subnet_size.clamp(pool.prefix_len(), SMALLEST.max(pool.prefix_len())),
            Family::V6 => V6_SUBNET.max(pool.prefix_len()),
        };
        for pool in &pools {
            if let Some(net) = self.lowest_free(pool, sized(pool)) {
                self.given.insert(*pool, net);
                return Ok(net);
            }
        }
        let size = pools.first().map_or(0, sized);
        let shown: Vec<String> = pools.iter().map(ToString::to_string).collect();
        let routed = pools.iter().any(|pool| self.routes_in(pool).next().is_some());
        let beside = if routed { ", beside what networks and the nodes' own routes use" } else { "" };
        Err(format!("no free subnet of size /{size} in {}{beside}", shown.join(", ")))
    }

    /// Of the routes, those to a part of the pool.
    fn routes_in<'b>(&'b self, pool: &'b IpNet) -> impl Iterator<Item = &'b IpNet> {
        self.routes.iter().filter(move |route| pool.contains(*route) && *route != pool)
    }

    /// One sweep over what is in use in the pool, in order.
    fn lowest_free(&self, pool: &IpNet, size: u8) -> Option<IpNet> {
        let family = Family::of_net(pool);
        let block = 1u128 << (family.bits() - size);
        let align = |at: u128| at.div_ceil(block) * block;
        let (start, end) = bounds(pool);
        let mut at = align(self.given.get(pool).map_or(start, |last| bounds(last).1 + 1));
        let mut in_use: Vec<(u128, u128)> = self.taken.iter().filter(of(family)).map(bounds).collect();
        in_use.extend(self.routes_in(pool).map(bounds));
        in_use.sort_unstable();
        let in_view = self.view.subnets_in_use().map(|(net, _)| net).filter(of(family)).map(bounds);
        for (first, last) in merge(in_view, in_use.into_iter()) {
            if first >= at + block {
                break;
            }
            if last >= at {
                at = align(last + 1);
            }
        }
        let fits = at + (block - 1) <= end;
        fits.then(|| IpNet::new(family.address(at), size).ok())?
    }
}

/// Every network has IPv4, as SwarmKit has it.
fn wanted(network: &Network) -> impl Iterator<Item = Family> {
    let ipv6 = network.spec.ipv6;
    Family::ALL.into_iter().filter(move |family| ipv6 || *family == Family::V4)
}

/// The swarm's pools of the family; without one of IPv6, a block of unique local addresses that follows from the
/// cluster's id, so that each swarm has another and all its managers the same.
fn pools(cluster: &Cluster, family: Family) -> Vec<IpNet> {
    let pools: Vec<IpNet> = cluster.default_address_pools.iter().filter(of(family)).copied().collect();
    if pools.is_empty() && family == Family::V6 { vec![unique_local(&cluster.id)] } else { pools }
}

/// `fd`, 40 bits that are as good as random (RFC 4193, section 3.2.2), and nothing.
fn unique_local(cluster: &ClusterId) -> IpNet {
    let digest = ring::digest::digest(&ring::digest::SHA256, cluster.as_str().as_bytes());
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&digest.as_ref()[..5]);
    Ipv6Net::new_assert(Ipv6Addr::from(octets), ULA_BLOCK).into()
}

fn of(family: Family) -> impl Fn(&&IpNet) -> bool {
    move |net| Family::of_net(net) == family
}

fn bounds(net: &IpNet) -> (u128, u128) {
    (number(net.network()), number(net.broadcast()))
}

/// Two ordered sequences as one.
fn merge<T: Ord>(a: impl Iterator<Item = T>, b: impl Iterator<Item = T>) -> impl Iterator<Item = T> {
    let (mut a, mut b) = (a.peekable(), b.peekable());
    std::iter::from_fn(move || match (a.peek(), b.peek()) {
        (Some(x), Some(y)) if x > y => b.next(),
        (None, _) => b.next(),
        _ => a.next(),
    })
}

fn config_of(subnet: IpNet) -> IpamConfig {
    IpamConfig { subnet, range: None, gateway: None, reserved: BTreeMap::new() }
}

/// The gateway is the first address that is not reserved, unless one is asked for.
fn subnet_of(config: &IpamConfig) -> Subnet {
    let net = config.subnet.trunc();
    let is_reserved = |address: &IpAddr| config.reserved.values().any(|reserved| reserved == address);
    let first = || Hosts::of_net(&net).iter().find(|address| !is_reserved(address)).unwrap_or(net.addr());
    let gateway = config.gateway.unwrap_or_else(first);
    Subnet { net, range: config.range, gateway, reserved: config.reserved.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_swarm_has_a_block_of_its_own() {
        let (one, other) = (unique_local(&"one".into()), unique_local(&"other".into()));
        assert_eq!(one, unique_local(&"one".into()));
        assert_ne!(one, other);
        for block in [one, other] {
            assert_eq!(block, block.trunc());
            assert!(block.prefix_len() == 48 && block.to_string().starts_with("fd"), "{block}");
        }
    }
}
