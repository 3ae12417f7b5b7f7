//! The leader's part: which steps a change takes, and when it is refused.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use proto::model::{NodeId, Reachability};
use proto::raft as wire;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{Change, DEADLINE, Error, Member, POLL, forward, voters};
use crate::RaftId;
use crate::replicated::Replicated;
use crate::transport::{Lane, SETUP_TIMEOUT};
use crate::types::{Address, Metrics};

/// How long a hand-over may take.
const TRANSFER: Duration = Duration::from_secs(3);

/// A learner that lacks fewer entries has caught up: the rest comes while the membership changes.
const CAUGHT_UP: u64 = 64;

/// Makes the change if this manager leads.
pub(crate) async fn lead(member: &Arc<Replicated>, change: Change) -> Result<RaftId, Error> {
    let Ok(_one_at_a_time) = timeout(DEADLINE, member.changes.acquire()).await else {
        return Err(Error::Refused("another change of the managers is still under way".into()));
    };
    match change {
        Change::Add { node_id, addr } => add(member, node_id, addr).await,
        Change::Remove(raft_id) => remove(member, raft_id).await,
        Change::Transfer => transfer(member).await,
    }
}

async fn add(member: &Replicated, node_id: NodeId, addr: String) -> Result<RaftId, Error> {
    let raft_id = identify(member, &node_id, &addr).await?;
    let metrics = member.metrics();
    let address = Address { node_id: node_id.to_string(), addr: addr.clone() };
    let known = metrics.membership_config.get_node(&raft_id);
    if known.is_some_and(|known| *known != address) {
        // The same member, as its id and log show, listens elsewhere now.
        commit(member, ChangeMembers::SetNodes([(raft_id, address)].into())).await?;
    } else if known.is_none() {
        commit(member, ChangeMembers::AddNodes([(raft_id, address)].into())).await?;
    }
    if !voters(&metrics).contains(&raft_id) {
        if let Err(error) = caught_up(member, raft_id, addr).await {
            // It stays a learner, which costs nobody anything, if this manager does not lead any more.
            let _ = commit(member, ChangeMembers::RemoveNodes([raft_id].into())).await;
            return Err(error);
        }
        failpoint::reached("member: caught up");
        commit(member, ChangeMembers::AddVoterIds([raft_id].into())).await?;
    }
    // The node's earlier incarnation, with its log lost, will never answer again. Also where an earlier leader got
    // as far as this and no further.
    for earlier in member.members_now().iter().filter(|m| m.node_id == node_id && m.raft_id != raft_id) {
        remove_member(member, earlier.raft_id).await?;
    }
    Ok(raft_id)
}

/// Who listens at `addr`; it must be the node.
async fn identify(member: &Replicated, node_id: &NodeId, addr: &str) -> Result<RaftId, Error> {
    let unreachable = |reason: String| Error::Unreachable { addr: addr.into(), reason };
    let mut client = member.peers.client(addr, Lane::Control);
    let answer = timeout(SETUP_TIMEOUT, client.identify(wire::IdentifyRequest {})).await;
    let answer =
        answer.map_err(|_| unreachable(format!("no answer within {} s", SETUP_TIMEOUT.as_secs())))?;
    let answer = answer.map_err(|status| unreachable(status.message().into()))?.into_inner();
    if answer.node_id != node_id.as_str() {
        return Err(Error::OtherNode { addr: addr.into(), found: answer.node_id, expected: node_id.clone() });
    }
    Ok(answer.raft_id)
}

async fn caught_up(member: &Replicated, raft_id: RaftId, addr: String) -> Result<(), Error> {
    let deadline = Instant::now() + DEADLINE;
    while Instant::now() < deadline {
        let metrics = member.metrics();
        let replication = metrics.replication.as_ref().ok_or(Error::NotLeader)?;
        let matched = replication.get(&raft_id).and_then(Option::as_ref).map(|matched| matched.index);
        if matched.is_some_and(|matched| matched + CAUGHT_UP > metrics.last_log_index.unwrap_or_default()) {
            return Ok(());
        }
        sleep(POLL).await;
    }
    Err(Error::Behind { addr, after: DEADLINE })
}

async fn remove(member: &Arc<Replicated>, raft_id: RaftId) -> Result<RaftId, Error> {
    let metrics = member.metrics();
    if metrics.membership_config.get_node(&raft_id).is_none() {
        return Ok(raft_id);
    }
    let voters = voters(&metrics);
    if voters.contains(&raft_id) {
        settled(member, || may_leave(member, &voters, raft_id)).await?;
    }
    if raft_id == member.raft_id {
        let successor = transfer(member).await?;
        return forward(member, successor, Change::Remove(raft_id)).await;
    }
    remove_member(member, raft_id).await?;
    Ok(raft_id)
}

async fn remove_member(member: &Replicated, raft_id: RaftId) -> Result<(), Error> {
    let voter = voters(&member.metrics()).contains(&raft_id);
    let ids = BTreeSet::from([raft_id]);
    commit(member, if voter { ChangeMembers::RemoveVoters(ids) } else { ChangeMembers::RemoveNodes(ids) })
        .await
}

fn may_leave(member: &Replicated, voters: &BTreeSet<RaftId>, leaving: RaftId) -> Result<(), Error> {
    let of = voters.len() - 1;
    if of == 0 {
        return Err(Error::LastManager);
    }
    let stays = |m: &&Member| m.voter && m.raft_id != leaving && m.reachability == Reachability::Reachable;
    let left = member.members_now().iter().filter(stays).count();
    let needed = of / 2 + 1;
    if left < needed { Err(Error::LosesQuorum { left, of, needed }) } else { Ok(()) }
}

/// Hands the leadership to the voter who has most of the log.
pub(crate) async fn transfer(member: &Replicated) -> Result<RaftId, Error> {
    let me = member.raft_id;
    let handed_over = |metrics: &Metrics| metrics.current_leader.is_some_and(|leader| leader != me);
    let deadline = Instant::now() + TRANSFER;
    loop {
        let ask = || successor(&member.members_now(), me).ok_or(Error::NoSuccessor);
        let successor = settled(member, ask).await?;
        member.raft.trigger().transfer_leader(successor).await.map_err(|_| Error::Stopped)?;
        // One that lacks an entry at that moment, or misses the message, does nothing: it is told again.
        let election = Some(member.timing.patience());
        let elected = member.raft.wait(election).metrics(handed_over, "another leader").await;
        match elected.ok().and_then(|metrics| metrics.current_leader) {
            Some(leader) => return Ok(leader),
            None if Instant::now() < deadline => {}
            None => return Err(Error::NoSuccessor),
        }
    }
}

/// The one that has most of the log.
pub(crate) fn successor(members: &[Member], me: RaftId) -> Option<RaftId> {
    let reachable = |m: &&Member| m.voter && m.raft_id != me && m.reachability == Reachability::Reachable;
    let successor = members.iter().filter(reachable).min_by_key(|m| m.lag.unwrap_or(u64::MAX));
    successor.map(|member| member.raft_id)
}

/// Asks again for a moment: a member that has just joined, or a new leader's, may not have been heard yet.
async fn settled<T>(member: &Replicated, ask: impl Fn() -> Result<T, Error>) -> Result<T, Error> {
    let deadline = Instant::now() + member.timing.patience();
    loop {
        match ask() {
            Err(Error::LosesQuorum { .. } | Error::NoSuccessor) if Instant::now() < deadline => {
                sleep(POLL).await;
            }
            result => return result,
        }
    }
}

/// One step, once earlier ones are complete.
async fn commit(member: &Replicated, change: ChangeMembers<RaftId, Address>) -> Result<(), Error> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let write = Box::pin(member.raft.change_membership(change.clone(), false));
        let Ok(result) = timeout_at(deadline, write).await else {
            return Err(Error::NoQuorum(DEADLINE));
        };
        match result {
            Ok(_) => return Ok(()),
            Err(RaftError::Fatal(_)) => return Err(Error::Stopped),
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_),
            ))) if Instant::now() < deadline => sleep(POLL).await,
            Err(RaftError::APIError(
                ClientWriteError::ForwardToLeader(_) | ClientWriteError::LogEntryDiscarded(_),
            )) => return Err(Error::NotLeader),
            Err(RaftError::APIError(error)) => return Err(Error::Refused(error.to_string())),
        }
    }
}
