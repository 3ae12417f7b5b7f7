//! Objects and proposals as messages. What an object looks like on the wire is decided in `proto`.

pub(crate) mod raft;
pub(crate) mod violation;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use prost::Message;
use prost::bytes::Bytes;
use proto::store as wire;

use crate::change_set::{Proposal, ProposalId, Write};
use crate::{Object, ObjectId, Term};

/// A message that no manager of this version writes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed message: {0}")]
pub(crate) struct Malformed(String);

impl Malformed {
    pub(crate) fn missing(field: &'static str) -> Self {
        Self(format!("{field} is missing"))
    }

    pub(crate) fn bad(error: impl fmt::Display) -> Self {
        Self(error.to_string())
    }
}

pub(crate) fn put_object(object: &Object) -> wire::Object {
    use wire::object::Kind;
    let kind = match object {
        Object::Node(node) => Kind::Node((&**node).into()),
        Object::Service(service) => Kind::Service((&**service).into()),
        Object::Task(task) => Kind::Task((&**task).into()),
        Object::Network(network) => Kind::Network((&**network).into()),
        Object::Cluster(cluster) => Kind::Cluster((&**cluster).into()),
        Object::Keyring(keyring) => Kind::Keyring((&**keyring).into()),
    };
    wire::Object { kind: Some(kind) }
}

pub(crate) fn get_object(object: wire::Object) -> Result<Object, Malformed> {
    use wire::object::Kind;
    Ok(match object.kind.ok_or(Malformed::missing("object"))? {
        Kind::Node(node) => Object::Node(Arc::new(node.try_into().map_err(Malformed::bad)?)),
        Kind::Service(service) => Object::Service(Arc::new(service.try_into().map_err(Malformed::bad)?)),
        Kind::Task(task) => Object::Task(Arc::new(task.try_into().map_err(Malformed::bad)?)),
        Kind::Network(network) => Object::Network(Arc::new(network.try_into().map_err(Malformed::bad)?)),
        Kind::Cluster(cluster) => Object::Cluster(Arc::new(cluster.try_into().map_err(Malformed::bad)?)),
        Kind::Keyring(keyring) => Object::Keyring(Arc::new(keyring.try_into().map_err(Malformed::bad)?)),
    })
}

pub(crate) fn put_id(id: &ObjectId) -> wire::ObjectId {
    use wire::object_id::Kind;
    let text = id.as_str().to_owned();
    let kind = match id {
        ObjectId::Node(_) => Kind::Node(text),
        ObjectId::Service(_) => Kind::Service(text),
        ObjectId::Task(_) => Kind::Task(text),
        ObjectId::Network(_) => Kind::Network(text),
        ObjectId::Cluster(_) => Kind::Cluster(text),
        ObjectId::Keyring(_) => Kind::Keyring(text),
    };
    wire::ObjectId { kind: Some(kind) }
}

pub(crate) fn get_id(id: Option<wire::ObjectId>) -> Result<ObjectId, Malformed> {
    use wire::object_id::Kind;
    Ok(match id.and_then(|id| id.kind).ok_or(Malformed::missing("object id"))? {
        Kind::Node(id) => ObjectId::Node(id.into()),
        Kind::Service(id) => ObjectId::Service(id.into()),
        Kind::Task(id) => ObjectId::Task(id.into()),
        Kind::Network(id) => ObjectId::Network(id.into()),
        Kind::Cluster(id) => ObjectId::Cluster(id.into()),
        Kind::Keyring(id) => ObjectId::Keyring(id.into()),
    })
}

pub(crate) fn put_proposal_id(id: ProposalId) -> Vec<u8> {
    id.to_be_bytes().to_vec()
}

pub(crate) fn get_proposal_id(id: &[u8]) -> Result<ProposalId, Malformed> {
    let id = id.try_into().map_err(|_| Malformed::missing("proposal id of sixteen bytes"))?;
    Ok(ProposalId::from_be_bytes(id))
}

fn put_versioned((id, version): &(ObjectId, u64)) -> wire::Versioned {
    wire::Versioned { id: Some(put_id(id)), version: *version }
}

fn put_write(write: &Write) -> wire::Write {
    use wire::write::Kind;
    let kind = match write {
        Write::Create(object) => Kind::Create(put_object(object)),
        Write::Update(object) => Kind::Update(put_object(object)),
        Write::Remove { id, version } => Kind::Remove(put_versioned(&(id.clone(), *version))),
    };
    wire::Write { kind: Some(kind) }
}

fn get_write(write: wire::Write) -> Result<Write, Malformed> {
    use wire::write::Kind;
    Ok(match write.kind.ok_or(Malformed::missing("write"))? {
        Kind::Create(object) => Write::Create(get_object(object)?),
        Kind::Update(object) => Write::Update(get_object(object)?),
        Kind::Remove(removed) => Write::Remove { id: get_id(removed.id)?, version: removed.version },
    })
}

pub(crate) fn encode_proposal(proposal: &Proposal) -> Bytes {
    let message = wire::Proposal {
        id: put_proposal_id(proposal.id),
        base: proposal.base,
        at: Some(proposal.at.into()),
        term: proposal.term.map(|term| term.0),
        writes: proposal.writes.iter().map(put_write).collect(),
        expected: proposal.expected.iter().map(put_versioned).collect(),
    };
    message.encode_to_vec().into()
}

pub(crate) fn decode_proposal(bytes: &[u8]) -> Result<Proposal, Malformed> {
    let message = wire::Proposal::decode(bytes).map_err(Malformed::bad)?;
    let at = message.at.ok_or(Malformed::missing("proposal.at"))?;
    let expected = message.expected.into_iter().map(|e| Ok((get_id(e.id)?, e.version)));
    let writes: Vec<Write> = message.writes.into_iter().map(get_write).collect::<Result<_, _>>()?;
    let mut ids = BTreeSet::new();
    if !writes.iter().all(|write| ids.insert(write.id())) {
        return Err(Malformed::bad("an object is written twice"));
    }
    Ok(Proposal {
        id: get_proposal_id(&message.id)?,
        base: message.base,
        at: at.try_into().map_err(Malformed::bad)?,
        term: message.term.map(Term),
        writes,
        expected: expected.collect::<Result<_, Malformed>>()?,
    })
}
