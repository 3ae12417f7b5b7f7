//! All objects, and the indexes over them.
//!
//! Persistent: a clone costs nothing and never changes, so that a view is a clone. Every look-up and every change
//! takes logarithmic time. Indexes are derived from the objects, and only `insert` and `remove` touch them; whether
//! a change is admissible is decided by `checks`, on behalf of the state machine.

mod addresses;
mod audit;
pub(crate) mod checks;
mod diff;
mod index;
mod subnets;
#[cfg(test)]
mod tests;

use std::borrow::Borrow;
use std::fmt;
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdMap;
use ipnet::IpNet;
use proto::model::{
    Cluster, ClusterId, Keyring, KeyringId, Network, NetworkId, Node, NodeId, Service, ServiceId, Slot, Task,
    TaskId, VXLAN_ID_LIST,
};

use self::addresses::{Addresses, claims};
pub use self::audit::Flaw;
use self::index::Index;
use self::subnets::Subnets;
use crate::{AddressOwner, Kind, Object, ObjectId};

/// 24 bits (RFC 7348).
const VNI_MASK: u32 = (1 << 24) - 1;

#[derive(Clone, Default)]
pub struct Tables {
    index: u64,
    mark: u64,
    clusters: OrdMap<ClusterId, Arc<Cluster>>,
    nodes: OrdMap<NodeId, Arc<Node>>,
    services: OrdMap<ServiceId, Arc<Service>>,
    tasks: OrdMap<TaskId, Arc<Task>>,
    networks: OrdMap<NetworkId, Arc<Network>>,
    keyrings: OrdMap<KeyringId, Arc<Keyring>>,
    service_names: OrdMap<String, ServiceId>,
    network_names: OrdMap<String, NetworkId>,
    services_by_network: Index<NetworkId, ServiceId>,
    tasks_by_service: Index<ServiceId, (Slot, TaskId)>,
    tasks_by_node: Index<NodeId, TaskId>,
    tasks_by_network: Index<NetworkId, TaskId>,
    placed: Index<NetworkId, (NodeId, TaskId)>,
    vnis: OrdMap<u32, NetworkId>,
    /// Part of snapshots, since networks that are gone are no longer there to tell.
    last_vni: u32,
    subnets: Subnets,
    addresses: Addresses,
}

/// Reading.
impl Tables {
    /// The log index up to which everything is in here.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Told by the last change, and the same on every replica that has it as its last: so an index and its mark name one
    /// moment of one history.
    pub fn mark(&self) -> u64 {
        self.mark
    }

    pub fn get(&self, id: &ObjectId) -> Option<Object> {
        match id {
            ObjectId::Node(id) => self.nodes.get(id).cloned().map(Object::Node),
            ObjectId::Service(id) => self.services.get(id).cloned().map(Object::Service),
            ObjectId::Task(id) => self.tasks.get(id).cloned().map(Object::Task),
            ObjectId::Network(id) => self.networks.get(id).cloned().map(Object::Network),
            ObjectId::Cluster(id) => self.clusters.get(id).cloned().map(Object::Cluster),
            ObjectId::Keyring(id) => self.keyrings.get(id).cloned().map(Object::Keyring),
        }
    }

    pub fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Node => self.nodes.len(),
            Kind::Service => self.services.len(),
            Kind::Task => self.tasks.len(),
            Kind::Network => self.networks.len(),
            Kind::Cluster => self.clusters.len(),
            Kind::Keyring => self.keyrings.len(),
        }
    }

    /// The one cluster object; none before the swarm is initialised.
    pub fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.clusters.values().next()
    }

    pub fn node(&self, id: &NodeId) -> Option<&Arc<Node>> {
        self.nodes.get(id)
    }

    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = &Arc<Node>> + ExactSizeIterator {
        self.nodes.values()
    }

    pub fn nodes_by_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Arc<Node>> {
        with_prefix(&self.nodes, prefix)
    }

    pub fn service(&self, id: &ServiceId) -> Option<&Arc<Service>> {
        self.services.get(id)
    }

    pub fn services(&self) -> impl DoubleEndedIterator<Item = &Arc<Service>> + ExactSizeIterator {
        self.services.values()
    }

    pub fn service_by_name(&self, name: &str) -> Option<&Arc<Service>> {
        self.services.get(self.service_names.get(name)?)
    }

    pub fn services_by_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Arc<Service>> {
        with_prefix(&self.services, prefix)
    }

    /// Services that ask for the network or still have a virtual address on it.
    pub fn services_by_network<'a>(
        &'a self,
        network: &NetworkId,
    ) -> impl Iterator<Item = &'a Arc<Service>> + use<'a> {
        let ids = self.services_by_network.get(network).into_iter().flatten();
        ids.filter_map(|id| self.services.get(id))
    }

    pub fn task(&self, id: &TaskId) -> Option<&Arc<Task>> {
        self.tasks.get(id)
    }

    pub fn tasks(&self) -> impl DoubleEndedIterator<Item = &Arc<Task>> + ExactSizeIterator {
        self.tasks.values()
    }

    pub fn tasks_by_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Arc<Task>> {
        with_prefix(&self.tasks, prefix)
    }

    /// In the order of their slots.
    pub fn tasks_by_service<'a>(
        &'a self,
        service: &ServiceId,
    ) -> impl Iterator<Item = &'a Arc<Task>> + use<'a> {
        let ids = self.tasks_by_service.get(service).into_iter().flatten();
        ids.filter_map(|(_, id)| self.tasks.get(id))
    }

    pub fn tasks_by_slot<'a>(
        &'a self,
        service: &ServiceId,
        slot: Slot,
    ) -> impl Iterator<Item = &'a Arc<Task>> + use<'a> {
        let ids = self.tasks_by_service.get(service).into_iter();
        let ids = ids.flat_map(move |ids| ids.range((slot, TaskId::from(""))..));
        ids.take_while(move |(at, _)| *at == slot).filter_map(|(_, id)| self.tasks.get(id))
    }

    pub fn tasks_by_node<'a>(&'a self, node: &NodeId) -> impl Iterator<Item = &'a Arc<Task>> + use<'a> {
        let ids = self.tasks_by_node.get(node).into_iter().flatten();
        ids.filter_map(|id| self.tasks.get(id))
    }

    /// Tasks that are attached to the network or ask for it, ended ones too.
    pub fn tasks_by_network<'a>(
        &'a self,
        network: &NetworkId,
    ) -> impl Iterator<Item = &'a Arc<Task>> + use<'a> {
        let ids = self.tasks_by_network.get(network).into_iter().flatten();
        ids.filter_map(|id| self.tasks.get(id))
    }

    /// Nodes that have a task on the network which was assigned and has not ended.
    pub fn nodes_by_network<'a>(&'a self, network: &NetworkId) -> impl Iterator<Item = &'a NodeId> + use<'a> {
        // No id sorts after a tilde.
        let after = |node: &NodeId| Bound::Excluded((node.clone(), TaskId::from("~")));
        let placed = self.placed.get(network);
        let first = placed.and_then(|placed| placed.get_min()).map(|(node, _)| node);
        std::iter::successors(first, move |node| {
            placed?.range((after(node), Bound::Unbounded)).next().map(|(node, _)| node)
        })
    }

    /// Tasks of the node on the network which were assigned and have not ended.
    pub fn placed_tasks<'a>(
        &'a self,
        network: &NetworkId,
        node: &'a NodeId,
    ) -> impl Iterator<Item = &'a TaskId> + use<'a> {
        let placed = self.placed.get(network).into_iter();
        let placed = placed.flat_map(move |placed| placed.range((node.clone(), TaskId::from(""))..));
        placed.take_while(move |(of, _)| of == node).map(|(_, task)| task)
    }

    /// The keys of an encrypted network.
    pub fn keyring(&self, network: &NetworkId) -> Option<&Arc<Keyring>> {
        self.keyrings.get(&KeyringId::of(network))
    }

    pub fn keyrings(&self) -> impl DoubleEndedIterator<Item = &Arc<Keyring>> + ExactSizeIterator {
        self.keyrings.values()
    }

    pub fn network(&self, id: &NetworkId) -> Option<&Arc<Network>> {
        self.networks.get(id)
    }

    pub fn networks(&self) -> impl DoubleEndedIterator<Item = &Arc<Network>> + ExactSizeIterator {
        self.networks.values()
    }

    pub fn network_by_name(&self, name: &str) -> Option<&Arc<Network>> {
        self.networks.get(self.network_names.get(name)?)
    }

    pub fn networks_by_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Arc<Network>> {
        with_prefix(&self.networks, prefix)
    }

    /// Networks that were made with the settings of the one of this name.
    pub fn networks_configured_from<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Arc<Network>> {
        self.networks.values().filter(move |network| network.spec.config_from.as_deref() == Some(name))
    }

    pub fn address_owner(&self, network: &NetworkId, address: IpAddr) -> Option<&AddressOwner> {
        self.addresses.owner(network, &address)
    }

    /// In the order of the addresses; gateways and reserved ones too.
    pub fn addresses_in_use(&self, network: &NetworkId) -> impl Iterator<Item = (&IpAddr, &AddressOwner)> {
        self.addresses.in_use(network)
    }

    /// The address that a task or service took last in the subnet, in use or not.
    pub fn last_address(&self, network: &NetworkId, subnet: &IpNet) -> Option<IpAddr> {
        self.addresses.last(network, &subnet.trunc())
    }

    pub fn vni_owner(&self, vni: u32) -> Option<&NetworkId> {
        self.vnis.get(&vni)
    }

    /// The identifier that a network was given last, in use or not; zero at first. Those that users chose do not count.
    pub fn last_vni(&self) -> u32 {
        self.last_vni
    }

    pub fn vnis_in_use(&self) -> impl DoubleEndedIterator<Item = u32> {
        self.vnis.keys().copied()
    }

    /// A subnet of some network that overlaps `subnet`.
    pub fn overlapping_subnet(&self, subnet: &IpNet) -> Option<(&IpNet, &NetworkId)> {
        self.subnets.overlapping(&subnet.trunc()).map(|(net, network)| (net, network))
    }

    /// In order, without overlaps.
    pub fn subnets_in_use(&self) -> impl Iterator<Item = (&IpNet, &NetworkId)> {
        self.subnets.iter()
    }

    /// Referenced objects before those that refer to them.
    pub fn objects(&self) -> impl Iterator<Item = Object> {
        let clusters = self.clusters.values().cloned().map(Object::Cluster);
        let nodes = self.nodes.values().cloned().map(Object::Node);
        let networks = self.networks.values().cloned().map(Object::Network);
        let keyrings = self.keyrings.values().cloned().map(Object::Keyring);
        let services = self.services.values().cloned().map(Object::Service);
        clusters
            .chain(nodes)
            .chain(networks)
            .chain(keyrings)
            .chain(services)
            .chain(self.tasks.values().cloned().map(Object::Task))
    }
}

fn with_prefix<'a, K: Ord + Borrow<str>, V>(
    map: &'a OrdMap<K, V>,
    prefix: &'a str,
) -> impl Iterator<Item = &'a V> {
    let entries = map.range::<_, str>((Bound::Included(prefix), Bound::Unbounded));
    entries.take_while(move |(key, _)| (*key).borrow().starts_with(prefix)).map(|(_, value)| value)
}

// The objects would be too many, and some hold keys.
impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tables").field("index", &self.index).finish_non_exhaustive()
    }
}

/// Changing. Nothing is checked here.
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

fn networks_of_service(service: &Service) -> impl Iterator<Item = &NetworkId> {
    let asked = service.spec.task.networks.iter().map(|config| &config.network);
    asked.chain(service.endpoint.virtual_ips.iter().map(|vip| &vip.network))
}

fn networks_of_task(task: &Task) -> impl Iterator<Item = &NetworkId> {
    let asked = task.spec.networks.iter().map(|config| &config.network);
    asked.chain(task.attachments.iter().map(|attachment| &attachment.network))
}

/// Where the task is, as long as it is placed.
fn places(task: &Task) -> impl Iterator<Item = (&NetworkId, &NodeId)> {
    let node = task.node.as_ref().filter(|_| task.is_placed());
    node.into_iter()
        .flat_map(|node| task.attachments.iter().map(move |attachment| (&attachment.network, node)))
}
