//! Who belongs to the group of managers, and how that changes.
//!
//! A member joins as a learner, catches up, and only then becomes a voter, so that the group never depends on one who
//! has nothing. Changes are made by the leader, one at a time; other managers forward them. Raft's joint consensus
//! makes each step safe; this module decides which steps are sensible.

pub(crate) mod lead;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use openraft::Instant as _;
use proto::model::{NodeId, Reachability};
use proto::raft as wire;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::codec::Malformed;
use crate::host::random;
use crate::memory::Memory;
use crate::replicated::Replicated;
use crate::transport::{Lane, SETUP_TIMEOUT};
use crate::types::{Address, Metrics};
use crate::{Backend, RaftId, Store};

/// How long a change may take, with a snapshot to send.
const DEADLINE: Duration = Duration::from_secs(60);

const POLL: Duration = Duration::from_millis(20);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub raft_id: RaftId,
    pub node_id: NodeId,
    /// host:port
    pub addr: String,
    /// False for a learner, who has not caught up yet.
    pub voter: bool,
    pub leader: bool,
    /// Known to the leader; others know it of themselves and of the leader.
    pub reachability: Reachability,
    /// Entries that the member has not yet got. Known to the leader only.
    pub lag: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("this manager does not lead")]
    NotLeader,
    #[error("no leader within {} s: most managers must be up and reach each other", .0.as_secs())]
    NoQuorum(Duration),
    #[error("manager {addr} cannot be reached from the leader: {reason}")]
    Unreachable { addr: String, reason: String },
    #[error("at {addr} listens node {found}, not {expected}")]
    OtherNode { addr: String, found: String, expected: NodeId },
    #[error("manager {addr} has not caught up within {} s", .after.as_secs())]
    Behind { addr: String, after: Duration },
    #[error("the last manager cannot be removed")]
    LastManager,
    #[error(
        "without this manager {left} of {of} managers would be reachable, {needed} are needed: \
         bring another one back first"
    )]
    LosesQuorum { left: usize, of: usize, needed: usize },
    #[error("no other manager is ready to lead")]
    NoSuccessor,
    /// The leader's answer.
    #[error("{0}")]
    Refused(String),
    #[error("the store is stopped")]
    Stopped,
}

#[derive(Clone, Debug)]
pub(crate) enum Change {
    Add { node_id: NodeId, addr: String },
    Remove(RaftId),
    Transfer,
}

impl TryFrom<wire::ChangeMembershipRequest> for Change {
    type Error = Malformed;

    fn try_from(request: wire::ChangeMembershipRequest) -> Result<Self, Malformed> {
        use wire::change_membership_request::Change as Wire;
        Ok(match request.change.ok_or(Malformed::missing("change"))? {
            Wire::Add(add) => Self::Add { node_id: add.node_id.into(), addr: add.addr },
            Wire::Remove(raft_id) => Self::Remove(raft_id),
            Wire::Transfer(_) => Self::Transfer,
        })
    }
}

impl From<Change> for wire::ChangeMembershipRequest {
    fn from(change: Change) -> Self {
        use wire::change_membership_request::Change as Wire;
        let change = match change {
            Change::Add { node_id, addr } => Wire::Add(wire::AddMember { node_id: node_id.into(), addr }),
            Change::Remove(raft_id) => Wire::Remove(raft_id),
            Change::Transfer => Wire::Transfer(wire::TransferLeadership {}),
        };
        Self { change: Some(change) }
    }
}

/// Changes are made wherever the leader is; they return once they are complete.
pub struct Membership(Store);

impl Membership {
    pub(crate) fn of(store: Store) -> Self {
        Self(store)
    }

    /// As this manager knows them.
    pub fn members(&self) -> Vec<Member> {
        match &self.0.0.backend {
            Backend::Memory(memory) => memory.members.borrow().clone(),
            Backend::Replicated(replicated) => replicated.members_now(),
        }
    }

    /// Tells when somebody joins or leaves, leads, or becomes reachable or not.
    pub fn watch(&self) -> watch::Receiver<Vec<Member>> {
        match &self.0.0.backend {
            Backend::Memory(memory) => memory.members.subscribe(),
            Backend::Replicated(replicated) => replicated.members.clone(),
        }
    }

    /// As the leader knows them: with reachability and lag of each. If it cannot be asked, as this manager does.
    pub async fn status(&self) -> Vec<Member> {
        match &self.0.0.backend {
            Backend::Memory(_) => self.members(),
            Backend::Replicated(replicated) => {
                ask_leader(replicated).await.unwrap_or_else(|| replicated.members_now())
            }
        }
    }

    /// Makes the manager that listens at `addr` a voter. Its store is open and serves already.
    ///
    /// # Errors
    /// It cannot be reached from the leader, is another node, or does not catch up.
    pub async fn add(&self, node_id: NodeId, addr: String) -> Result<RaftId, Error> {
        self.change(Change::Add { node_id, addr }).await
    }

    /// # Errors
    /// Too few managers would be left.
    pub async fn remove(&self, raft_id: RaftId) -> Result<(), Error> {
        self.change(Change::Remove(raft_id)).await.map(|_| ())
    }

    /// Lets another manager lead, whoever leads now. Answers which one.
    ///
    /// # Errors
    /// There is no other manager that could.
    pub async fn transfer_leadership(&self) -> Result<RaftId, Error> {
        self.change(Change::Transfer).await
    }

    async fn change(&self, wanted: Change) -> Result<RaftId, Error> {
        match &self.0.0.backend {
            Backend::Memory(memory) => pretend(memory, wanted),
            Backend::Replicated(replicated) => change(replicated, wanted).await,
        }
    }
}

/// In memory, the members are a list.
fn pretend(memory: &Memory, wanted: Change) -> Result<RaftId, Error> {
    match wanted {
        Change::Add { node_id, addr } => {
            let raft_id = random();
            let member = Member {
                raft_id,
                node_id,
                addr,
                voter: true,
                leader: false,
                reachability: Reachability::Reachable,
                lag: Some(0),
            };
            memory.members.send_modify(|members| members.push(member));
            Ok(raft_id)
        }
        Change::Remove(raft_id) if raft_id == crate::memory::RAFT_ID => Err(Error::LastManager),
        Change::Remove(raft_id) => {
            memory.members.send_modify(|members| members.retain(|member| member.raft_id != raft_id));
            Ok(raft_id)
        }
        Change::Transfer => Err(Error::NoSuccessor),
    }
}

async fn ask_leader(member: &Replicated) -> Option<Vec<Member>> {
    let leader = member.leadership.borrow().leader?;
    if leader == member.raft_id {
        return Some(member.members_now());
    }
    let address = member.address_of(leader)?;
    let mut client = member.peers.client(&address.addr, Lane::Control);
    let answer = timeout(SETUP_TIMEOUT, client.members(wire::MembersRequest {})).await;
    let members = answer.ok()?.ok()?.into_inner().members;
    let members: Option<Vec<Member>> = members.into_iter().map(get_member).collect();
    members.filter(|members| !members.is_empty())
}

fn get_member(status: wire::MemberStatus) -> Option<Member> {
    let member = status.member?;
    Some(Member {
        raft_id: member.raft_id,
        node_id: member.node_id.into(),
        addr: member.addr,
        voter: status.voter,
        leader: status.leader,
        reachability: if status.reachable { Reachability::Reachable } else { Reachability::Unreachable },
        lag: Some(status.lag),
    })
}

/// Makes the change, here or at the leader. Answers the member that was added, removed or now leads.
pub(crate) async fn change(member: &Arc<Replicated>, change: Change) -> Result<RaftId, Error> {
    let deadline = Instant::now() + DEADLINE;
    while Instant::now() < deadline {
        let leader = member.leadership.borrow().leader;
        let result = match leader {
            Some(leader) if leader == member.raft_id => lead::lead(member, change.clone()).await,
            Some(leader) => forward(member, leader, change.clone()).await,
            None => Err(Error::NotLeader),
        };
        match result {
            Err(Error::NotLeader) => sleep(POLL).await,
            result => return result,
        }
    }
    Err(Error::NoQuorum(DEADLINE))
}

/// All changes may be sent again: what is done already is not done twice.
pub(crate) async fn forward(member: &Replicated, leader: RaftId, change: Change) -> Result<RaftId, Error> {
    use wire::change_membership_response::Result as Wire;
    let address = member.address_of(leader).ok_or(Error::NotLeader)?;
    let mut client = member.peers.client(&address.addr, Lane::Control);
    let request = wire::ChangeMembershipRequest::from(change);
    let answer = timeout(DEADLINE, client.change_membership(request)).await;
    match answer {
        Ok(Ok(response)) => match response.into_inner().result {
            Some(Wire::Done(raft_id)) => Ok(raft_id),
            Some(Wire::Refused(reason)) => Err(Error::Refused(reason)),
            Some(Wire::NotLeader(_)) | None => Err(Error::NotLeader),
        },
        Ok(Err(_)) | Err(_) => Err(Error::NotLeader),
    }
}

pub(crate) fn voters(metrics: &Metrics) -> BTreeSet<RaftId> {
    metrics.membership_config.voter_ids().collect()
}

/// The members as `me` sees them, who hears `leads`.
pub(crate) fn members(
    metrics: &Metrics,
    me: RaftId,
    leads: Option<RaftId>,
    reachable_within: Duration,
) -> Vec<Member> {
    let voters = voters(metrics);
    let last = metrics.last_log_index.unwrap_or_default();
    let member = |(raft_id, address): (&RaftId, &Address)| {
        let leader = leads == Some(*raft_id);
        let heard = metrics.heartbeat.as_ref().and_then(|heard| heard.get(raft_id).copied().flatten());
        let reachability = match (&metrics.heartbeat, heard) {
            _ if *raft_id == me => Reachability::Reachable,
            (None, _) if leader => Reachability::Reachable,
            (None, _) => Reachability::Unknown,
            (Some(_), Some(at)) if at.elapsed() <= reachable_within => Reachability::Reachable,
            (Some(_), _) => Reachability::Unreachable,
        };
        let matched = metrics.replication.as_ref().map(|r| r.get(raft_id).copied().flatten());
        Member {
            raft_id: *raft_id,
            node_id: address.node_id.as_str().into(),
            addr: address.addr.clone(),
            voter: voters.contains(raft_id),
            leader,
            reachability,
            lag: matched.map(|matched| last.saturating_sub(matched.map_or(0, |matched| matched.index))),
        }
    };
    metrics.membership_config.nodes().map(member).collect()
}
