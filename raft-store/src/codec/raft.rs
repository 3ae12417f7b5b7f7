//! Raft's own types as messages.

use std::collections::{BTreeMap, BTreeSet};

use openraft::entry::RaftEntry as _;
use proto::store as wire;

use super::Malformed;
use crate::types::{
    Address, Command, Entry, LogId, Members, Payload, SnapshotMeta, StoredMembers, Vote, log_id, term,
};
use crate::{RaftId, Term};

pub(crate) fn put_log_id(id: &LogId) -> wire::LogId {
    wire::LogId { term: term(id).0, index: id.index }
}

pub(crate) fn get_log_id(id: wire::LogId) -> LogId {
    log_id(Term(id.term), id.index)
}

pub(crate) fn put_vote(vote: &Vote) -> wire::Vote {
    wire::Vote { term: vote.leader_id.term, candidate: vote.leader_id.voted_for, committed: vote.committed }
}

pub(crate) fn get_vote(vote: Option<wire::Vote>) -> Result<Vote, Malformed> {
    let vote = vote.ok_or(Malformed::missing("vote"))?;
    Ok(if vote.committed {
        Vote::new_committed(vote.term, vote.candidate)
    } else {
        Vote::new(vote.term, vote.candidate)
    })
}

pub(crate) fn put_member(raft_id: RaftId, address: &Address) -> wire::Member {
    wire::Member { raft_id, node_id: address.node_id.clone(), addr: address.addr.clone() }
}

pub(crate) fn put_members(members: &Members) -> wire::Membership {
    let configs = members.get_joint_config().iter();
    wire::Membership {
        configs: configs.map(|voters| wire::Voters { raft_ids: voters.iter().copied().collect() }).collect(),
        members: members.nodes().map(|(id, address)| put_member(*id, address)).collect(),
    }
}

pub(crate) fn get_members(members: wire::Membership) -> Result<Members, Malformed> {
    let configs: Vec<BTreeSet<RaftId>> =
        members.configs.into_iter().map(|voters| voters.raft_ids.into_iter().collect()).collect();
    let address = |m: wire::Member| (m.raft_id, Address { node_id: m.node_id, addr: m.addr });
    let nodes: BTreeMap<RaftId, Address> = members.members.into_iter().map(address).collect();
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Members::default());
    }
    Members::new(configs, nodes).map_err(|_| Malformed::missing("membership.configs"))
}

pub(crate) fn put_entry(entry: &Entry) -> wire::Entry {
    let payload = match &entry.payload {
        Payload::Blank => wire::entry::Payload::Blank(wire::Blank {}),
        Payload::Normal(command) => wire::entry::Payload::Proposal(command.0.clone()),
        Payload::Membership(members) => wire::entry::Payload::Membership(put_members(members)),
    };
    wire::Entry { log_id: Some(put_log_id(&entry.log_id())), payload: Some(payload) }
}

pub(crate) fn get_entry(entry: wire::Entry) -> Result<Entry, Malformed> {
    let id = get_log_id(entry.log_id.ok_or(Malformed::missing("entry.log_id"))?);
    let payload = match entry.payload.ok_or(Malformed::missing("entry.payload"))? {
        wire::entry::Payload::Blank(_) => Payload::Blank,
        wire::entry::Payload::Proposal(proposal) => Payload::Normal(Command(proposal)),
        wire::entry::Payload::Membership(members) => Payload::Membership(get_members(members)?),
    };
    Ok(Entry::new(id, payload))
}

pub(crate) fn put_snapshot_meta(meta: &SnapshotMeta) -> wire::SnapshotMeta {
    wire::SnapshotMeta {
        last: meta.last_log_id.as_ref().map(put_log_id),
        membership_at: meta.last_membership.log_id().as_ref().map(put_log_id),
        membership: Some(put_members(meta.last_membership.membership())),
    }
}

pub(crate) fn get_snapshot_meta(meta: wire::SnapshotMeta) -> Result<SnapshotMeta, Malformed> {
    let members = get_members(meta.membership.ok_or(Malformed::missing("snapshot.membership"))?)?;
    Ok(SnapshotMeta {
        last_log_id: meta.last.map(get_log_id),
        last_membership: StoredMembers::new(meta.membership_at.map(get_log_id), members),
    })
}
