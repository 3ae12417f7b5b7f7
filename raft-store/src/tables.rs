//! All objects, and the indexes over them.
//!
//! Persistent: a clone costs nothing and never changes, so that a view is a clone. Every look-up and every change
//! takes logarithmic time. Indexes are derived from the objects, and only `changing` touches them; whether a change is
//! admissible is decided by `checks`, on behalf of the state machine.

mod addresses;
mod audit;
mod changing;
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
    TaskId,
};

use self::addresses::Addresses;
pub use self::audit::Flaw;
use self::index::Index;
use self::subnets::Subnets;
use crate::{AddressOwner, Kind, Object, ObjectId};

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
    /// Shared: a change copies the keys around it.
    service_names: OrdMap<Arc<str>, ServiceId>,
    network_names: OrdMap<Arc<str>, NetworkId>,
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
