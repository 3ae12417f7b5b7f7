//! Whether the managers can spare one of themselves.

use proto::model::{Node, NodeId, Reachability, Role};
use raft_store::{Member, Tables};

use crate::error::Error;

/// Refuses a demotion after which the managers could decide nothing. `members` are those of the Raft group.
pub fn check_demotion(tables: &Tables, node: &Node, members: &[Member]) -> Result<(), Error> {
    let stays = |other: &NodeId| {
        let desired = tables.node(other).map(|other| other.spec.desired_role);
        *other != node.id && desired == Some(Role::Manager)
    };
    let named = format!("node {} ({})", node.id, node.hostname());
    if !tables.nodes().any(|other| stays(&other.id)) {
        let last = format!("{named} is the last manager of the swarm: promote another node first");
        return Err(Error::Precondition(last));
    }
    // Managers that have not joined the group yet have no vote in it either.
    let voters = || members.iter().filter(|member| member.voter && stays(&member.node_id));
    let reachable = voters().filter(|member| member.reachability != Reachability::Unreachable).count();
    let voters = voters().count();
    if holds_quorum(reachable, voters) {
        return Ok(());
    }
    Err(Error::Precondition(format!(
        "without {named} only {reachable} of {voters} managers would be reachable, which is no majority: bring \
         managers back first"
    )))
}

const fn holds_quorum(reachable: usize, voters: usize) -> bool {
    reachable > voters / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_of_those_left_must_be_reachable() {
        for (reachable, voters, holds) in
            [(0, 0, false), (1, 1, true), (1, 2, false), (2, 3, true), (2, 4, false)]
        {
            assert_eq!(holds_quorum(reachable, voters), holds, "{reachable} of {voters}");
        }
    }
}
