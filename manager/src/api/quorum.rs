//! Whether the managers can spare one of themselves.

use proto::model::{Node, Reachability, Role};
use raft_store::{Member, Tables};

use crate::error::Error;

/// Refuses a demotion after which the managers could decide nothing.
pub fn check_demotion(tables: &Tables, node: &Node, members: &[Member]) -> Result<(), Error> {
    let others: Vec<_> = tables
        .nodes()
        .filter(|other| other.spec.desired_role == Role::Manager && other.id != node.id)
        .collect();
    if others.is_empty() {
        let last = format!("node {} is the last manager of the swarm: promote another node first", node.id);
        return Err(Error::Precondition(last));
    }
    let reachable = others.iter().filter_map(|other| other.manager.as_ref());
    let reachable = reachable.filter(|manager| is_reachable(members, manager.raft_id)).count();
    // Managers that have not joined the group yet have no vote in it either.
    let voters = others.iter().filter(|other| other.manager.is_some()).count();
    if holds_quorum(reachable, voters) {
        return Ok(());
    }
    Err(Error::Precondition(format!(
        "without node {} only {reachable} of {voters} managers would be reachable, which is no majority: bring \
         managers back first",
        node.id
    )))
}

fn is_reachable(members: &[Member], raft_id: u64) -> bool {
    let member = members.iter().find(|member| member.raft_id == raft_id);
    member.is_none_or(|member| member.reachability != Reachability::Unreachable)
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
