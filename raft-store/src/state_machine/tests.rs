use std::time::{Duration, SystemTime};

use proto::model::{NetworkId, TaskState};

use super::*;
use crate::fixtures as make;
use crate::{AddressOwner, Kind};

fn proposal(id: u128, base: u64, writes: Vec<Write>) -> Proposal {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(base + 1);
    Proposal { id, base, at, term: None, writes, expected: Vec::new() }
}

fn create(object: impl Into<Object>) -> Write {
    Write::Create(object.into())
}

/// Applies at the next index.
fn apply(state: &mut State, writes: Vec<Write>) -> Outcome {
    let base = state.tables.index();
    let proposal = proposal(rand::random(), base, writes);
    state.apply(proposal, Position { index: base + 1, term: Term(1) }).0
}

fn violation(state: &mut State, writes: Vec<Write>) -> Violation {
    match apply(state, writes) {
        Outcome::Violated(violation) => violation,
        other => panic!("not refused: {other:?}"),
    }
}

/// A network, a service, a node and a task with an address.
fn populated() -> State {
    let mut state = State::default();
    let task = make::attached(make::task("task", "web", 1), "net", "10.0.9.2/24");
    let task = proto::model::Task { node: Some("node".into()), ..make::in_state(task, TaskState::Running) };
    let writes = vec![
        create(task),
        create(make::service("web", &["net"])),
        create(make::allocated("net", "10.0.9.0/24", 4097)),
        create(make::node("node")),
    ];
    assert_eq!(apply(&mut state, writes), Outcome::Applied { index: 1 });
    state
}

fn task(state: &State) -> proto::model::Task {
    proto::model::Task::clone(state.tables.task(&"task".into()).unwrap())
}

#[test]
fn versions_and_times_are_those_of_the_entry() {
    let mut state = populated();
    let created = task(&state).meta;
    assert_eq!((created.version, created.created_at), (1, created.updated_at));
    let changed = make::in_state(task(&state), TaskState::Failed);
    assert_eq!(apply(&mut state, vec![Write::Update(changed.into())]), Outcome::Applied { index: 2 });
    let meta = task(&state).meta;
    assert_eq!((meta.version, meta.created_at), (2, created.created_at));
    assert_eq!(meta.updated_at, SystemTime::UNIX_EPOCH + Duration::from_secs(2));
}

#[test]
fn an_object_that_changed_since_it_was_read_is_a_conflict() {
    let mut state = populated();
    let stale = task(&state);
    let changed = make::in_state(task(&state), TaskState::Complete);
    apply(&mut state, vec![Write::Update(changed.into())]);

    let update = vec![Write::Update(stale.clone().into())];
    assert_eq!(apply(&mut state, update), Outcome::Conflict { index: 3 });
    let removal = Write::Remove { id: (&stale.id).into(), version: stale.meta.version };
    assert_eq!(apply(&mut state, vec![removal]), Outcome::Conflict { index: 4 });
    let mut depends = proposal(9, 4, vec![create(make::node("other"))]);
    depends.expected = vec![((&stale.id).into(), stale.meta.version)];
    let answer = state.apply(depends, Position { index: 5, term: Term(1) });
    assert_eq!(answer, (Outcome::Conflict { index: 5 }, Vec::new()));
}

#[test]
fn names_vnis_subnets_and_addresses_are_unique() {
    let mut state = populated();
    let mut twin = make::service("twin", &[]);
    std::sync::Arc::make_mut(&mut twin.spec).annotations.name = "web".into();
    let by = ObjectId::Service("web".into());
    assert_eq!(
        violation(&mut state, vec![create(twin)]),
        Violation::NameTaken { kind: Kind::Service, name: "web".into(), by }
    );
    assert_eq!(
        violation(&mut state, vec![create(make::allocated("b", "10.0.8.0/24", 4097))]),
        Violation::VniTaken { vni: 4097, by: "net".into() }
    );
    // Asking is enough: the network was given nothing yet.
    assert_eq!(
        violation(&mut state, vec![create(make::network("b", "10.0.0.0/16"))]),
        Violation::SubnetOverlap {
            subnet: "10.0.0.0/16".parse().unwrap(),
            other: "10.0.9.0/24".parse().unwrap(),
            name: "net".into()
        }
    );
    let taken = |address: &str, by| Violation::AddressTaken {
        network: "net".into(),
        address: address.parse().unwrap(),
        by,
    };
    let other = |address| create(make::attached(make::task("other", "web", 2), "net", address));
    let by = AddressOwner::Task("task".into());
    assert_eq!(violation(&mut state, vec![other("10.0.9.2/24")]), taken("10.0.9.2", by));
    assert_eq!(violation(&mut state, vec![other("10.0.9.1/24")]), taken("10.0.9.1", AddressOwner::Gateway));
    assert!(matches!(
        violation(&mut state, vec![create(make::node("node"))]),
        Violation::Exists { id: ObjectId::Node(_) }
    ));
}

#[test]
fn an_address_is_free_once_its_task_has_ended_and_the_last_one_is_remembered() {
    let mut state = populated();
    let (net, subnet): (NetworkId, _) = ("net".into(), "10.0.9.0/24".parse().unwrap());
    assert_eq!(state.tables.last_address(&net, &subnet), Some("10.0.9.2".parse().unwrap()));
    // Desired to stop is not stopped.
    let stopping = proto::model::Task { desired: TaskState::Shutdown, ..task(&state) };
    apply(&mut state, vec![Write::Update(stopping.into())]);
    assert!(state.tables.address_owner(&net, "10.0.9.2".parse().unwrap()).is_some());

    let ended = make::in_state(task(&state), TaskState::Shutdown);
    let heir = make::attached(make::task("heir", "web", 1), "net", "10.0.9.2/24");
    let passed_on = apply(&mut state, vec![create(heir), Write::Update(ended.into())]);
    assert_eq!(passed_on, Outcome::Applied { index: 3 });
    let owner = state.tables.address_owner(&net, "10.0.9.2".parse().unwrap());
    assert_eq!(owner, Some(&AddressOwner::Task("heir".into())));
}

#[test]
fn a_network_goes_only_when_nothing_needs_it_and_leaves_nothing() {
    let mut state = populated();
    let remove = |state: &State, id: ObjectId| {
        let version = state.tables.get(&id).unwrap().meta().version;
        Write::Remove { id, version }
    };
    let net = ObjectId::Network("net".into());
    let removal = remove(&state, net.clone());
    let Violation::InUse { by, .. } = violation(&mut state, vec![removal]) else { panic!("not in use") };
    assert_eq!(by, [ObjectId::Service("web".into()), ObjectId::Task("task".into())]);

    let all = [net, ObjectId::Service("web".into()), ObjectId::Task("task".into())];
    let removals = all.map(|id| remove(&state, id)).to_vec();
    assert!(matches!(apply(&mut state, removals), Outcome::Applied { .. }));
    assert_eq!(state.tables.addresses_in_use(&"net".into()).count(), 0);
    assert_eq!(state.tables.last_addresses().count(), 0);
    assert_eq!(state.tables.subnets_in_use().count() + state.tables.vnis_in_use().count(), 0);
}

#[test]
fn references_must_exist_and_some_things_never_change() {
    let mut state = populated();
    let missing = |missing: ObjectId, by: ObjectId| Violation::Missing { missing, by };
    assert_eq!(
        violation(&mut state, vec![create(make::service("b", &["nowhere"]))]),
        missing(ObjectId::Network("nowhere".into()), ObjectId::Service("b".into()))
    );
    assert_eq!(
        violation(&mut state, vec![create(make::task("b", "nobody", 1))]),
        missing(ObjectId::Service("nobody".into()), ObjectId::Task("b".into()))
    );
    let moved = proto::model::Task { node: None, ..task(&state) };
    assert_eq!(
        violation(&mut state, vec![Write::Update(moved.into())]),
        Violation::Immutable { id: ObjectId::Task("task".into()), field: "node" }
    );
    let younger = make::in_state(task(&state), TaskState::Ready);
    assert_eq!(
        violation(&mut state, vec![Write::Update(younger.into())]),
        Violation::Backwards { task: "task".into(), from: TaskState::Running, to: TaskState::Ready }
    );
}

#[test]
fn a_proposal_that_comes_twice_is_applied_once() {
    let mut state = State::default();
    let first = proposal(7, 0, vec![create(make::node("a"))]);
    let at = |index| Position { index, term: Term(1) };
    assert_eq!(state.apply(first.clone(), at(1)).0, Outcome::Applied { index: 1 });
    let removal = Write::Remove { id: ObjectId::Node("a".into()), version: 1 };
    assert_eq!(apply(&mut state, vec![removal]), Outcome::Applied { index: 2 });
    assert_eq!(state.apply(first.clone(), at(3)), (Outcome::Applied { index: 1 }, Vec::new()));
    assert_eq!(state.tables.nodes().count(), 0);

    // A refusal stays one, though the reason is gone.
    apply(&mut state, vec![create(make::node("a"))]);
    let refused = proposal(8, 4, vec![create(make::node("a"))]);
    assert!(matches!(state.apply(refused.clone(), at(5)).0, Outcome::Violated(_)));
    let removal = Write::Remove { id: ObjectId::Node("a".into()), version: 4 };
    apply(&mut state, vec![removal]);
    assert_eq!(state.apply(refused, at(7)).0, Outcome::Conflict { index: 7 });

    // When it is forgotten, nobody knows.
    for _ in 0..REMEMBERED {
        apply(&mut state, vec![]);
    }
    let index = state.tables.index() + 1;
    assert_eq!(state.apply(first, at(index)).0, Outcome::Forgotten { index });
}

#[test]
fn a_proposal_for_another_term_is_refused() {
    let mut state = State::default();
    let mut leaders = proposal(1, 0, vec![create(make::node("a"))]);
    leaders.term = Some(Term(4));
    assert_eq!(state.apply(leaders.clone(), Position { index: 1, term: Term(5) }).0, Outcome::Deposed);
    leaders.id = 2;
    let answer = state.apply(leaders, Position { index: 2, term: Term(4) }).0;
    assert_eq!(answer, Outcome::Applied { index: 2 });
}

#[test]
fn no_more_objects_of_a_kind_than_its_limit() {
    let mut state = State::default();
    let limit = 1 << 17;
    for number in 1..limit {
        state.tables.insert(make::node(&format!("node{number}")).into(), None);
    }
    assert!(matches!(apply(&mut state, vec![create(make::node("last"))]), Outcome::Applied { .. }));
    let too_many = Violation::TooMany { kind: Kind::Node, limit };
    assert_eq!(violation(&mut state, vec![create(make::node("one-more"))]), too_many);
    assert!(too_many.to_string().contains("131072"), "{too_many}");
    // What is there can change, go, and be replaced; nothing slips in beside it.
    let update = || Write::Update(state.tables.get(&ObjectId::Node("node1".into())).unwrap());
    let slipping = vec![create(make::node("one-more")), update()];
    let update = vec![update()];
    assert_eq!(violation(&mut state, slipping), too_many);
    assert!(matches!(apply(&mut state, update), Outcome::Applied { .. }));
    let remove = Write::Remove { id: ObjectId::Node("node2".into()), version: 0 };
    let replaced = apply(&mut state, vec![create(make::node("one-more")), remove]);
    assert!(matches!(replaced, Outcome::Applied { .. }), "{replaced:?}");
    assert_eq!(state.tables.count(Kind::Node), limit);
    // Others have limits of their own.
    let other = apply(&mut state, vec![create(make::network("net", "10.0.9.0/24"))]);
    assert!(matches!(other, Outcome::Applied { .. }), "{other:?}");
}
