//! What a report changes, and who is told of it.

use proto::model::{Keyring, KeyringId, KeyringMember, NetworkKey, NodeId, Sensitive};
use proto::network::Handover::{self, Done, Receive, Send};

use super::*;

pub fn id(number: usize) -> NodeId {
    format!("node{number}").as_str().into()
}

pub fn keyring() -> Keyring {
    Keyring {
        id: KeyringId::from("network1"),
        meta: Default::default(),
        keys: vec![NetworkKey { generation: 1, secret: Sensitive::new(vec![1; 32]) }],
        sending: 1,
        epoch: 1,
        since: std::time::SystemTime::UNIX_EPOCH,
        wanted: 0,
        members: Default::default(),
        roster: 0,
        settled: 0,
    }
}

fn report(incarnation: u8, instead_of: Option<u8>, receives: u64, sends: u64) -> Report {
    let instead_of = Some(instead_of.map(|byte| [byte; 16]));
    Report {
        incarnation: [incarnation; 16],
        instead_of,
        epoch: 1,
        receives,
        sends,
        passed_over: BTreeSet::new(),
    }
}

/// Three members that have not changed yet.
fn three() -> Keyring {
    let mut keyring = keyring();
    (1..4).for_each(|node| enter(&mut keyring, &id(node.into()), &report(node, None, 0, 0)));
    assert_eq!(keyring.roster, 0, "a member that is new changes nothing");
    keyring
}

fn member(keyring: &Keyring, node: usize) -> KeyringMember {
    keyring.members[&id(node)]
}

/// What the first does about the second, and the second about the first.
fn pair(keyring: &Keyring, one: usize, two: usize) -> [Handover; 2] {
    [between(keyring, &id(one), &id(two)), between(keyring, &id(two), &id(one))]
}

#[test]
fn a_pair_goes_on_when_the_other_end_has_said_so() {
    let mut keyring = three();
    enter(&mut keyring, &id(1), &report(11, Some(1), 0, 0));
    assert_eq!((keyring.roster, pair(&keyring, 1, 2), pair(&keyring, 2, 3)), (1, [Receive; 2], [Done; 2]));
    // The one that has restarted is sent to as soon as it receives, whatever the others do.
    enter(&mut keyring, &id(1), &report(11, Some(11), 1, 0));
    assert_eq!((pair(&keyring, 1, 2), pair(&keyring, 1, 3)), ([Receive, Send], [Receive, Send]));
    enter(&mut keyring, &id(2), &report(2, Some(2), 1, 1));
    assert_eq!((pair(&keyring, 1, 2), pair(&keyring, 1, 3)), ([Done, Send], [Receive, Send]));
    enter(&mut keyring, &id(3), &report(3, Some(3), 1, 1));
    enter(&mut keyring, &id(1), &report(11, Some(11), 1, 1));
    assert_eq!((pair(&keyring, 1, 2), pair(&keyring, 1, 3)), ([Done; 2], [Done; 2]));
}

#[test]
fn another_restart_begins_anew_before_anybody_has_confirmed() {
    let mut keyring = three();
    enter(&mut keyring, &id(1), &report(11, Some(1), 0, 0));
    enter(&mut keyring, &id(2), &report(2, Some(2), 1, 0));
    enter(&mut keyring, &id(1), &report(21, Some(11), 1, 0));
    assert_eq!((keyring.roster, pair(&keyring, 1, 2)), (2, [Receive; 2]));
    enter(&mut keyring, &id(2), &report(2, Some(2), 2, 0));
    assert_eq!(pair(&keyring, 1, 2), [Send, Receive]);
}

#[test]
fn late_reports_count_for_nothing() {
    let mut keyring = three();
    enter(&mut keyring, &id(1), &report(11, Some(1), 0, 0));
    let present = keyring.clone();
    enter(&mut keyring, &id(1), &report(1, Some(1), 1, 1));
    enter(&mut keyring, &id(1), &report(1, None, 1, 1));
    enter(&mut keyring, &id(1), &report(11, Some(11), 9, 9));
    assert_eq!(keyring, present, "of an earlier incarnation, and of a roster that is to come");
    enter(&mut keyring, &id(1), &report(11, Some(11), 1, 1));
    let present = keyring.clone();
    enter(&mut keyring, &id(1), &report(11, Some(11), 0, 0));
    assert_eq!(keyring, present, "what was said before");
    // Of a node that does not say whose place it takes, any is taken.
    enter(&mut keyring, &id(1), &Report { instead_of: None, ..report(31, None, 0, 0) });
    assert_eq!(keyring.roster, 2);
}

#[test]
fn a_member_that_comes_back_is_new() {
    let mut keyring = three();
    enter(&mut keyring, &id(1), &report(11, Some(1), 0, 0));
    keyring.members.remove(&id(2));
    enter(&mut keyring, &id(2), &report(22, None, 0, 0));
    let KeyringMember { since, receives, sends, .. } = member(&keyring, 2);
    assert_eq!((keyring.roster, since, receives, sends), (1, 0, 1, 1));
    assert_eq!(pair(&keyring, 2, 3), [Done; 2]);
}

#[test]
fn one_that_was_passed_over_begins_anew_and_holds_nobody_up() {
    let mut keyring = three();
    enter(&mut keyring, &id(1), &report(11, Some(1), 0, 0));
    // The third is down: the others finish without it.
    enter(&mut keyring, &id(1), &report(11, Some(11), 1, 0));
    enter(&mut keyring, &id(2), &report(2, Some(2), 1, 1));
    enter(&mut keyring, &id(1), &report(11, Some(11), 1, 1));
    assert_eq!((pair(&keyring, 1, 2), pair(&keyring, 1, 3)), ([Done; 2], [Receive, Send]));
    // Says who passed it over, after it has said that it receives: the same comes of it.
    let mut late = three();
    enter(&mut late, &id(1), &report(11, Some(1), 0, 0));
    enter(&mut late, &id(3), &report(3, Some(3), 1, 0));
    enter(&mut late, &id(1), &Report { passed_over: [id(3)].into(), ..report(11, Some(11), 1, 1) });
    assert_eq!((late.roster, member(&late, 3).since), (2, 2));
    enter(&mut late, &id(1), &Report { passed_over: [id(3)].into(), ..report(11, Some(11), 1, 1) });
    assert_eq!(late.roster, 2, "once is enough");
    // It was only cut off, and is still sent to on the old association: it must not remove that yet.
    enter(&mut keyring, &id(3), &report(3, Some(3), 1, 0));
    assert_eq!((keyring.roster, member(&keyring, 3).since), (2, 2));
    assert_eq!(pair(&keyring, 1, 3), [Receive; 2]);
    for (node, own) in [(1, 11), (2, 2), (3, 3)] {
        enter(&mut keyring, &id(node), &report(own, Some(own), 2, 0));
    }
    assert_eq!((keyring.roster, pair(&keyring, 1, 3)), (2, [Send; 2]), "once is enough");
}

#[test]
fn what_changed_before_a_key_was_forgotten_is_handed_over() {
    let mut keyring = three();
    enter(&mut keyring, &id(1), &report(11, Some(1), 0, 0));
    let all: Vec<NodeId> = (1..4).map(id).collect();
    assert!(!is_over(&keyring, &all.iter().collect()));
    assert!(is_over(&keyring, &all[1..].iter().collect()), "nobody waits for the first one");
    keyring.settled = keyring.roster;
    assert_eq!(pair(&keyring, 1, 2), [Done; 2]);
    assert!(is_over(&keyring, &all.iter().collect()));
}

#[test]
fn a_node_that_may_hold_a_forgotten_key_hands_nothing_over() {
    let mut keyring = three();
    keyring.epoch = 4;
    let confirming = |epoch, incarnation, before| Report { epoch, ..report(incarnation, Some(before), 0, 0) };
    enter(&mut keyring, &id(1), &confirming(4, 1, 1));
    enter(&mut keyring, &id(1), &confirming(0, 11, 1));
    enter(&mut keyring, &id(1), &confirming(0, 21, 11));
    assert_eq!((keyring.roster, member(&keyring, 1).since), (2, 2), "it had confirmed before");
    enter(&mut keyring, &id(2), &confirming(0, 12, 2));
    assert_eq!((keyring.roster, member(&keyring, 2).since), (2, 0));
    assert_eq!(pair(&keyring, 2, 3), [Done; 2]);
}

#[test]
fn a_step_is_told_to_those_whom_it_concerns() {
    let mut keyring = three();
    let mut concerned = |node: usize, report: &Report| {
        let before = keyring.clone();
        enter(&mut keyring, &id(node), report);
        Concerned::by(&before, &keyring)
    };
    let these = |nodes: &[usize]| Concerned::These(nodes.iter().copied().map(id).collect());
    assert_eq!(concerned(1, &report(11, Some(1), 0, 0)), Concerned::All);
    assert_eq!(concerned(2, &report(2, Some(2), 1, 0)), these(&[1]));
    assert_eq!(concerned(2, &report(2, Some(2), 1, 0)), Concerned::Nobody);
    assert_eq!(concerned(1, &report(11, Some(11), 1, 0)), these(&[2, 3]));
    assert_eq!(concerned(2, &report(2, Some(2), 1, 1)), these(&[1]));
    assert_eq!(concerned(3, &report(3, Some(3), 1, 1)), these(&[1]));
    assert_eq!(concerned(1, &report(11, Some(11), 1, 1)), these(&[2, 3]));
}
