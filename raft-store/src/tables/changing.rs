//! How the tables change: objects go in and out, and the indexes with them.
//!
//! Nothing is checked here.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use proto::model::{Network, NetworkId, Service, Task, VXLAN_ID_LIST};

use super::addresses::claims;
use super::{Tables, networks_of_service, networks_of_task, places, subnets};
use crate::{Object, ObjectId};

/// 24 bits (RFC 7348).
const VNI_MASK: u32 = (1 << 24) - 1;

impl Tables {
    pub(crate) fn set_index(&mut self, index: u64) {
        self.index = index;
    }

    pub(crate) fn set_mark(&mut self, mark: u64) {
        self.mark = mark;
    }

    /// Puts `after` in the place of `before`, which must have been removed.
    pub(crate) fn insert(&mut self, after: Object, before: Option<&Object>) {
        let held = before.map(claims).unwrap_or_default();
        for claim in claims(&after) {
            self.addresses.take(&claim);
            if !held.contains(&claim) {
                self.addresses.note_last(&claim);
            }
        }
        self.note_last_vni(&after, before);
        match after {
            Object::Cluster(cluster) => {
                self.clusters.insert(cluster.id.clone(), cluster);
            }
            Object::Node(node) => {
                self.nodes.insert(node.id.clone(), node);
            }
            Object::Service(service) => self.insert_service(service),
            Object::Task(task) => self.insert_task(task),
            Object::Network(network) => self.insert_network(network),
            Object::Keyring(keyring) => {
                self.keyrings.insert(keyring.id.clone(), keyring);
            }
        }
    }

    fn note_last_vni(&mut self, after: &Object, before: Option<&Object>) {
        let vni = |object: &Object| match object {
            Object::Network(network) if !network.spec.driver.options.contains_key(VXLAN_ID_LIST) => {
                network.state.as_ref().map(|state| state.vni)
            }
            _ => None,
        };
        // Of those given together the last of the round counts, in whatever order they are put here.
        let is_ahead = |given: u32| given.wrapping_sub(self.last_vni) & VNI_MASK <= VNI_MASK / 2;
        if let Some(given) = vni(after).filter(|given| is_ahead(*given))
            && before.and_then(vni) != Some(given)
        {
            self.last_vni = given;
        }
    }

    pub(crate) fn set_last_vni(&mut self, vni: u32) {
        self.last_vni = vni;
    }

    fn insert_service(&mut self, service: Arc<Service>) {
        self.service_names.insert(service.name().into(), service.id.clone());
        for network in networks_of_service(&service) {
            self.services_by_network.insert(network, service.id.clone());
        }
        self.services.insert(service.id.clone(), service);
    }

    fn insert_task(&mut self, task: Arc<Task>) {
        self.tasks_by_service.insert(&task.service, (task.slot, task.id.clone()));
        if let Some(node) = &task.node {
            self.tasks_by_node.insert(node, task.id.clone());
        }
        for network in networks_of_task(&task) {
            self.tasks_by_network.insert(network, task.id.clone());
        }
        for (network, node) in places(&task) {
            self.placed.insert(network, (node.clone(), task.id.clone()));
        }
        self.tasks.insert(task.id.clone(), task);
    }

    fn insert_network(&mut self, network: Arc<Network>) {
        self.network_names.insert(network.name().into(), network.id.clone());
        if let Some(state) = &network.state {
            self.vnis.insert(state.vni, network.id.clone());
        }
        for subnet in subnets::of(&network) {
            self.subnets.insert(subnet, &network.id);
        }
        self.networks.insert(network.id.clone(), network);
    }

    /// Takes an object out, to be replaced or for good.
    pub(crate) fn remove(&mut self, id: &ObjectId) -> Option<Object> {
        let object = self.get(id)?;
        for claim in claims(&object) {
            self.addresses.release(&claim);
        }
        match &object {
            Object::Cluster(cluster) => {
                self.clusters.remove(&cluster.id);
            }
            Object::Node(node) => {
                self.nodes.remove(&node.id);
            }
            Object::Service(service) => self.remove_service(service),
            Object::Task(task) => self.remove_task(task),
            Object::Network(network) => self.remove_network(network),
            Object::Keyring(keyring) => {
                self.keyrings.remove(&keyring.id);
            }
        }
        Some(object)
    }

    fn remove_service(&mut self, service: &Service) {
        if self.service_names.get(service.name()) == Some(&service.id) {
            self.service_names.remove(service.name());
        }
        for network in networks_of_service(service) {
            self.services_by_network.remove(network, &service.id);
        }
        self.services.remove(&service.id);
    }

    fn remove_task(&mut self, task: &Task) {
        self.tasks_by_service.remove(&task.service, &(task.slot, task.id.clone()));
        if let Some(node) = &task.node {
            self.tasks_by_node.remove(node, &task.id);
        }
        for network in networks_of_task(task) {
            self.tasks_by_network.remove(network, &task.id);
        }
        for (network, node) in places(task) {
            self.placed.remove(network, &(node.clone(), task.id.clone()));
        }
        self.tasks.remove(&task.id);
    }

    fn remove_network(&mut self, network: &Network) {
        if self.network_names.get(network.name()) == Some(&network.id) {
            self.network_names.remove(network.name());
        }
        if let Some(state) = &network.state
            && self.vnis.get(&state.vni) == Some(&network.id)
        {
            self.vnis.remove(&state.vni);
        }
        for subnet in subnets::of(network) {
            self.subnets.remove(&subnet, &network.id);
        }
        self.networks.remove(&network.id);
    }

    /// Forgets what outlives the tasks of a network, once it is gone for good.
    pub(crate) fn forget_network(&mut self, network: &NetworkId) {
        self.addresses.forget(network);
    }

    /// What is not derived from the objects.
    pub(crate) fn last_addresses(&self) -> impl Iterator<Item = (&NetworkId, &IpNet, &IpAddr)> {
        self.addresses.all_last()
    }

    pub(crate) fn set_last_address(&mut self, network: &NetworkId, subnet: IpNet, address: IpAddr) {
        self.addresses.set_last(network, subnet, address);
    }
}
