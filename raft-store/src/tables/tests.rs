//! The indexes against a naive recomputation, over random histories.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use proto::model::{NetworkId, TaskState};

use super::addresses::claims;
use super::*;
use crate::Term;
use crate::change_set::{Proposal, Write};
use crate::fixtures as make;
use crate::state_machine::{Outcome, Position, State};

/// One thing that somebody tries. Most are refused, some are not.
#[derive(Clone, Debug)]
enum Step {
    Put(Object),
    Remove(ObjectId),
}

const STATES: [TaskState; 4] = [TaskState::New, TaskState::Assigned, TaskState::Running, TaskState::Failed];

fn step() -> impl Strategy<Value = Step> {
    let node = (0..3u8).prop_map(|n| Step::Put(make::node(&format!("node{n}")).into()));
    let network = (0..3u8, 0..4u8, prop::option::of(0..3u32)).prop_map(|(n, subnet, vni)| {
        let (id, subnet) =
            (format!("net{n}"), format!("10.0.{}.0/{}", subnet * 2, if subnet == 3 { 16 } else { 24 }));
        let network = match vni {
            Some(vni) => make::allocated(&id, &subnet, 4096 + vni),
            None => make::network(&id, &subnet),
        };
        Step::Put(network.into())
    });
    let service = (0..3u8, 0..3u8, prop::option::of(2..6u8)).prop_map(|(s, n, vip)| {
        let network = format!("net{n}");
        let mut service = make::service(&format!("svc{s}"), &[&network]);
        if let Some(vip) = vip {
            service.endpoint.virtual_ips = vec![make::vip(&network, &format!("10.0.0.{vip}/24"))];
        }
        Step::Put(service.into())
    });
    let task =
        (0..8u8, 0..3u8, 1..3u64, prop::option::of(0..3u8), 0..4usize, prop::option::of((0..3u8, 1..6u8)));
    let task = task.prop_map(|(t, s, slot, node, state, address)| {
        let task = make::task(&format!("task{t}"), &format!("svc{s}"), slot);
        let mut task = make::in_state(task, STATES[state]);
        task.node = node.map(|n| format!("node{n}").into());
        if let Some((n, host)) = address {
            task = make::attached(task, &format!("net{n}"), &format!("10.0.0.{host}/24"));
        }
        Step::Put(task.into())
    });
    let removal = prop_oneof![
        (0..3u8).prop_map(|n| ObjectId::Node(format!("node{n}").into())),
        (0..3u8).prop_map(|n| ObjectId::Network(format!("net{n}").into())),
        (0..3u8).prop_map(|n| ObjectId::Service(format!("svc{n}").into())),
        (0..8u8).prop_map(|n| ObjectId::Task(format!("task{n}").into())),
    ];
    prop_oneof![1 => node, 2 => network, 2 => service, 6 => task, 2 => removal.prop_map(Step::Remove)]
}

fn write(tables: &Tables, step: &Step) -> Option<Write> {
    match step {
        Step::Put(object) => Some(match tables.get(&object.id()) {
            Some(before) => Write::Update(object.clone().with_meta(*before.meta())),
            None => Write::Create(object.clone()),
        }),
        Step::Remove(id) => {
            tables.get(id).map(|before| Write::Remove { id: id.clone(), version: before.meta().version })
        }
    }
}

fn apply(state: &mut State, steps: &[Step], index: u64) -> (Outcome, Vec<crate::Change>) {
    let mut writes: BTreeMap<ObjectId, Write> = BTreeMap::new();
    for write in steps.iter().filter_map(|step| write(&state.tables, step)) {
        writes.insert(write.id(), write);
    }
    let proposal = Proposal {
        id: u128::from(index),
        base: index - 1,
        at: SystemTime::UNIX_EPOCH + Duration::from_secs(index),
        term: None,
        writes: writes.into_values().collect(),
        expected: Vec::new(),
    };
    state.apply(proposal, Position { index, term: Term(1) })
}

/// Made anew from nothing but the objects.
fn recomputed(tables: &Tables) -> Tables {
    let mut anew = Tables::default();
    anew.set_index(tables.index());
    for object in tables.objects() {
        anew.insert(object.clone(), Some(&object));
    }
    anew
}

fn assert_same_indexes(kept: &Tables, anew: &Tables) {
    assert!(kept.diff(anew).is_empty());
    assert_eq!(kept.service_names, anew.service_names);
    assert_eq!(kept.network_names, anew.network_names);
    assert!(kept.services_by_network.pairs().eq(anew.services_by_network.pairs()));
    assert!(kept.tasks_by_service.pairs().eq(anew.tasks_by_service.pairs()));
    assert!(kept.tasks_by_node.pairs().eq(anew.tasks_by_node.pairs()));
    assert!(kept.tasks_by_network.pairs().eq(anew.tasks_by_network.pairs()));
    assert!(kept.placed.pairs().eq(anew.placed.pairs()));
    for network in kept.networks() {
        let nodes: BTreeSet<_> =
            kept.placed.get(&network.id).into_iter().flatten().map(|(node, _)| node).collect();
        assert!(kept.nodes_by_network(&network.id).eq(nodes.iter().copied()));
        for node in nodes {
            let placed = |task: &&Arc<Task>| {
                task.is_placed() && task.attachments.iter().any(|place| place.network == network.id)
            };
            let tasks = kept.tasks_by_node(node).filter(placed).map(|task| &task.id);
            assert!(kept.placed_tasks(&network.id, node).eq(tasks));
        }
    }
    assert_eq!(kept.vnis, anew.vnis);
    assert!(kept.subnets.iter().eq(anew.subnets.iter()));
    for network in ["net0", "net1", "net2"].map(NetworkId::from) {
        assert!(kept.addresses_in_use(&network).eq(anew.addresses_in_use(&network)));
    }
}

fn assert_invariants(tables: &Tables) {
    let mut addresses = BTreeMap::new();
    for claim in tables.objects().flat_map(|object| claims(&object)) {
        let taken = addresses.insert((claim.network.clone(), claim.address.addr()), claim.owner.clone());
        assert!(taken.is_none_or(|owner| owner == claim.owner), "{claim:?} is used twice");
    }
    let subnets: Vec<_> = tables.networks().flat_map(|network| subnets::of(network)).collect();
    for (position, subnet) in subnets.iter().enumerate() {
        let overlaps = |other: &&IpNet| subnet.contains(*other) || other.contains(subnet);
        assert_eq!(subnets[position + 1..].iter().find(overlaps), None);
    }
    let vnis: Vec<_> = tables.networks().filter_map(|n| n.state.as_ref()).map(|state| state.vni).collect();
    assert_eq!(vnis.len(), tables.vnis.len());
    assert_eq!(tables.service_names.len(), tables.services.len());
    assert_eq!(tables.network_names.len(), tables.networks.len());
    for service in tables.services() {
        for network in networks_of_service(service) {
            assert!(tables.network(network).is_some(), "{network} of {} is gone", service.id);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn indexes_follow_the_objects_and_invariants_hold(
        history in prop::collection::vec(prop::collection::vec(step(), 1..4), 1..60)
    ) {
        let mut state = State::default();
        let mut replayed = State::default();
        for (index, steps) in (1..).zip(&history) {
            let before = state.tables.clone();
            let answer = apply(&mut state, steps, index);
            prop_assert_eq!(&answer, &apply(&mut replayed, steps, index));
            if !matches!(answer.0, Outcome::Applied { .. }) {
                prop_assert!(before.diff(&state.tables).is_empty(), "a refused change set changed something");
            }
            prop_assert_eq!(&answer.1, &sorted(before.diff(&state.tables)));
            assert_same_indexes(&state.tables, &recomputed(&state.tables));
            assert_invariants(&state.tables);
            state.tables.assert_sound();
        }
        prop_assert!(state.tables.last_addresses().eq(replayed.tables.last_addresses()));
        prop_assert_eq!(state.tables.last_vni(), replayed.tables.last_vni());
    }
}

/// As `apply` makes its writes: by id.
fn sorted(mut changes: Vec<crate::Change>) -> Vec<crate::Change> {
    changes.sort_by_key(crate::Change::id);
    changes
}

#[test]
fn prefixes_and_slots_are_found() {
    let mut tables = Tables::default();
    for (id, slot) in [("a1", 1), ("a2", 2), ("b1", 2)] {
        tables.insert(make::task(id, "web", slot).into(), None);
    }
    let ids = |found: Vec<&Arc<Task>>| found.into_iter().map(|t| t.id.to_string()).collect::<Vec<_>>();
    assert_eq!(ids(tables.tasks_by_prefix("a").collect()), ["a1", "a2"]);
    assert_eq!(ids(tables.tasks_by_prefix("a2").collect()), ["a2"]);
    assert_eq!(ids(tables.tasks_by_slot(&"web".into(), Slot(2)).collect()), ["a2", "b1"]);
    assert_eq!(ids(tables.tasks_by_service(&"web".into()).collect()), ["a1", "a2", "b1"]);
    assert_eq!(tables.tasks_by_service(&"other".into()).count(), 0);
}
