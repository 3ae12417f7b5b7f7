//! The addresses in use on each network, and the one taken last in each subnet.
//!
//! Which are in use is derived from tasks, services and networks. Which was taken last is not: it is part of
//! snapshots. It lets an allocator go round the subnet, so that a released address is reused as late as can be.

use std::net::IpAddr;

use imbl::OrdMap;
use ipnet::IpNet;
use proto::model::NetworkId;

use crate::{AddressOwner, Object};

/// An address that an object holds, with the mask length of its subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) network: NetworkId,
    pub(super) address: IpNet,
    pub(super) owner: AddressOwner,
    /// Asked for by the user: no step of the round.
    pub(super) fixed: bool,
}

/// What `object` holds.
pub(super) fn claims(object: &Object) -> Vec<Claim> {
    match object {
        Object::Task(task) if task.status.state.is_terminal() => Vec::new(),
        Object::Task(task) => {
            let asked = |network: &NetworkId, address: IpAddr| {
                let config = task.spec.networks.iter().find(|config| config.network == *network);
                config.is_some_and(|config| config.addresses.iter().any(|asked| asked.parse() == Ok(address)))
            };
            let claim = |network: &NetworkId, address: &IpNet| Claim {
                network: network.clone(),
                address: *address,
                owner: AddressOwner::Task(task.id.clone()),
                fixed: asked(network, address.addr()),
            };
            let attachments = task.attachments.iter();
            attachments.flat_map(|a| a.addresses.iter().map(|address| claim(&a.network, address))).collect()
        }
        Object::Service(service) => {
            let claim = |vip: &proto::model::VirtualIp| Claim {
                network: vip.network.clone(),
                address: vip.addr,
                owner: AddressOwner::Service(service.id.clone()),
                fixed: false,
            };
            service.endpoint.virtual_ips.iter().map(claim).collect()
        }
        Object::Network(network) => network
            .state
            .iter()
            .flat_map(|s| &s.subnets)
            .flat_map(|subnet| {
                let claim = |address: IpAddr, owner| Claim {
                    network: network.id.clone(),
                    address: IpNet::new(address, subnet.net.prefix_len()).unwrap_or_else(|_| address.into()),
                    owner,
                    fixed: true,
                };
                let reserved = subnet.reserved.iter().filter(|(_, address)| **address != subnet.gateway);
                let reserved =
                    reserved.map(|(name, address)| claim(*address, AddressOwner::Reserved(name.clone())));
                std::iter::once(claim(subnet.gateway, AddressOwner::Gateway))
                    .chain(reserved)
                    .collect::<Vec<_>>()
            })
            .collect(),
        Object::Node(_) | Object::Cluster(_) | Object::Keyring(_) => Vec::new(),
    }
}

#[derive(Clone, Default)]
pub(super) struct Addresses {
    pub(super) owners: OrdMap<NetworkId, OrdMap<IpAddr, AddressOwner>>,
    last: OrdMap<NetworkId, OrdMap<IpNet, IpAddr>>,
}

impl Addresses {
    pub(super) fn owner(&self, network: &NetworkId, address: &IpAddr) -> Option<&AddressOwner> {
        self.owners.get(network)?.get(address)
    }

    pub(super) fn in_use(&self, network: &NetworkId) -> impl Iterator<Item = (&IpAddr, &AddressOwner)> {
        self.owners.get(network).into_iter().flatten()
    }

    pub(super) fn last(&self, network: &NetworkId, subnet: &IpNet) -> Option<IpAddr> {
        self.last.get(network)?.get(subnet).copied()
    }

    pub(super) fn take(&mut self, claim: &Claim) {
        let address = claim.address.addr();
        match self.owners.get_mut(&claim.network) {
            Some(owners) => {
                owners.insert(address, claim.owner.clone());
            }
            None => {
                self.owners.insert(claim.network.clone(), OrdMap::unit(address, claim.owner.clone()));
            }
        }
    }

    pub(super) fn release(&mut self, claim: &Claim) {
        let Some(owners) = self.owners.get_mut(&claim.network) else { return };
        let address = claim.address.addr();
        if owners.get(&address) == Some(&claim.owner) {
            owners.remove(&address);
        }
        if owners.is_empty() {
            self.owners.remove(&claim.network);
        }
    }

    /// Addresses of the network itself and those that users choose do not count: they are not part of the round.
    pub(super) fn note_last(&mut self, claim: &Claim) {
        if claim.fixed {
            return;
        }
        self.set_last(&claim.network, claim.address.trunc(), claim.address.addr());
    }

    pub(super) fn set_last(&mut self, network: &NetworkId, subnet: IpNet, address: IpAddr) {
        let mut last = self.last.get(network).cloned().unwrap_or_default();
        last.insert(subnet, address);
        self.last.insert(network.clone(), last);
    }

    pub(super) fn all_last(&self) -> impl Iterator<Item = (&NetworkId, &IpNet, &IpAddr)> {
        self.last.iter().flat_map(|(network, last)| last.iter().map(move |(subnet, a)| (network, subnet, a)))
    }

    pub(super) fn forget(&mut self, network: &NetworkId) {
        self.last.remove(network);
    }
}
