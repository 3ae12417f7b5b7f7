//! Whether addresses, network identifiers and subnets are sound: none in use twice, none outside of its subnet, none
//! leaked.
//!
//! A pure function of the tables, worked out from the objects alone: so it finds what an index, or a check at apply,
//! has missed. The state machine asks for it in debug builds, tests after every step.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use proto::model::{Hosts, Network, NetworkId, Subnet};

use super::Tables;
use super::addresses::{Addresses, Claim, claims};
use super::subnets;
use crate::{AddressOwner, Object, ObjectId};

/// 24 bits (RFC 7348).
const LAST_VNI: u32 = (1 << 24) - 1;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    #[error("address {address} of network {network} is held by {first} and by {second}")]
    SharedAddress { network: NetworkId, address: IpAddr, first: AddressOwner, second: AddressOwner },
    #[error("{owner} holds {address}, which is no address of network {network}")]
    ForeignAddress { network: NetworkId, address: IpNet, owner: AddressOwner },
    #[error("address {address} of network {network} counts as held by {owner}, who does not hold it")]
    LeakedAddress { network: NetworkId, address: IpAddr, owner: AddressOwner },
    #[error("address {address} of network {network} is held by {owner} and counts as free")]
    ForgottenAddress { network: NetworkId, address: IpAddr, owner: AddressOwner },
    #[error("subnets {one} and {other} overlap")]
    OverlappingSubnets { one: IpNet, other: IpNet },
    #[error("network {network} has the VXLAN network identifier {vni}, which {other} has too")]
    SharedVni { vni: u32, network: NetworkId, other: NetworkId },
    #[error("network {network} has the VXLAN network identifier {vni}, which is none")]
    ForeignVni { vni: u32, network: NetworkId },
    #[error("VXLAN network identifier {vni} counts as that of network {network}, which does not have it")]
    LeakedVni { vni: u32, network: NetworkId },
    #[error("something is remembered of {0}, which does not exist")]
    Remembered(ObjectId),
}

impl Tables {
    /// Everything that is wrong with what was allocated.
    pub fn flaws(&self) -> Vec<Flaw> {
        let mut flaws = Vec::new();
        let held = self.audit_claims(&mut flaws);
        self.audit_index(&held, &mut flaws);
        self.audit_vnis(&mut flaws);
        self.audit_subnets(&mut flaws);
        let gone = self.addresses.all_last().filter(|(network, ..)| !self.networks.contains_key(*network));
        flaws.extend(gone.map(|(network, ..)| Flaw::Remembered(network.into())));
        flaws
    }

    /// # Panics
    ///
    /// When what was allocated is not sound. Addresses outside of their network's subnets are left to the allocator's
    /// tests, since the state machine admits them.
    pub(crate) fn assert_sound(&self) {
        let mut flaws = self.flaws();
        flaws.retain(|flaw| !matches!(flaw, Flaw::ForeignAddress { .. } | Flaw::ForeignVni { .. }));
        assert!(flaws.is_empty(), "what was allocated is not sound at index {}: {flaws:?}", self.index());
    }

    /// Goes by the objects, and returns what they hold.
    fn audit_claims(&self, flaws: &mut Vec<Flaw>) -> BTreeMap<(NetworkId, IpAddr), AddressOwner> {
        let mut held: BTreeMap<(NetworkId, IpAddr), AddressOwner> = BTreeMap::new();
        for claim in self.objects().flat_map(|object: Object| claims(&object)) {
            if !self.is_sound(&claim) {
                let Claim { network, address, owner, .. } = claim.clone();
                flaws.push(Flaw::ForeignAddress { network, address, owner });
            }
            let Claim { network, address, owner, .. } = claim;
            let address = address.addr();
            if let Some(first) = held.insert((network.clone(), address), owner.clone())
                && first != owner
            {
                flaws.push(Flaw::SharedAddress { network, address, first, second: owner });
            }
        }
        held
    }

    /// Of a subnet of its network and with its mask length, and of use to a host.
    fn is_sound(&self, claim: &Claim) -> bool {
        let state = self.networks.get(&claim.network).and_then(|network| network.state.as_ref());
        let mut subnets = state.into_iter().flat_map(|state| &state.subnets);
        let address = claim.address.addr();
        let fits = |subnet: &&Subnet| subnet.net.trunc() == claim.address.trunc();
        subnets.find(fits).is_some_and(|subnet| Hosts::of_net(&subnet.net).contains(address))
    }

    fn audit_index(&self, held: &BTreeMap<(NetworkId, IpAddr), AddressOwner>, flaws: &mut Vec<Flaw>) {
        for (network, address, owner) in self.addresses.all() {
            if held.get(&(network.clone(), *address)) != Some(owner) {
                let (network, address, owner) = (network.clone(), *address, owner.clone());
                flaws.push(Flaw::LeakedAddress { network, address, owner });
            }
        }
        for ((network, address), owner) in held {
            if self.addresses.owner(network, address).is_none() {
                let (network, address, owner) = (network.clone(), *address, owner.clone());
                flaws.push(Flaw::ForgottenAddress { network, address, owner });
            }
        }
    }

    fn audit_vnis(&self, flaws: &mut Vec<Flaw>) {
        let vni_of = |network: &Network| network.state.as_ref().map(|state| state.vni);
        let mut seen: BTreeMap<u32, &NetworkId> = BTreeMap::new();
        for network in self.networks.values() {
            let Some(vni) = vni_of(network) else { continue };
            let network = &network.id;
            if !(1..=LAST_VNI).contains(&vni) {
                flaws.push(Flaw::ForeignVni { vni, network: network.clone() });
            }
            if let Some(other) = seen.insert(vni, network) {
                flaws.push(Flaw::SharedVni { vni, network: network.clone(), other: other.clone() });
            }
        }
        let leaked = self.vnis.iter().filter(|(vni, network)| seen.get(*vni).copied() != Some(*network));
        flaws.extend(leaked.map(|(vni, network)| Flaw::LeakedVni { vni: *vni, network: network.clone() }));
    }

    fn audit_subnets(&self, flaws: &mut Vec<Flaw>) {
        let mut all: Vec<IpNet> = self.networks.values().flat_map(|network| subnets::of(network)).collect();
        // Of two that overlap, one contains the other; so it does when others lie between them in order.
        all.sort_unstable_by_key(|net| (net.network(), net.prefix_len()));
        for pair in all.windows(2) {
            if pair[0].contains(&pair[1]) {
                flaws.push(Flaw::OverlappingSubnets { one: pair[0], other: pair[1] });
            }
        }
    }
}

impl Addresses {
    fn all(&self) -> impl Iterator<Item = (&NetworkId, &IpAddr, &AddressOwner)> {
        self.owners
            .iter()
            .flat_map(|(network, owners)| owners.iter().map(move |(a, owner)| (network, a, owner)))
    }
}

#[cfg(test)]
mod tests {
    use proto::model::{TaskId, TaskState};

    use super::*;
    use crate::fixtures as make;

    /// Put in without any check.
    fn tables(objects: Vec<Object>) -> Tables {
        let mut tables = Tables::default();
        objects.into_iter().for_each(|object| tables.insert(object, None));
        tables
    }

    fn holder(task: &str, address: &str) -> Object {
        make::attached(make::task(task, "web", 1), "net", address).into()
    }

    fn sound() -> Vec<Object> {
        let mut web = make::service("web", &["net"]);
        web.endpoint.virtual_ips = vec![make::vip("net", "10.0.9.2/24")];
        vec![make::allocated("net", "10.0.9.0/24", 4097).into(), web.into(), holder("a", "10.0.9.3/24")]
    }

    fn flaws(more: Vec<Object>) -> Vec<String> {
        let all = sound().into_iter().chain(more).collect();
        tables(all).flaws().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_sound_has_no_flaw() {
        let ended = make::in_state(make::task("old", "web", 1), TaskState::Failed);
        let ended = make::attached(ended, "net", "10.0.9.3/24");
        assert_eq!(flaws(vec![ended.into()]), [""; 0]);
    }

    #[test]
    fn an_address_in_use_twice_or_outside_is_found() {
        let twice = flaws(vec![holder("b", "10.0.9.3/24")]);
        assert_eq!(twice[0], "address 10.0.9.3 of network net is held by task a and by task b");
        for foreign in ["10.0.8.3/24", "10.0.9.4/16", "10.0.9.255/24", "10.0.9.0/24"] {
            let found = flaws(vec![holder("b", foreign)]);
            assert_eq!(found, [format!("task b holds {foreign}, which is no address of network net")]);
        }
        assert!(flaws(vec![holder("b", "10.0.9.2/24")])[0].contains("held by service web and by task b"));
        assert!(flaws(vec![holder("b", "10.0.9.1/24")])[0].contains("held by the gateway and by task b"));
    }

    #[test]
    fn networks_that_share_are_found() {
        let vni = flaws(vec![make::allocated("other", "10.0.8.0/24", 4097).into()]);
        assert_eq!(vni[0], "network other has the VXLAN network identifier 4097, which net has too");
        let subnet = flaws(vec![make::allocated("other", "10.0.0.0/16", 4098).into()]);
        assert!(subnet.contains(&"subnets 10.0.0.0/16 and 10.0.9.0/24 overlap".to_owned()), "{subnet:?}");
        let vni = flaws(vec![make::allocated("other", "10.0.8.0/24", 1 << 24).into()]);
        assert!(vni[0].contains("16777216, which is none"), "{vni:?}");
    }

    #[test]
    fn what_is_leaked_or_forgotten_is_found() {
        let mut leaky = tables(sound());
        // As if the index had not followed the task's end.
        let (net, address) = ("net".into(), "10.0.9.3".parse().unwrap());
        leaky.tasks.remove(&TaskId::from("a"));
        assert_eq!(
            leaky.flaws(),
            [Flaw::LeakedAddress { network: net, address, owner: AddressOwner::Task("a".into()) }]
        );
        let mut forgetful = tables(sound());
        let object = Object::from(make::attached(make::task("a", "web", 1), "net", "10.0.9.3/24"));
        claims(&object).iter().for_each(|claim| forgetful.addresses.release(claim));
        assert!(matches!(forgetful.flaws()[..], [Flaw::ForgottenAddress { .. }]));
        let mut remembers = tables(sound());
        remembers.set_last_address(
            &"gone".into(),
            "10.9.0.0/24".parse().unwrap(),
            "10.9.0.2".parse().unwrap(),
        );
        assert_eq!(remembers.flaws(), [Flaw::Remembered(ObjectId::Network("gone".into()))]);
    }
}
