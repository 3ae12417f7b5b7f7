//! The subnets of all networks. They never overlap, so the neighbours in order tell whether another one fits.

use std::net::IpAddr;

use imbl::OrdMap;
use ipnet::IpNet;
use proto::model::{Network, NetworkId};

#[derive(Clone, Default)]
pub(super) struct Subnets(OrdMap<IpAddr, (IpNet, NetworkId)>);

/// The subnets that the network has, or has asked for as long as it was given none. One that holds settings for others
/// has none.
pub(super) fn of(network: &Network) -> Vec<IpNet> {
    match &network.state {
        Some(state) => state.subnets.iter().map(|subnet| subnet.net.trunc()).collect(),
        None if network.spec.is_config_only() => Vec::new(),
        None => network.spec.ipam.iter().map(|config| config.subnet.trunc()).collect(),
    }
}

impl Subnets {
    /// A subnet in use that overlaps `subnet`, and its network.
    pub(super) fn overlapping(&self, subnet: &IpNet) -> Option<&(IpNet, NetworkId)> {
        let overlaps = |entry: &&(IpNet, NetworkId)| entry.0.contains(subnet) || subnet.contains(&entry.0);
        let before = self.0.get_prev(&subnet.network()).map(|(_, entry)| entry);
        let after = self.0.get_next(&subnet.network()).map(|(_, entry)| entry);
        before.filter(overlaps).or(after.filter(overlaps))
    }

    pub(super) fn insert(&mut self, subnet: IpNet, network: &NetworkId) {
        self.0.insert(subnet.network(), (subnet, network.clone()));
    }

    pub(super) fn remove(&mut self, subnet: &IpNet, network: &NetworkId) {
        if self.0.get(&subnet.network()).is_some_and(|(_, owner)| owner == network) {
            self.0.remove(&subnet.network());
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&IpNet, &NetworkId)> {
        self.0.values().map(|(subnet, network)| (subnet, network))
    }
}
