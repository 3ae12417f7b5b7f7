//! Keys of encrypted networks: made with the network, rotated now and then, gone with it.
//!
//! Decides which keys there are and which one is sent with. Who is told of them is `directory`'s, what is done with them
//! the nodes'. A rotation has three phases: nodes receive under the new key as well, then send with it, then forget the
//! old one. Each phase is an epoch of the replicated keyring, so a new leader goes on where the old one stopped.
//!
//! Invariant: an epoch ends only when every node that is up has confirmed it, or after `PATIENCE` under one leader: without
//! a leader nodes hear nothing, so that time is not theirs. No association with a key that was forgotten is used after the
//! last phase, whatever hand-over between incarnations was under way.

mod plan;

use std::time::{Duration, SystemTime};

use proto::model::{Attachment, Keyring, KeyringId, NetworkId, NetworkKey, NodeId, SECRET_BYTES, Sensitive};
use raft_store::{Change, Object, Tables, Transaction};

use self::plan::Action;
use crate::directory;
use crate::reconcile::{Plan, Planned, Scope};

/// Age at which a key is replaced.
pub const LIFE: Duration = Duration::from_secs(12 * 3600);
/// How long a phase waits for nodes that do not confirm it.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct KeyManager {
    leading_since: SystemTime,
}

impl KeyManager {
    pub fn new(leading_since: SystemTime) -> Self {
        Self { leading_since }
    }
}

impl Plan for KeyManager {
    const NAME: &'static str = "key manager";
    type Key = NetworkId;
    type Action = Action;

    fn keys(&self, change: &Change, view: &Tables) -> Vec<NetworkId> {
        match change.object() {
            Object::Network(network) => vec![network.id.clone()],
            Object::Keyring(keyring) => vec![NetworkId::of(&keyring.id)],
            // Who has to confirm may be another.
            Object::Task(task) if placement(change.before.as_ref()) != placement(change.after.as_ref()) => {
                let networks = task.attachments.iter().map(|attachment| &attachment.network);
                networks.filter(|network| view.keyring(network).is_some()).cloned().collect()
            }
            Object::Node(_) => {
                let rotating = view.keyrings().filter(|keyring| keyring.is_rotating());
                rotating.map(|keyring| NetworkId::of(&keyring.id)).collect()
            }
            Object::Task(_) | Object::Service(_) | Object::Cluster(_) => Vec::new(),
        }
    }

    fn plan(&self, view: &Tables, scope: &Scope<NetworkId>, now: SystemTime) -> Planned<NetworkId, Action> {
        let time = plan::Time { now, leading_since: self.leading_since };
        match scope {
            Scope::All => plan::all(view, time),
            Scope::Keys(networks) => plan::networks(view, networks, time),
        }
    }

    fn commit(&self, action: &Action, now: SystemTime, tx: &mut Transaction) {
        match action {
            Action::Create(network) => {
                let wanted = tx.network(network).is_some_and(|network| network.is_encrypted());
                if wanted && tx.keyring(network).is_none() {
                    tx.create(first(network, now));
                }
            }
            Action::Remove(network) => {
                if tx.network(network).is_none() && tx.keyring(network).is_some() {
                    tx.remove(KeyringId::of(network));
                }
            }
            Action::Begin { network, epoch } => change(tx, network, *epoch, now, |keyring| {
                let generation = keyring.newest() + 1;
                keyring.keys.push(key(generation));
            }),
            Action::Send { network, epoch } => change(tx, network, *epoch, now, |keyring| {
                keyring.sending = keyring.newest();
            }),
            // If a node has come with another incarnation meanwhile, it is looked at again.
            Action::Drop { network, epoch, roster }
                if tx.keyring(network).is_some_and(|keyring| keyring.roster == *roster) =>
            {
                change(tx, network, *epoch, now, |keyring| {
                    let sending = keyring.sending;
                    keyring.keys.retain(|key| key.generation == sending);
                    keyring.settled = keyring.roster;
                });
            }
            Action::Drop { .. } => {}
            Action::Forget { network, nodes } => {
                let Some(mut keyring) = tx.keyring(network).map(|keyring| Keyring::clone(keyring)) else {
                    return;
                };
                let members = directory::members(tx, network);
                keyring.members.retain(|node, _| !nodes.contains(node) || members.contains(node));
                tx.update(keyring);
            }
        }
    }
}

/// What makes a node a member of the task's networks.
fn placement(task: Option<&Object>) -> Option<(&Option<NodeId>, &Vec<Attachment>)> {
    let task = task.and_then(Object::as_task).filter(|task| task.is_placed())?;
    Some((&task.node, &task.attachments))
}

fn first(network: &NetworkId, now: SystemTime) -> Keyring {
    Keyring {
        id: KeyringId::of(network),
        meta: Default::default(),
        keys: vec![key(1)],
        sending: 1,
        epoch: 1,
        since: now,
        wanted: 0,
        members: Default::default(),
        roster: 0,
        settled: 0,
    }
}

fn key(generation: u64) -> NetworkKey {
    NetworkKey { generation, secret: Sensitive::new(rand::random::<[u8; SECRET_BYTES]>().to_vec()) }
}

/// Begins the next epoch, if `epoch` is still the present one.
fn change(
    tx: &mut Transaction,
    network: &NetworkId,
    epoch: u64,
    now: SystemTime,
    write: impl FnOnce(&mut Keyring),
) {
    let Some(keyring) = tx.keyring(network).filter(|keyring| keyring.epoch == epoch) else { return };
    let mut keyring = Keyring::clone(keyring);
    write(&mut keyring);
    keyring.epoch += 1;
    keyring.since = now;
    tracing::info!(%network, epoch = keyring.epoch, sending = keyring.sending, "keys of a network");
    tx.update(keyring);
}
