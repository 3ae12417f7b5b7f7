//! What a commit means for the directory, worked out once for all nodes.

use std::collections::{BTreeMap, BTreeSet};

use proto::model::{NetworkId, Node, NodeId, NodeState, Service, ServiceId, Task, TaskId};
use raft_store::{Change, Commit, Object, Tables};

use super::entry::{is_leaving, is_ready};
use super::handover::Concerned;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Touched {
    pub networks: BTreeMap<NetworkId, Entries>,
    /// May need other networks than before.
    pub nodes: BTreeSet<NodeId>,
}

/// Entries of a network that may have changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    pub tasks: BTreeSet<TaskId>,
    pub services: BTreeSet<ServiceId>,
    /// Of keys and who takes part: nodes to which something else is to be said.
    pub encryption: Concerned,
}

impl Entries {
    /// Takes over what concerns the node. Whether anything does.
    pub fn merge(&mut self, other: &Self, node: &NodeId) -> bool {
        self.tasks.extend(other.tasks.iter().cloned());
        self.services.extend(other.services.iter().cloned());
        let encryption = other.encryption.has(node);
        if encryption {
            self.encryption = Concerned::All;
        }
        encryption || !other.tasks.is_empty() || !other.services.is_empty()
    }
}

impl Touched {
    pub fn by(commit: &Commit) -> Self {
        let mut touched = Self::default();
        for change in &commit.changes {
            touched.add(change, &commit.view);
        }
        touched.add_members(commit);
        touched
    }

    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && self.nodes.is_empty()
    }

    fn add(&mut self, Change { before, after }: &Change, tables: &Tables) {
        match (before, after) {
            (Some(Object::Task(task)), None) | (None, Some(Object::Task(task))) => {
                self.add_task(task);
            }
            (Some(Object::Task(before)), Some(Object::Task(after))) if shown(before) != shown(after) => {
                self.add_task(before);
                self.add_task(after);
            }
            (Some(Object::Service(before)), Some(Object::Service(after)))
                if virtual_ips(before) != virtual_ips(after) =>
            {
                self.add_service(before);
                self.add_service(after);
            }
            (Some(Object::Service(service)), None) | (None, Some(Object::Service(service))) => {
                self.add_service(service);
            }
            (Some(Object::Node(before)), Some(Object::Node(after)))
                if placed_at(before) == placed_at(after) => {}
            (_, Some(Object::Node(node))) | (Some(Object::Node(node)), None) => {
                self.add_node(&node.id, tables);
            }
            (Some(Object::Keyring(before)), Some(Object::Keyring(after))) => {
                self.add_encryption(NetworkId::of(&after.id), &Concerned::by(before, after));
            }
            (None, Some(Object::Keyring(keyring))) => {
                self.add_encryption(NetworkId::of(&keyring.id), &Concerned::All);
            }
            _ => {}
        }
    }

    /// Encrypted networks on which a node has got its first task or lost its last one. A node with others there takes
    /// part as before.
    fn add_members(&mut self, commit: &Commit) {
        let mut moves: BTreeMap<(NetworkId, NodeId), Moves<'_>> = BTreeMap::new();
        for Change { before, after } in &commit.changes {
            for (place, task) in
                before.as_ref().and_then(Object::as_task).into_iter().flat_map(|task| places(task))
            {
                moves.entry(place).or_default().left.insert(task);
            }
            for (place, task) in
                after.as_ref().and_then(Object::as_task).into_iter().flat_map(|task| places(task))
            {
                moves.entry(place).or_default().come.insert(task);
            }
        }
        for ((network, node), Moves { left, come }) in moves {
            let tables = &commit.view;
            let stays = || tables.placed_tasks(&network, &node).any(|task| !come.contains(task));
            if left.is_empty() != come.is_empty() && tables.keyring(&network).is_some() && !stays() {
                self.add_encryption(network, &Concerned::All);
            }
        }
    }

    fn add_encryption(&mut self, network: NetworkId, concerned: &Concerned) {
        if *concerned != Concerned::Nobody {
            self.networks.entry(network).or_default().encryption.merge(concerned);
        }
    }

    fn add_task(&mut self, task: &Task) {
        for attachment in &task.attachments {
            let entries = self.networks.entry(attachment.network.clone()).or_default();
            entries.tasks.insert(task.id.clone());
        }
        self.nodes.extend(task.node.clone());
    }

    fn add_service(&mut self, service: &Service) {
        for vip in &service.endpoint.virtual_ips {
            let entries = self.networks.entry(vip.network.clone()).or_default();
            entries.services.insert(service.id.clone());
        }
    }

    /// The address of a node is in the entries of all its tasks.
    fn add_node(&mut self, node: &NodeId, tables: &Tables) {
        for task in tables.tasks_by_node(node) {
            for attachment in &task.attachments {
                let entries = self.networks.entry(attachment.network.clone()).or_default();
                entries.tasks.insert(task.id.clone());
            }
            // Where its tunnel ends is told of members, too.
            for network in task.attachments.iter().map(|attachment| &attachment.network) {
                if tables.keyring(network).is_some() {
                    self.add_encryption(network.clone(), &Concerned::All);
                }
            }
        }
    }
}

/// Tasks that were on a network and node before a commit, and that are there after it.
#[derive(Default)]
struct Moves<'a> {
    left: BTreeSet<&'a TaskId>,
    come: BTreeSet<&'a TaskId>,
}

/// Where a task is, as long as it is placed.
fn places(task: &Task) -> impl Iterator<Item = ((NetworkId, NodeId), &TaskId)> {
    let node = task.node.as_ref().filter(|_| task.is_placed());
    let networks = task.attachments.iter().map(|attachment| &attachment.network);
    node.into_iter()
        .flat_map(move |node| networks.clone().map(|network| ((network.clone(), node.clone()), &task.id)))
}

/// What of a task the directory shows. Most changes of a task (a message, a state on the way up) are none here. One that
/// waits for nodes to confirm waits for its last version, so each is shown.
fn shown(task: &Task) -> impl PartialEq + use<'_> {
    let names = (&task.annotations.name, &task.service_annotations.name);
    let awaited = is_leaving(task).then_some(task.meta.version);
    task.is_placed().then_some((&task.node, &task.attachments, names, is_ready(task), awaited))
}

fn virtual_ips(service: &Service) -> impl PartialEq + use<'_> {
    (&service.endpoint.virtual_ips, &service.spec.task.networks, service.name())
}

fn placed_at(node: &Node) -> impl PartialEq + use<> {
    (node.vtep(), node.status.state == NodeState::Down)
}
