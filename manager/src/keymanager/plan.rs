//! What is to be done about the keys of a network. Pure.

use std::collections::BTreeSet;
use std::time::SystemTime;

use proto::model::{Keyring, NetworkId, NodeId, NodeState};
use raft_store::Tables;

use super::{LIFE, PATIENCE};
use crate::directory;
use crate::reconcile::Planned;

/// `epoch` is the one that the action ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Create(NetworkId),
    Remove(NetworkId),
    /// A new key is received under.
    Begin {
        network: NetworkId,
        epoch: u64,
    },
    /// It is sent with.
    Send {
        network: NetworkId,
        epoch: u64,
    },
    /// The old one is forgotten.
    Drop {
        network: NetworkId,
        epoch: u64,
        /// Up to which everything is handed over, or given up.
        roster: u64,
    },
    /// These nodes have no task on the network any more.
    Forget {
        network: NetworkId,
        nodes: Vec<NodeId>,
    },
}

type Plan = Planned<NetworkId, Action>;

#[derive(Clone, Copy)]
pub(super) struct Time {
    pub now: SystemTime,
    pub leading_since: SystemTime,
}

pub(super) fn all(view: &Tables, time: Time) -> Plan {
    let encrypted =
        view.networks().filter(|network| network.is_encrypted()).map(|network| network.id.clone());
    let kept = view.keyrings().map(|keyring| NetworkId::of(&keyring.id));
    networks(view, &encrypted.chain(kept).collect(), time)
}

pub(super) fn networks(view: &Tables, networks: &BTreeSet<NetworkId>, time: Time) -> Plan {
    let mut plan = Plan::default();
    for network in networks {
        let wanted = view.network(network).is_some_and(|network| network.is_encrypted());
        match view.keyring(network) {
            None if wanted => plan.actions.push(Action::Create(network.clone())),
            None => {}
            Some(_) if !wanted => plan.actions.push(Action::Remove(network.clone())),
            Some(keyring) => keep(view, network, keyring, time, &mut plan),
        }
    }
    plan
}

fn keep(view: &Tables, network: &NetworkId, keyring: &Keyring, time: Time, plan: &mut Plan) {
    let members = directory::members(view, network);
    let gone: Vec<NodeId> = keyring.members.keys().filter(|node| !members.contains(*node)).cloned().collect();
    if !gone.is_empty() {
        plan.actions.push(Action::Forget { network: network.clone(), nodes: gone });
    }
    let (network, epoch) = (network.clone(), keyring.epoch);
    let due = match keyring.is_rotating() {
        true => keyring.since.max(time.leading_since) + PATIENCE,
        false => keyring.since + LIFE,
    };
    let over = time.now >= due
        || if keyring.is_rotating() { confirmed(view, keyring, &members) } else { asked(keyring) };
    if !over {
        plan.wakes.push((due, network));
        return;
    }
    plan.actions.push(match keyring.is_rotating() {
        false => Action::Begin { network, epoch },
        true if keyring.sending != keyring.newest() => Action::Send { network, epoch },
        true => Action::Drop { network, epoch, roster: keyring.roster },
    });
}

fn asked(keyring: &Keyring) -> bool {
    keyring.wanted > keyring.newest()
}

/// Every node that can has brought the present epoch about; before the old key is forgotten, also any hand-over.
fn confirmed(view: &Tables, keyring: &Keyring, members: &BTreeSet<NodeId>) -> bool {
    let is_up = |node: &&NodeId| view.node(node).is_some_and(|node| node.status.state != NodeState::Down);
    let up: BTreeSet<&NodeId> = members.iter().filter(is_up).collect();
    let has =
        |node: &NodeId| keyring.members.get(node).is_some_and(|member| member.confirmed >= keyring.epoch);
    let forgets = keyring.sending == keyring.newest();
    up.iter().all(|node| has(node)) && (!forgets || directory::is_over(keyring, &up))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proto::model::{ENCRYPTED, KeyringMember, Network, TaskState};
    use raft_store::Store;

    use super::super::KeyManager;
    use super::*;
    use crate::fixtures::{in_state, network, network_id, node, node_id, put, remove, service, store, task};
    use crate::reconcile::{Plan as _, Scope};

    const START: SystemTime = SystemTime::UNIX_EPOCH;

    fn encrypted() -> Network {
        let mut network = network(1);
        network.spec.driver.options.insert(ENCRYPTED.into(), "true".into());
        network
    }

    /// An encrypted network with a task on each of two nodes.
    async fn two_members() -> Store {
        let store = store().await;
        put(&store, [node(1), node(2)]).await;
        put(&store, [encrypted()]).await;
        let web = service(1, &[1]);
        put(&store, [web.clone()]).await;
        put(&store, [task(1, &web, 1, &[1]), task(2, &web, 2, &[1])]).await;
        store
    }

    /// Plans and commits once, `s` seconds after the start. What was done.
    async fn pass(store: &Store, s: u64) -> Vec<Action> {
        let now = START + Duration::from_secs(s);
        let manager = KeyManager::new(START);
        let plan = manager.plan(&store.view(), &Scope::All, now);
        let written = store.update(|tx| {
            plan.actions.iter().for_each(|action| manager.commit(action, now, tx));
            Ok::<_, ()>(())
        });
        written.await.unwrap();
        plan.actions
    }

    fn keyring(store: &Store) -> Keyring {
        Keyring::clone(store.view().keyring(&network_id(1)).unwrap())
    }

    async fn confirm(store: &Store, number: u8) {
        let mut keyring = keyring(store);
        let known = keyring.members.get(&node_id(number)).copied().unwrap_or_default();
        let (incarnation, confirmed, roster) = ([number; 16], keyring.epoch, keyring.roster);
        let member = KeyringMember { incarnation, confirmed, receives: roster, sends: roster, ..known };
        keyring.members.insert(node_id(number), member);
        put(store, [keyring]).await;
    }

    async fn ask(store: &Store) {
        let mut keyring = keyring(store);
        keyring.wanted = keyring.newest() + 1;
        put(store, [keyring]).await;
    }

    fn state(store: &Store) -> (Vec<u64>, u64) {
        let keyring = keyring(store);
        (keyring.keys.iter().map(|key| key.generation).collect(), keyring.sending)
    }

    #[tokio::test]
    async fn keys_come_and_go_with_their_network() {
        let store = store().await;
        put(&store, [network(2)]).await;
        assert_eq!(pass(&store, 0).await, [], "the network is not encrypted");
        put(&store, [encrypted()]).await;
        assert_eq!(pass(&store, 0).await, [Action::Create(network_id(1))]);
        assert_eq!((state(&store), pass(&store, 0).await), ((vec![1], 1), vec![]));
        remove(&store, network_id(1)).await;
        assert_eq!(pass(&store, 0).await, [Action::Remove(network_id(1))]);
        assert_eq!(store.view().keyrings().count(), 0);
    }

    #[tokio::test]
    async fn a_rotation_goes_on_when_all_have_confirmed_each_phase() {
        let store = two_members().await;
        pass(&store, 0).await;
        let first = keyring(&store).keys[0].clone();
        ask(&store).await;
        for (phase, becomes) in [(vec![1, 2], 1), (vec![1, 2], 2), (vec![2], 2)].into_iter().enumerate() {
            assert_eq!(pass(&store, 1).await.len(), 1, "phase {phase}");
            assert_eq!(state(&store), becomes);
            confirm(&store, 1).await;
            assert_eq!(pass(&store, 1).await, [], "one is still missing in phase {phase}");
            confirm(&store, 2).await;
        }
        assert_eq!(pass(&store, 2).await, [], "it is over");
        assert_ne!(keyring(&store).keys[0].secret, first.secret);
    }

    #[tokio::test]
    async fn an_early_confirmation_does_not_count_for_the_next_phase() {
        let store = two_members().await;
        pass(&store, 0).await;
        confirm(&store, 1).await;
        confirm(&store, 2).await;
        ask(&store).await;
        pass(&store, 1).await;
        assert_eq!((pass(&store, 1).await, state(&store)), (vec![], (vec![1, 2], 1)));
    }

    #[tokio::test]
    async fn whoever_does_not_confirm_is_waited_for_a_bounded_time() {
        let store = two_members().await;
        pass(&store, 0).await;
        ask(&store).await;
        pass(&store, 0).await;
        let patience = PATIENCE.as_secs();
        assert_eq!(pass(&store, patience - 1).await, []);
        let plan = KeyManager::new(START).plan(&store.view(), &Scope::All, START);
        assert_eq!(plan.wakes, [(START + PATIENCE, network_id(1))]);
        pass(&store, patience).await;
        assert_eq!(state(&store), (vec![1, 2], 2));
        let mut down = node(2);
        down.status.state = NodeState::Down;
        put(&store, [down]).await;
        confirm(&store, 1).await;
        pass(&store, patience + 1).await;
        assert_eq!(state(&store), (vec![2], 2), "a node that is down is not waited for");
    }

    #[tokio::test]
    async fn a_new_leader_waits_anew_for_those_who_heard_nothing_meanwhile() {
        let store = two_members().await;
        pass(&store, 0).await;
        ask(&store).await;
        pass(&store, 0).await;
        let elected = START + PATIENCE * 2;
        let planned = |now| KeyManager::new(elected).plan(&store.view(), &Scope::All, now);
        assert_eq!(planned(elected).actions, []);
        assert_eq!(planned(elected).wakes, [(elected + PATIENCE, network_id(1))]);
        assert_ne!(planned(elected + PATIENCE).actions, []);
    }

    #[tokio::test]
    async fn keys_are_replaced_when_they_are_old() {
        let store = two_members().await;
        pass(&store, 0).await;
        assert_eq!(pass(&store, LIFE.as_secs() - 1).await, []);
        pass(&store, LIFE.as_secs()).await;
        assert_eq!(state(&store), (vec![1, 2], 1));
    }

    #[tokio::test]
    async fn nodes_without_a_task_are_forgotten() {
        let store = two_members().await;
        pass(&store, 0).await;
        confirm(&store, 1).await;
        confirm(&store, 2).await;
        put(&store, [in_state(task(2, &service(1, &[1]), 2, &[1]), TaskState::Shutdown)]).await;
        let forgotten = Action::Forget { network: network_id(1), nodes: vec![node_id(2)] };
        assert_eq!(pass(&store, 1).await, [forgotten]);
        assert_eq!(keyring(&store).members.keys().collect::<Vec<_>>(), [&node_id(1)]);
    }
}
