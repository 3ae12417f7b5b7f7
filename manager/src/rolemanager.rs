//! Makes nodes the managers or workers that they shall be.
//!
//! A promoted node is given the role; it then fetches a certificate for it and joins the Raft group by itself. A
//! demoted one leaves the group first and has the role taken after that, so that nobody who is not a manager
//! has a vote. A node that was removed from the swarm leaves the group as well. Whether the group can spare a
//! member, and who leads once the leader itself leaves, is the store's to decide; what it refuses is tried again.
//!
//! Every step is read off the store and the group, so a new leader goes on where the old one stopped. So does what is
//! written into a node about its membership, when whoever joined died before that was done.

use std::time::Duration;

use proto::model::{ManagerStatus, Node, NodeId, Reachability, Role};
use raft_store::{RaftId, Tables, UpdateError};

use crate::reconcile::Lead;

/// Between looks at the group, whose changes are no commits, and after a refusal.
const PERIOD: Duration = Duration::from_secs(5);

/// A member of the Raft group, as far as roles are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub raft_id: RaftId,
    pub node: NodeId,
    pub addr: String,
    /// False for one that has not caught up yet.
    pub voter: bool,
}

pub trait Group: Send + Sync {
    fn members(&self) -> Vec<Member>;
    /// Removing a member that is none succeeds. Removing the leader hands over the leadership first.
    fn remove(&self, member: RaftId) -> impl Future<Output = Result<(), String>> + Send;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The node gets the role of a manager.
    Promote(NodeId),
    /// The member leaves the group.
    Remove(RaftId),
    /// The node, which is no member any more, gets the role of a worker.
    Demote(NodeId),
    /// The node's membership is written into it.
    Record(NodeId, ManagerStatus),
}

/// Pure. A demoted node's `Demote` comes in the plan after its `Remove` was done.
pub fn plan(view: &Tables, members: &[Member]) -> Vec<Action> {
    // Before the first entries are applied nobody is known.
    if view.cluster().is_none() {
        return Vec::new();
    }
    let leaves = |node: &NodeId| view.node(node).is_none_or(|node| node.spec.desired_role == Role::Worker);
    let leaving = members.iter().filter(|member| leaves(&member.node));
    let removals = leaving.map(|member| Action::Remove(member.raft_id));
    let roles = view.nodes().filter_map(|node| {
        let is_member = members.iter().any(|member| member.node == node.id);
        match (node.spec.desired_role, node.role) {
            (Role::Manager, Role::Worker) => Some(Action::Promote(node.id.clone())),
            (Role::Worker, Role::Manager) if !is_member => Some(Action::Demote(node.id.clone())),
            (Role::Worker, _) if node.manager.is_some() && !is_member => {
                Some(Action::Demote(node.id.clone()))
            }
            (Role::Manager, Role::Manager) => unrecorded(node, members),
            _ => None,
        }
    });
    removals.chain(roles).collect()
}

fn unrecorded(node: &Node, members: &[Member]) -> Option<Action> {
    let member = members.iter().find(|member| member.voter && member.node == node.id)?;
    let known = node.manager.as_ref();
    let is_known = known.is_some_and(|known| known.raft_id == member.raft_id && known.addr == member.addr);
    (!is_known).then(|| Action::Record(node.id.clone(), status(member.raft_id, member.addr.clone())))
}

/// A member as its node has it. Who leads and who is reached is asked of the group.
pub fn status(raft_id: RaftId, addr: String) -> ManagerStatus {
    ManagerStatus { raft_id, addr, leader: false, reachability: Reachability::Unknown, lag: None }
}

/// Runs until the term is over.
pub async fn run(lead: Lead, group: impl Group) {
    let over = lead.over.clone();
    over.run_until_cancelled(follow(&lead, &group)).await;
}

async fn follow(lead: &Lead, group: &impl Group) {
    let mut watch = lead.store.watch();
    loop {
        let actions = plan(&lead.store.view(), &group.members());
        let mut all_done = true;
        for action in &actions {
            all_done &= act(lead, group, action).await;
        }
        // What was done may make another step possible.
        if !actions.is_empty() && all_done {
            continue;
        }
        let changed = async {
            while let Ok(commit) = watch.next().await {
                if commit.changes.iter().any(|change| change.object().as_node().is_some()) {
                    return;
                }
            }
            watch = lead.store.watch();
        };
        // A refused step is not repeated for every heartbeat that is noted on a node.
        let _ = tokio::time::timeout(PERIOD, changed).await;
        if !all_done {
            tokio::time::sleep(PERIOD).await;
        }
    }
}

/// Whether it was done.
async fn act(lead: &Lead, group: &impl Group, action: &Action) -> bool {
    failpoint::reached(format_args!("roles: {action:?}"));
    let outcome = match action {
        Action::Remove(member) => group.remove(*member).await,
        Action::Promote(node) => set_role(lead, node, Role::Manager).await,
        Action::Demote(node) => set_role(lead, node, Role::Worker).await,
        Action::Record(node, status) => record(lead, node, status).await,
    };
    if let Err(reason) = &outcome {
        tracing::warn!(?action, reason, "a change of roles has to wait");
    }
    outcome.is_ok()
}

async fn set_role(lead: &Lead, id: &NodeId, role: Role) -> Result<(), String> {
    let updated = lead.store.update_as_leader(lead.term, |tx| {
        let Some(mut node) =
            tx.node(id).filter(|node| node.spec.desired_role == role).map(|n| Node::clone(n))
        else {
            return Ok(());
        };
        node.role = role;
        if role == Role::Worker {
            node.manager = None;
        }
        tx.update(node);
        Ok::<_, std::convert::Infallible>(())
    });
    updated.await.map_err(|error: UpdateError<_>| error.to_string())
}

async fn record(lead: &Lead, id: &NodeId, status: &ManagerStatus) -> Result<(), String> {
    let updated = lead.store.update_as_leader(lead.term, |tx| {
        if let Some(node) = tx.node(id).filter(|node| node.spec.desired_role == Role::Manager) {
            let node = Node { manager: Some(status.clone()), ..Node::clone(node) };
            tx.update(node);
        }
        Ok::<_, std::convert::Infallible>(())
    });
    updated.await.map_err(|error: UpdateError<_>| error.to_string())
}
