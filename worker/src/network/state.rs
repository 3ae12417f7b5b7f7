//! What the node's network shall be: from the tasks' wishes and the directory to `netdriver::Desired`.
//!
//! Pure. Decides which parts may be touched: a network whose directory no manager has told yet (after a restart of
//! this process) is left as the kernel has it, since an empty directory would cut its tasks off.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use netdriver::{Desired, Encryption, NetworkKey, Overlay, SandboxKey, Scope};
use proto::model::{NetworkId, NodeId, TaskId};

use super::directory::Directory;
use super::encryption::Parts;
use super::wish::{OverlayNetwork, Wish, network_key, sandbox_key};

/// The network below the overlays, as seen from this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Underlay {
    /// This node's tunnel end point.
    pub local: IpAddr,
    /// UDP port of the tunnels.
    pub port: u16,
}

impl Underlay {
    /// Reads what `Display` writes.
    pub fn parse(text: &str) -> Option<Self> {
        let (local, port) = text.split_once(' ')?;
        Some(Self { local: local.parse().ok()?, port: port.parse().ok()? })
    }
}

impl fmt::Display for Underlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.local, self.port)
    }
}

/// Sandboxes in one pass over the kernel. All are answered at its end, so of many tasks that start at once the first
/// shall not wait for the last; that is as many as `netdriver` works on side by side.
const AT_ONCE: usize = 16;

#[derive(Debug)]
pub(super) struct State {
    pub underlay: Option<Underlay>,
    pub directory: Directory,
    pub parts: Parts,
    wishes: BTreeMap<TaskId, Wish>,
}

impl State {
    pub fn new(own: NodeId, underlay: Option<Underlay>) -> Self {
        let parts = Parts::new(own.clone());
        Self { underlay, directory: Directory::new(own), parts, wishes: BTreeMap::new() }
    }

    pub fn insert(&mut self, task: TaskId, wish: Wish) {
        self.wishes.insert(task, wish);
    }

    pub fn remove(&mut self, task: &TaskId) {
        self.wishes.remove(task);
    }

    pub fn clear(&mut self) {
        self.wishes.clear();
    }

    pub fn tasks(&self) -> impl Iterator<Item = &TaskId> {
        self.wishes.keys()
    }

    pub fn wish(&self, task: &TaskId) -> Option<&Wish> {
        self.wishes.get(task)
    }

    pub fn is_used(&self, network: &NetworkId) -> bool {
        self.used(network).is_some()
    }

    fn used(&self, network: &NetworkId) -> Option<&OverlayNetwork> {
        let mut places = self.wishes.values().flat_map(|wish| &wish.places);
        places.find(|place| place.network.id == *network).map(|place| place.network.as_ref())
    }

    pub fn networks(&self) -> BTreeMap<&NetworkId, &OverlayNetwork> {
        let places = self.wishes.values().flat_map(|wish| &wish.places);
        places.map(|place| (&place.network.id, place.network.as_ref())).collect()
    }

    /// Every network in use is known, so looking at the whole node harms none.
    pub fn is_complete(&self) -> bool {
        let mut networks = self.networks().into_values();
        networks.all(|network| self.is_known(network)) && (self.underlay.is_some() || !self.has_networks())
    }

    /// Enough was told of the network to make it.
    fn is_known(&self, network: &OverlayNetwork) -> bool {
        let directory = &self.directory;
        directory.is_known(&network.id) && (!network.encrypted || directory.encryption(&network.id).is_some())
    }

    /// Whether the other nodes are told of this one as it is now.
    pub fn is_announced(&self, network: &OverlayNetwork) -> bool {
        let told = || self.directory.encryption(&network.id);
        !network.encrypted || told().is_some_and(|told| self.parts.is_member(&network.id, told))
    }

    fn has_networks(&self) -> bool {
        self.wishes.values().any(|wish| !wish.places.is_empty())
    }

    /// Whether the kernel may be brought to what is known of the network.
    pub fn may_touch(&self, network: &NetworkId) -> bool {
        self.used(network).is_none_or(|used| self.is_known(used) && self.underlay.is_some())
    }

    /// Whether the sandbox is to go, or can be made: with it come its networks, which must then be known.
    pub fn may_make(&self, task: &TaskId) -> bool {
        self.wishes.get(task).is_none_or(|wish| wish.networks().all(|id| self.may_touch(id)))
    }

    pub fn desired(&self) -> Desired {
        let Some(underlay) = self.underlay else {
            let plain = self.wishes.iter().filter(|(_, wish)| wish.places.is_empty());
            let sandboxes = plain.map(|(task, wish)| (sandbox_key(task), wish.sandbox())).collect();
            return Desired { networks: BTreeMap::new(), sandboxes };
        };
        let networks = self.networks();
        let networks = networks.values().map(|network| (network.key(), self.overlay(network, underlay)));
        let sandboxes = self.wishes.iter().map(|(task, wish)| (sandbox_key(task), wish.sandbox()));
        Desired { networks: networks.collect(), sandboxes: sandboxes.collect() }
    }

    fn overlay(&self, network: &OverlayNetwork, underlay: Underlay) -> Overlay {
        let told = Some(network).filter(|network| network.encrypted);
        let told = told.map(|network| self.directory.encryption(&network.id));
        Overlay {
            vni: network.vni,
            port: underlay.port,
            local: underlay.local,
            subnets: network.subnets.clone(),
            mtu: network.mtu,
            internal: network.internal,
            // A network whose keys are unknown is not looked at; were it, it must not be made in cleartext.
            encryption: told.map(|told| {
                let encryption = told.and_then(|told| self.parts.encryption(&network.id, told));
                encryption.unwrap_or_else(Encryption::without_keys)
            }),
            peers: self.directory.peers(&network.id),
            services: self.directory.services(&network.id),
        }
    }
}

/// What is to be looked at in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Dirty {
    pub all: bool,
    pub networks: BTreeSet<NetworkId>,
    pub tasks: BTreeSet<TaskId>,
}

impl Dirty {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes out what can be done now.
    pub fn take(&mut self, state: &State) -> Self {
        if self.all && state.is_complete() {
            return std::mem::take(self);
        }
        let networks: BTreeSet<_> = self.networks.extract_if(.., |id| state.may_touch(id)).collect();
        let tasks = self.tasks.extract_if(.., |task| state.may_make(task)).take(AT_ONCE).collect();
        Self { all: false, networks, tasks }
    }

    pub fn scope(&self) -> Scope {
        if self.all {
            return Scope::All;
        }
        let networks: BTreeSet<NetworkKey> = self.networks.iter().map(network_key).collect();
        let sandboxes: BTreeSet<SandboxKey> = self.tasks.iter().map(sandbox_key).collect();
        Scope::Only { networks, sandboxes }
    }
}
