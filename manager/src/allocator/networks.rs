//! VXLAN network identifiers and subnets for networks.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use proto::model::{IpamConfig, Network, NetworkState, Subnet, VXLAN_ID_LIST};
use raft_store::Tables;

use super::addresses::{Family, Hosts};

/// The first identifier that is given out, as SwarmKit has it: lower ones are often in use by others.
const FIRST_VNI: u32 = 4097;

/// 24 bits (RFC 7348).
const LAST_VNI: u32 = (1 << 24) - 1;

/// Mask length of the smallest subnet with a gateway and a task.
const SMALLEST: u8 = 30;

/// What is free, while a plan gives it out.
pub(super) struct Free<'a> {
    view: &'a Tables,
    vnis: HashSet<u32>,
    last_vni: u32,
    /// Subnets given out in this plan, by the pool's position: below the last one of a pool nothing is free.
    subnets: BTreeMap<usize, Ipv4Net>,
    taken: Vec<IpNet>,
}

impl<'a> Free<'a> {
    pub(super) fn new(view: &'a Tables) -> Self {
        let last_vni = view.vnis_in_use().next_back().unwrap_or_default();
        Self { view, vnis: HashSet::new(), last_vni, subnets: BTreeMap::new(), taken: Vec::new() }
    }

    pub(super) fn allocate(&mut self, network: &Network) -> Result<NetworkState, String> {
        let told = |why: String| format!("network {}: {why}", network.name());
        let vni = self.vni(network).map_err(told)?;
        let mut subnets: Vec<Subnet> = network.spec.ipam.iter().map(subnet_of).collect();
        if !subnets.iter().any(|subnet| Family::of(&subnet.net) == Family::V4) {
            let net = self.subnet_of_pools().map_err(told)?;
            subnets.insert(0, subnet_of(&config_of(net)));
        }
        self.vnis.insert(vni);
        self.last_vni = self.last_vni.max(vni);
        self.taken.extend(subnets.iter().map(|subnet| subnet.net));
        Ok(NetworkState { vni, subnets, options: network.spec.driver.options.clone() })
    }

    /// The one asked for, else the one after the highest in use; once that is the last of all, the lowest free one.
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

    /// The lowest block of the swarm's pools that no network overlaps.
    fn subnet_of_pools(&mut self) -> Result<IpNet, String> {
        let cluster = self.view.cluster().ok_or("the swarm has no address pools")?;
        let pools = cluster.default_address_pools.iter().enumerate();
        let pools =
            pools.filter_map(|(at, pool)| if let IpNet::V4(pool) = pool { Some((at, *pool)) } else { None });
        for (at, pool) in pools {
            let size = cluster.subnet_size.clamp(pool.prefix_len(), SMALLEST.max(pool.prefix_len()));
            if let Some(net) = self.lowest_free(pool, size, self.subnets.get(&at)) {
                self.subnets.insert(at, net);
                return Ok(net.into());
            }
        }
        let pools: Vec<String> = cluster.default_address_pools.iter().map(ToString::to_string).collect();
        Err(format!("no free subnet of size /{} in {}", cluster.subnet_size, pools.join(", ")))
    }

    /// One sweep over the subnets in use, which come in order.
    fn lowest_free(&self, pool: Ipv4Net, size: u8, after: Option<&Ipv4Net>) -> Option<Ipv4Net> {
        let block = 1u64 << (32 - u32::from(size));
        let align = |at: u64| at.div_ceil(block) * block;
        let bounds =
            |net: &Ipv4Net| (u64::from(u32::from(net.network())), u64::from(u32::from(net.broadcast())));
        let (start, end) = bounds(&pool);
        let mut at = align(after.map_or(start, |last| bounds(last).1 + 1));
        let mut in_use: Vec<(u64, u64)> = self.taken.iter().filter_map(v4).map(|net| bounds(&net)).collect();
        in_use.sort_unstable();
        let in_view = self.view.subnets_in_use().filter_map(|(net, _)| v4(net)).map(|net| bounds(&net));
        for (first, last) in merge(in_view, in_use.into_iter()) {
            if first >= at + block {
                break;
            }
            if last >= at {
                at = align(last + 1);
            }
        }
        let fits = at + block <= end + 1;
        fits.then(|| Ipv4Net::new(Ipv4Addr::from(u32::try_from(at).ok()?), size).ok())?
    }
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

fn v4(net: &IpNet) -> Option<Ipv4Net> {
    if let IpNet::V4(net) = net { Some(*net) } else { None }
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
