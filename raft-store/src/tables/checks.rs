//! The invariants that span objects, checked against tables from which the objects' earlier forms were taken out.

use proto::model::{Network, NetworkId, Service, Task};

use super::{Tables, addresses, networks_of_service, subnets};
use crate::{AddressOwner, Kind, Object, ObjectId, Violation};

type Check = Result<(), Violation>;

/// The most objects of a kind that a swarm has. A manager holds all of them in memory.
///
/// What an entry does depends on it, so managers that differ here would differ in their state: it may be raised only
/// together with something that tells all of them at the same entry.
const fn most(kind: Kind) -> usize {
    match kind {
        Kind::Node | Kind::Service | Kind::Network | Kind::Keyring => 1 << 17,
        Kind::Task => 1 << 20,
        Kind::Cluster => 1,
    }
}

impl Tables {
    /// Whether there are not too many, once one of the kind was added.
    pub(crate) fn check_count(&self, kind: Kind) -> Check {
        let limit = most(kind);
        if self.count(kind) <= limit { Ok(()) } else { Err(Violation::TooMany { kind, limit }) }
    }

    /// Whether `after` may take its place: what must be unique is free.
    pub(crate) fn check_unique(&self, after: &Object) -> Check {
        match after {
            Object::Service(service) => self.check_service_name(service)?,
            Object::Network(network) => self.check_network(network)?,
            Object::Cluster(_) => {
                if let Some(cluster) = self.cluster() {
                    return Err(Violation::Exists { id: ObjectId::Cluster(cluster.id.clone()) });
                }
            }
            Object::Node(_) | Object::Task(_) | Object::Keyring(_) => {}
        }
        self.check_addresses(after)
    }

    fn check_service_name(&self, service: &Service) -> Check {
        match self.service_names.get(service.name()) {
            Some(by) => {
                Err(Violation::NameTaken { kind: Kind::Service, name: service.name().into(), by: by.into() })
            }
            None => Ok(()),
        }
    }

    fn check_network(&self, network: &Network) -> Check {
        if let Some(by) = self.network_names.get(network.name()) {
            let name = network.name().into();
            return Err(Violation::NameTaken { kind: Kind::Network, name, by: by.into() });
        }
        if let Some(state) = &network.state
            && let Some(by) = self.vnis.get(&state.vni)
        {
            return Err(Violation::VniTaken { vni: state.vni, by: by.clone() });
        }
        // The network's own subnets must not overlap either.
        let mut taken = self.subnets.clone();
        for subnet in subnets::of(network) {
            if let Some((other, owner)) = taken.overlapping(&subnet) {
                let name = self.networks.get(owner).map_or(network.name(), |n| n.name()).into();
                return Err(Violation::SubnetOverlap { subnet, other: *other, name });
            }
            taken.insert(subnet, &network.id);
        }
        Ok(())
    }

    fn check_addresses(&self, after: &Object) -> Check {
        for claim in addresses::claims(after) {
            let address = claim.address.addr();
            if let Some(by) = self.addresses.owner(&claim.network, &address)
                && *by != claim.owner
            {
                return Err(Violation::AddressTaken { network: claim.network, address, by: by.clone() });
            }
        }
        Ok(())
    }

    /// Whether what `after` newly refers to exists.
    ///
    /// Only new references are looked at: an object may outlive what it once referred to, and must still be
    /// updatable then.
    pub(crate) fn check_references(&self, after: &Object, before: Option<&Object>) -> Check {
        let missing = |missing: ObjectId| Err(Violation::Missing { missing, by: after.id() });
        match after {
            Object::Service(service) => {
                let before = before.and_then(Object::as_service);
                let known = |id| before.is_some_and(|before| networks_of_service(before).any(|n| n == id));
                for network in networks_of_service(service) {
                    if !known(network) && !self.networks.contains_key(network) {
                        return missing(network.into());
                    }
                }
                Ok(())
            }
            Object::Task(task) => {
                self.check_task_references(task, before.and_then(Object::as_task).map(|t| &**t))
            }
            Object::Network(network) => self.check_settings(network),
            Object::Node(_) | Object::Cluster(_) | Object::Keyring(_) => Ok(()),
        }
    }

    fn check_settings(&self, network: &Network) -> Check {
        let Some(from) = &network.spec.config_from else { return Ok(()) };
        match self.network_names.contains_key(from.as_str()) {
            true => Ok(()),
            // By the name, which is all that is known of it.
            false => Err(Violation::Missing {
                missing: ObjectId::Network(from.as_str().into()),
                by: (&network.id).into(),
            }),
        }
    }

    fn check_task_references(&self, task: &Task, before: Option<&Task>) -> Check {
        let missing = |missing: ObjectId| Err(Violation::Missing { missing, by: (&task.id).into() });
        if before.is_none() && !self.services.contains_key(&task.service) {
            return missing((&task.service).into());
        }
        if let Some(node) = &task.node
            && before.is_none_or(|before| before.node.is_none())
            && !self.nodes.contains_key(node)
        {
            return missing(node.into());
        }
        let known =
            |id: &NetworkId| before.is_some_and(|before| before.attachments.iter().any(|a| a.network == *id));
        for attachment in &task.attachments {
            let network = &attachment.network;
            if !known(network) && !self.networks.contains_key(network) {
                return missing(network.into());
            }
        }
        Ok(())
    }

    /// Whether `removed` may be gone: a network only when no service names it, no task holds an address on it and no
    /// other network has its settings.
    pub(crate) fn check_unreferenced(&self, removed: &Object) -> Check {
        let Object::Network(removed) = removed else { return Ok(()) };
        let network = &removed.id;
        let others = self.networks_configured_from(removed.name()).map(|other| ObjectId::from(&other.id));
        let services = self.services_by_network(network).map(|service| ObjectId::from(&service.id));
        let tasks = self.tasks_by_network(network).filter(|task| !task.status.state.is_terminal());
        let by: Vec<ObjectId> =
            services.chain(tasks.map(|task| ObjectId::from(&task.id))).chain(others).collect();
        let held = self.addresses.in_use(network).any(|(_, owner)| matches!(owner, AddressOwner::Task(_)));
        if by.is_empty() && !held {
            return Ok(());
        }
        Err(Violation::InUse { network: network.clone(), by })
    }
}

/// Whether `after` may follow `before`.
pub(crate) fn check_transition(before: &Object, after: &Object) -> Check {
    let (Object::Task(before), Object::Task(after)) = (before, after) else { return Ok(()) };
    let immutable = |field| Err(Violation::Immutable { id: ObjectId::from(&after.id), field });
    if before.service != after.service {
        return immutable("service");
    }
    if before.slot != after.slot {
        return immutable("slot");
    }
    if before.node.is_some() && before.node != after.node {
        return immutable("node");
    }
    let (from, to) = (before.status.state, after.status.state);
    if to < from {
        return Err(Violation::Backwards { task: after.id.clone(), from, to });
    }
    Ok(())
}
