//! A node learns what it needs and no more, and differences add up to the whole.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proto::model::{
    ContainerStatus, ENCRYPTED, Health, HealthState, Keyring, KeyringId, Network, NetworkId, NetworkKey,
    NodeState, Sensitive, TaskState,
};
use proto::network::network_update::Kind;
use proto::network::{Encryption, Endpoint, KeysReport, Moment, NetworkDirectory, NetworkUpdate, VirtualIp};
use raft_store::{Store, Tables};

use super::gate::Gate;
use super::journal::Recent;
use super::stream::Known;
use super::{entry, need, report};
use crate::fanout::{Journal, Marks};
use crate::fixtures::{
    in_state, network, network_id, node, node_id, put, remove, service, store, task, task_id,
};

/// What a node makes of the updates.
#[derive(Clone, Debug, Default, PartialEq)]
struct Learned(BTreeMap<String, Entries>);

/// By task and by service; keys and members.
type Entries = (BTreeMap<String, Endpoint>, BTreeMap<String, VirtualIp>, Option<Encryption>);

impl Learned {
    fn apply(&mut self, updates: Vec<NetworkUpdate>) {
        for update in updates {
            let id = update.network_id;
            match update.kind.unwrap() {
                Kind::Gone(_) => {
                    self.0.remove(&id).expect("only what was told can be gone");
                }
                Kind::Complete(all) => {
                    self.0.insert(id, as_maps(all));
                }
                Kind::Difference(difference) => {
                    let (endpoints, vips, encryption) =
                        self.0.get_mut(&id).expect("a difference follows the whole");
                    *encryption = difference.encryption.or(encryption.take());
                    difference.removed_endpoints.iter().for_each(|task| drop(endpoints.remove(task)));
                    difference.removed_virtual_ips.iter().for_each(|service| drop(vips.remove(service)));
                    endpoints.extend(difference.set_endpoints.into_iter().map(|e| (e.task_id.clone(), e)));
                    vips.extend(difference.set_virtual_ips.into_iter().map(|v| (v.service_id.clone(), v)));
                }
            }
        }
    }

    fn networks(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}

fn as_maps(all: NetworkDirectory) -> Entries {
    let endpoints = all.endpoints.into_iter().map(|endpoint| (endpoint.task_id.clone(), endpoint));
    let vips = all.virtual_ips.into_iter().map(|vip| (vip.service_id.clone(), vip));
    (endpoints.collect(), vips.collect(), all.encryption)
}

/// What a node should know, worked out from the store alone.
fn whole(tables: &Tables, node: u8) -> Learned {
    let networks = need::networks(tables, &node_id(node)).into_iter();
    let whole =
        networks.map(|id: NetworkId| (id.to_string(), as_maps(entry::complete(tables, &id, &node_id(node)))));
    Learned(whole.collect())
}

/// A node's stream, marked by hand.
struct Follower {
    number: u8,
    known: Known,
    /// Of its manager.
    recent: Recent,
    /// What the last response said.
    moment: Moment,
    watch: raft_store::Watch,
    learned: Learned,
    /// The last updates asked to be confirmed.
    asked: bool,
}

impl Follower {
    fn new(store: &Store, number: u8) -> Self {
        let known = Known::new(node_id(number), BTreeMap::new());
        let mut recent = Recent::default();
        recent.begin(&store.view());
        let moment = recent.now();
        Self {
            number,
            known,
            recent,
            moment,
            watch: store.watch(),
            learned: Learned::default(),
            asked: false,
        }
    }

    /// Goes to a manager with this journal, of which `watch` follows. What it tells first, by index of `since`.
    fn move_to(&mut self, store: &Store, (recent, watch): (Recent, raft_store::Watch)) -> Vec<NetworkUpdate> {
        let known = self.learned.0.keys().map(|id| (NetworkId::from(id.as_str()), self.moment)).collect();
        self.known = Known::new(node_id(self.number), known);
        (self.recent, self.watch) = (recent, watch);
        self.hear();
        self.tell(store)
    }

    fn hear(&mut self) {
        while let Some(commit) = self.watch.try_next().unwrap() {
            let touched = Known::touched(&commit);
            self.recent.note(&commit, touched.as_ref());
            if let Some(touched) = touched {
                self.known.mark(&node_id(self.number), &touched);
            }
        }
    }

    fn tell(&mut self, store: &Store) -> Vec<NetworkUpdate> {
        let view = store.view();
        let updates = self.known.take_due(&view, &self.recent).updates(&view, &node_id(self.number));
        assert!(updates.iter().all(|update| update.index == view.index()));
        if !updates.is_empty() {
            self.moment = self.recent.now();
        }
        self.asked = updates.iter().any(|update| update.confirm);
        self.learned.apply(updates.clone());
        updates
    }

    /// Hears all commits so far, then tells once. How many updates there were.
    fn catch_up(&mut self, store: &Store) -> usize {
        self.hear();
        self.tell(store).len()
    }
}

async fn two_nodes_on_two_networks() -> Store {
    let store = store().await;
    put(&store, [node(1), node(2), node(3)]).await;
    put(&store, [network(1), network(2)]).await;
    let (web, db) = (service(1, &[1]), service(2, &[2]));
    put(&store, [web.clone(), db.clone()]).await;
    put(&store, [task(1, &web, 1, &[1]), task(2, &web, 2, &[1]), task(3, &db, 2, &[2])]).await;
    store
}

#[tokio::test]
async fn a_node_knows_the_networks_of_its_tasks_and_no_other() {
    let store = two_nodes_on_two_networks().await;
    let mut followers = [1, 2, 3].map(|number| Follower::new(&store, number));
    for follower in &mut followers {
        follower.catch_up(&store);
    }
    assert_eq!(followers[0].learned.networks(), ["network1"]);
    assert_eq!(followers[1].learned.networks(), ["network1", "network2"]);
    assert!(followers[2].learned.networks().is_empty());

    let (endpoints, vips, _) = &followers[0].learned.0["network1"];
    let other = &endpoints["task2"];
    assert_eq!(
        (other.vtep.as_str(), other.addresses.as_slice()),
        ("192.0.2.2", &["10.0.1.4".to_owned()][..])
    );
    assert_eq!(other.mac, [0x02, 0x42, 10, 0, 1, 4]);
    assert!(!other.ready);
    assert_eq!(vips["service1"].addresses, ["10.0.1.201"]);
}

#[tokio::test]
async fn host_names_are_told_as_the_node_fills_them_in() {
    let store = two_nodes_on_two_networks().await;
    let view = store.view();
    for (asked, told) in [
        ("", ""),
        ("box", "box"),
        ("{{.Service.Name}}-{{.Task.Slot}}-{{.Node.Hostname}}", "svc1-1-host1"),
        ("{{.Nope}}", ""),
    ] {
        let mut task = task(1, &service(1, &[1]), 1, &[1]);
        std::sync::Arc::make_mut(&mut task.spec).container.hostname = asked.into();
        let endpoint = entry::endpoint(&view, &"network1".into(), &task).unwrap();
        assert_eq!(endpoint.hostname, told);
    }
}

#[tokio::test]
async fn the_last_task_takes_the_network_with_it() {
    let store = two_nodes_on_two_networks().await;
    let mut follower = Follower::new(&store, 1);
    follower.catch_up(&store);
    put(&store, [in_state(task(1, &service(1, &[1]), 1, &[1]), TaskState::Shutdown)]).await;
    follower.catch_up(&store);
    assert!(follower.learned.networks().is_empty());
    // What happens there from now on is none of its business.
    put(&store, [in_state(task(2, &service(1, &[1]), 2, &[1]), TaskState::Running)]).await;
    assert_eq!(follower.catch_up(&store), 0);
}

#[tokio::test]
async fn what_shows_nothing_new_is_not_told() {
    let store = two_nodes_on_two_networks().await;
    let mut follower = Follower::new(&store, 1);
    follower.catch_up(&store);
    put(&store, [in_state(task(2, &service(1, &[1]), 2, &[1]), TaskState::Preparing)]).await;
    put(&store, [in_state(task(3, &service(2, &[2]), 2, &[2]), TaskState::Running)]).await;
    assert_eq!(follower.catch_up(&store), 0);
}

#[tokio::test]
async fn tasks_of_a_node_that_is_down_stay_but_are_not_ready() {
    let store = two_nodes_on_two_networks().await;
    put(&store, [in_state(task(2, &service(1, &[1]), 2, &[1]), TaskState::Running)]).await;
    let mut follower = Follower::new(&store, 1);
    follower.catch_up(&store);
    assert!(follower.learned.0["network1"].0["task2"].ready);
    let mut down = node(2);
    down.status.state = NodeState::Down;
    put(&store, [down]).await;
    follower.catch_up(&store);
    let told = &follower.learned.0["network1"].0["task2"];
    assert!(!told.ready && told.lost);
}

#[tokio::test]
async fn an_unhealthy_task_is_not_ready_and_nodes_confirm_that_they_know() {
    let store = two_nodes_on_two_networks().await;
    let in_health = |state| {
        let mut task = in_state(task(2, &service(1, &[1]), 2, &[1]), TaskState::Running);
        let health = Some(Health { state, succeeded: true, ..Health::default() });
        task.status.container = Some(ContainerStatus { pid: 9, health, ..ContainerStatus::default() });
        task
    };
    put(&store, [in_health(HealthState::Healthy)]).await;
    let mut follower = Follower::new(&store, 1);
    follower.catch_up(&store);
    assert!(follower.learned.0["network1"].0["task2"].ready && !follower.asked);
    put(&store, [in_health(HealthState::Unhealthy)]).await;
    follower.catch_up(&store);
    assert!(!follower.learned.0["network1"].0["task2"].ready && follower.asked);
}

#[tokio::test]
async fn a_task_whose_process_has_died_is_not_ready_before_it_has_ended() {
    let store = two_nodes_on_two_networks().await;
    let with_process = |pid| {
        let mut task = in_state(task(2, &service(1, &[1]), 2, &[1]), TaskState::Running);
        task.status.container = Some(ContainerStatus { pid, ..ContainerStatus::default() });
        task
    };
    put(&store, [with_process(9)]).await;
    let mut follower = Follower::new(&store, 1);
    follower.catch_up(&store);
    assert!(follower.learned.0["network1"].0["task2"].ready);
    put(&store, [with_process(0)]).await;
    follower.catch_up(&store);
    assert!(!follower.learned.0["network1"].0["task2"].ready && !follower.asked);
}

#[tokio::test]
async fn nodes_are_asked_to_confirm_each_version_of_a_task_that_is_to_stop() {
    let store = two_nodes_on_two_networks().await;
    let running = || in_state(task(2, &service(1, &[1]), 2, &[1]), TaskState::Running);
    put(&store, [running()]).await;
    let mut follower = Follower::new(&store, 1);
    follower.catch_up(&store);
    assert!(!follower.asked);
    for desired in [TaskState::Shutdown, TaskState::Remove] {
        let mut leaving = running();
        leaving.desired = desired;
        put(&store, [leaving]).await;
        assert_eq!(follower.catch_up(&store), 1);
        assert!(follower.asked);
    }
    put(&store, [in_state(running(), TaskState::Shutdown)]).await;
    follower.catch_up(&store);
    assert!(!follower.asked, "nobody waits any more");
}

#[tokio::test]
async fn after_a_gap_everything_is_told_again() {
    let store = two_nodes_on_two_networks().await;
    let mut follower = Follower::new(&store, 1);
    follower.catch_up(&store);
    // Commits that nobody marked.
    put(&store, [in_state(task(2, &service(1, &[1]), 2, &[1]), TaskState::Failed)]).await;
    follower.watch = store.watch();
    follower.known.mark_all();
    follower.catch_up(&store);
    assert_eq!(follower.learned, whole(&store.view(), 1));
}

#[tokio::test]
async fn who_comes_again_is_told_what_has_changed_or_everything() {
    let store = two_nodes_on_two_networks().await;
    let mut other = Manager::new(&store);
    let mut follower = Follower::new(&store, 1);
    follower.catch_up(&store);
    let ended = || in_state(task(2, &service(1, &[1]), 2, &[1]), TaskState::Failed);
    put(&store, [ended()]).await;
    remove(&store, task_id(2)).await;
    let moment = follower.moment;
    let updates = follower.move_to(&store, other.journal(&store));
    let [NetworkUpdate { kind: Some(Kind::Difference(difference)), .. }] = &updates[..] else {
        panic!("{updates:?}")
    };
    assert_eq!(
        (difference.since, difference.removed_endpoints.as_slice()),
        (moment.index, &["task2".to_owned()][..])
    );
    assert!(difference.set_endpoints.is_empty() && difference.set_virtual_ips.is_empty());

    // The same index of another history, an index that is to come, and one before all that the manager has heard of.
    let known = |index, mark| BTreeMap::from([(network_id(1), Moment { index, mark })]);
    let Moment { index, mark } = follower.moment;
    let late = Manager::new(&store).journal(&store).0;
    put(&store, [node(3)]).await;
    let journal = other.journal(&store).0;
    for (moment, recent, resumes) in [
        (known(index, mark), &journal, true),
        (known(index, mark ^ 1), &journal, false),
        (known(index + 1000, mark), &journal, false),
        (known(index, mark), &late, true),
        (known(index - 1, mark), &late, false),
    ] {
        let updates = Known::new(node_id(1), moment.clone()).take_due(&store.view(), recent);
        let updates = updates.updates(&store.view(), &node_id(1));
        let differs = matches!(updates[..], [NetworkUpdate { kind: Some(Kind::Difference(_)), .. }]);
        assert_eq!(differs, resumes, "{moment:?}");
    }
}

#[tokio::test]
async fn what_the_node_no_longer_needs_is_gone_when_it_comes_again() {
    let store = two_nodes_on_two_networks().await;
    let mut other = Manager::new(&store);
    let mut follower = Follower::new(&store, 2);
    follower.catch_up(&store);
    put(&store, [in_state(task(3, &service(2, &[2]), 2, &[2]), TaskState::Failed)]).await;
    follower.move_to(&store, other.journal(&store));
    assert_eq!(follower.learned.networks(), ["network1"]);
}

#[tokio::test]
async fn a_node_that_comes_again_is_asked_to_confirm_what_is_waited_for() {
    let store = two_nodes_on_two_networks().await;
    let mut other = Manager::new(&store);
    let mut leaving = in_state(task(2, &service(1, &[1]), 2, &[1]), TaskState::Running);
    leaving.desired = TaskState::Shutdown;
    put(&store, [leaving]).await;
    let mut follower = Follower::new(&store, 1);
    follower.catch_up(&store);
    let updates = follower.move_to(&store, other.journal(&store));
    assert!(updates.len() == 1 && follower.asked, "the first manager may not have heard the answer");
}

fn keyring(number: u8, epoch: u64) -> Keyring {
    let secret = Sensitive::new(vec![number; 32]);
    Keyring {
        id: KeyringId::of(&network_id(number)),
        meta: Default::default(),
        keys: vec![NetworkKey { generation: 1, secret }],
        sending: 1,
        epoch,
        since: std::time::SystemTime::UNIX_EPOCH,
        wanted: 0,
        members: BTreeMap::new(),
        roster: 0,
        settled: 0,
    }
}

async fn report_keys(store: &Store, node: u8, network: u8, drawn: u8, epoch: u64) {
    let network_id = network_id(network).to_string();
    let view = store.view();
    let roster = view.keyring(&NetworkId::from(network_id.as_str())).map_or(0, |keyring| keyring.roster);
    let (incarnation, receives) = (vec![drawn; 16], roster.saturating_sub(u64::from(drawn % 2)));
    let sends = receives / 2;
    let report = KeysReport { network_id, incarnation, epoch, receives, sends, ..Default::default() };
    report::write(store, &Gate::default(), &node_id(node), vec![report]).await.unwrap();
}

#[tokio::test]
async fn keys_reach_exactly_the_nodes_with_a_task_on_the_network() {
    let store = two_nodes_on_two_networks().await;
    let mut encrypted = network(2);
    encrypted.spec.driver.options.insert(ENCRYPTED.into(), String::new());
    put::<Network>(&store, [encrypted]).await;
    put(&store, [keyring(2, 1)]).await;
    let mut followers = [1, 2, 3].map(|number| Follower::new(&store, number));
    followers.iter_mut().for_each(|follower| _ = follower.catch_up(&store));
    assert_eq!(followers[0].learned.networks(), ["network1"]);
    assert_eq!(followers[0].learned.0["network1"].2, None, "the network is not encrypted");
    let told = followers[1].learned.0["network2"].2.clone().unwrap();
    assert_eq!((told.keys[0].secret.as_slice(), told.members.len()), (&[2; 32][..], 0));
    assert!(followers[2].learned.networks().is_empty());

    // Who reports himself is told to the others; who has no task there is not believed.
    report_keys(&store, 2, 2, 7, 9).await;
    report_keys(&store, 1, 2, 8, 1).await;
    followers.iter_mut().for_each(|follower| _ = follower.catch_up(&store));
    let told = followers[1].learned.0["network2"].2.clone().unwrap();
    let member = (told.members[0].node_id.as_str(), told.members[0].vtep.as_str());
    assert_eq!((told.members.len(), member), (1, ("node2", "192.0.2.2")));
    let view = store.view();
    let known = &view.keyring(&network_id(2)).unwrap().members;
    assert_eq!(
        (known.len(), known[&node_id(2)].confirmed),
        (1, 1),
        "an epoch that is to come counts for nothing"
    );
    // That it has confirmed concerns the managers alone.
    report_keys(&store, 2, 2, 7, 0).await;
    assert_eq!(followers[1].catch_up(&store), 0);
}

#[derive(Clone, Debug)]
enum Step {
    /// Task, node, networks; a task that is there keeps its own.
    Assign(u8, u8, Vec<u8>),
    Advance(u8, TaskState),
    Remove(u8),
    Node(u8, NodeState, u8),
    Virtual(u8, Vec<u8>),
    /// Network and epoch.
    Keys(u8, u64),
    /// Node, network and incarnation.
    Report(u8, u8, u8),
    Tell(u8),
    /// To the manager of this number.
    Move(u8, u8),
    /// A manager of this number starts again: its journal begins here.
    Begin(u8),
}

/// What a manager has: every commit from some view on, whenever it is asked.
struct Manager {
    begun: raft_store::View,
    commits: Vec<std::sync::Arc<raft_store::Commit>>,
    watch: raft_store::Watch,
}

impl Manager {
    fn new(store: &Store) -> Self {
        let watch = store.watch();
        Self { begun: watch.view.clone(), commits: Vec::new(), watch }
    }

    fn journal(&mut self, store: &Store) -> (Recent, raft_store::Watch) {
        while let Some(commit) = self.watch.try_next().unwrap() {
            self.commits.push(commit);
        }
        let mut recent = Recent::default();
        recent.begin(&self.begun);
        self.commits.iter().for_each(|commit| recent.note(commit, Known::touched(commit).as_ref()));
        (recent, store.watch())
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let networks = prop::sample::subsequence(vec![1u8, 2, 3], 0..=2);
    let state = prop::sample::select(vec![TaskState::Starting, TaskState::Running, TaskState::Failed]);
    let node_state = prop::sample::select(vec![NodeState::Ready, NodeState::Down]);
    let step = prop_oneof![
        4 => (1..6u8, 1..4u8, networks.clone()).prop_map(|(task, node, networks)| Step::Assign(task, node, networks)),
        4 => (1..6u8, state).prop_map(|(task, state)| Step::Advance(task, state)),
        2 => (1..6u8).prop_map(Step::Remove),
        1 => (1..4u8, node_state, 1..250u8).prop_map(|(node, state, host)| Step::Node(node, state, host)),
        1 => (1..3u8, networks).prop_map(|(service, networks)| Step::Virtual(service, networks)),
        2 => (1..3u8, 1..4u64).prop_map(|(network, epoch)| Step::Keys(network, epoch)),
        3 => (1..4u8, 1..4u8, 1..4u8).prop_map(|(node, network, drawn)| Step::Report(node, network, drawn)),
        4 => (0..3u8).prop_map(Step::Tell),
        2 => (0..3u8, 0..2u8).prop_map(|(follower, manager)| Step::Move(follower, manager)),
        1 => (0..2u8).prop_map(Step::Begin),
    ];
    prop::collection::vec(step, 1..40)
}

async fn take(store: &Store, followers: &mut [Follower], managers: &mut [Manager], step: &Step) {
    let view = store.view();
    let known = |number: u8| view.task(&task_id(number)).map(|task| (**task).clone());
    match step {
        Step::Assign(number, node, networks) if known(*number).is_none() => {
            put(store, [task(*number, &service(1, &[1, 2]), *node, networks)]).await;
        }
        Step::Advance(number, state) => {
            if let Some(task) = known(*number).filter(|task| task.status.state < *state) {
                put(store, [in_state(task, *state)]).await;
            }
        }
        Step::Remove(number) => remove(store, task_id(*number)).await,
        Step::Node(number, state, host) => {
            let mut node = node(*number);
            node.status.state = *state;
            node.status.addr = format!("192.0.2.{host}");
            put(store, [node]).await;
        }
        Step::Virtual(number, networks) => put(store, [service(*number, networks)]).await,
        Step::Keys(number, epoch) => put(store, [keyring(*number, *epoch)]).await,
        Step::Report(node, network, drawn) => report_keys(store, *node, *network, *drawn, 1).await,
        Step::Tell(follower) => {
            followers[usize::from(*follower)].catch_up(store);
        }
        Step::Move(follower, manager) => {
            let follower = &mut followers[usize::from(*follower)];
            let (then, knew) = (follower.moment, follower.learned.clone());
            let manager = &mut managers[usize::from(*manager)];
            for update in follower.move_to(store, manager.journal(store)) {
                let since = match update.kind.unwrap() {
                    Kind::Difference(difference) => difference.since,
                    Kind::Complete(_) => 0,
                    Kind::Gone(_) => continue,
                };
                // By differences exactly where it can be.
                let known = knew.0.contains_key(&update.network_id) && manager.begun.index() <= then.index;
                assert_eq!(since, if known { then.index } else { 0 });
            }
            assert_eq!(follower.learned, whole(&store.view(), follower.number));
        }
        Step::Begin(manager) => managers[usize::from(*manager)] = Manager::new(store),
        Step::Assign(..) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whenever each node is told, and by whichever manager, it ends up with the whole, and never hears of another network.
    #[test]
    fn differences_add_up_to_the_whole(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let store = store().await;
            put(&store, [node(1), node(2), node(3)]).await;
            put(&store, [network(1), network(2), network(3)]).await;
            put(&store, [service(1, &[1]), service(2, &[2])]).await;
            let mut followers = [1, 2, 3].map(|number| Follower::new(&store, number));
            let mut managers = [1, 2].map(|_| Manager::new(&store));
            for step in &steps {
                take(&store, &mut followers, &mut managers, step).await;
            }
            for follower in &mut followers {
                follower.catch_up(&store);
                assert_eq!(follower.learned, whole(&store.view(), follower.number));
            }
        });
    }
}
