//! Who becomes and who ceases to be a manager.

use std::sync::{Arc, Mutex};

use manager::reconcile::Lead;
use manager::rolemanager::{self, Action, Group, Member, plan};
use proto::model::*;
use raft_store::{RaftId, Term};
use tokio_util::sync::CancellationToken;

use crate::support::*;

fn manager(id: &str, raft_id: RaftId) -> Node {
    let status = ManagerStatus {
        raft_id,
        addr: String::new(),
        leader: false,
        reachability: Reachability::Unknown,
        lag: None,
    };
    let mut node = Node { role: Role::Manager, manager: Some(status), ..node(id) };
    node.spec.desired_role = Role::Manager;
    node
}

fn member(raft_id: RaftId, node: &str) -> Member {
    Member { raft_id, node: node.into(), addr: String::new(), voter: true }
}

#[derive(Clone, Default)]
struct Members(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    members: Vec<Member>,
    /// The group lets nobody go.
    refuses: bool,
}

impl Members {
    fn of(members: &[(RaftId, &str)]) -> Self {
        let members = members.iter().map(|(raft_id, node)| member(*raft_id, node)).collect();
        Self(Arc::new(Mutex::new(State { members, refuses: false })))
    }

    fn refuse(&self, refuses: bool) {
        self.0.lock().unwrap().refuses = refuses;
    }
}

impl Group for Members {
    fn members(&self) -> Vec<Member> {
        self.0.lock().unwrap().members.clone()
    }

    async fn remove(&self, member: RaftId) -> Result<(), String> {
        let mut group = self.0.lock().unwrap();
        if group.refuses {
            return Err("it would lose its quorum".into());
        }
        group.members.retain(|other| other.raft_id != member);
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_demoted_or_removed_manager_leaves_the_group_before_it_loses_its_role() {
    let world = World::with_nodes(1).await;
    world.put(manager("m1", 1)).await;
    world.put(manager("m2", 2)).await;
    let group = [member(1, "m1"), member(2, "m2"), member(3, "gone")];
    assert_eq!(plan(&world.store.view(), &group), [Action::Remove(3)]);
    world.change_node("m2", |node| node.spec.desired_role = Role::Worker).await;
    assert_eq!(plan(&world.store.view(), &group), [Action::Remove(2), Action::Remove(3)]);
    assert_eq!(plan(&world.store.view(), &group[..1]), [Action::Demote("m2".into())]);
    world.change_node("n1", |node| node.spec.desired_role = Role::Manager).await;
    assert_eq!(plan(&world.store.view(), &group[..2]), [Action::Remove(2), Action::Promote("n1".into())]);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_died_before_its_membership_was_written_is_known_all_the_same() {
    let world = World::with_nodes(0).await;
    let mut joined = manager("m1", 1);
    joined.manager = None;
    world.put(joined).await;
    let learner = Member { voter: false, ..member(1, "m1") };
    assert!(plan(&world.store.view(), &[learner]).is_empty());
    let expected = Action::Record("m1".into(), rolemanager::status(1, String::new()));
    assert_eq!(plan(&world.store.view(), &[member(1, "m1")]), [expected]);

    // It listens elsewhere now, or is a new member after its disk was lost.
    world.put(manager("m2", 2)).await;
    let moved = Member { addr: "192.0.2.2:2377".into(), ..member(2, "m2") };
    let expected = Action::Record("m2".into(), rolemanager::status(2, "192.0.2.2:2377".into()));
    assert_eq!(plan(&world.store.view(), &[moved]), [expected]);
    let expected = Action::Record("m2".into(), rolemanager::status(3, String::new()));
    assert_eq!(plan(&world.store.view(), &[member(3, "m2")]), [expected]);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_removed_before_the_swarm_is_known() {
    assert!(plan(&World::new().store.view(), &[member(1, "m1")]).is_empty());
}

#[tokio::test(start_paused = true)]
async fn roles_follow_and_what_is_refused_is_tried_again() {
    let world = World::with_nodes(1).await;
    world.put(manager("m1", 1)).await;
    world.put(manager("m2", 2)).await;
    let group = Members::of(&[(1, "m1"), (2, "m2")]);
    let over = CancellationToken::new();
    let lead =
        Lead { store: world.store.clone(), term: Term(1), clock: world.clock.clone(), over: over.clone() };
    let role = |id: &str| world.store.view().node(&id.into()).unwrap().role;
    let story = async {
        world.change_node("n1", |node| node.spec.desired_role = Role::Manager).await;
        let mut watch = world.store.watch();
        while role("n1") != Role::Manager {
            let _ = watch.next().await;
        }
        group.refuse(true);
        world.change_node("m2", |node| node.spec.desired_role = Role::Worker).await;
        tokio::time::sleep(std::time::Duration::from_secs(60)).await;
        assert_eq!(role("m2"), Role::Manager);
        group.refuse(false);
        while role("m2") != Role::Worker {
            let _ = watch.next().await;
        }
        assert_eq!(group.members(), [member(1, "m1")]);
        assert!(world.store.view().node(&"m2".into()).unwrap().manager.is_none());
        over.cancel();
    };
    tokio::join!(rolemanager::run(lead, group.clone()), story);
}
