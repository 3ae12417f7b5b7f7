//! Keys of encrypted networks, as managers keep them.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::Error;
use super::scalar::{each, id, meta_in, meta_out, required};
use crate::model::{Keyring, KeyringMember, NetworkKey, NodeId, SECRET_BYTES, Sensitive};
use crate::store;

impl TryFrom<store::Keyring> for Keyring {
    type Error = Error;

    fn try_from(keyring: store::Keyring) -> Result<Self, Error> {
        let since = required("since", keyring.since)?;
        let keys: Vec<NetworkKey> = each("keys", keyring.keys, NetworkKey::try_from)?;
        if !keys.iter().any(|key| key.generation == keyring.sending) {
            return Err(Error::invalid("sending", keyring.sending, "the generation of a key"));
        }
        Ok(Self {
            id: id("id", keyring.id)?,
            meta: meta_in(keyring.meta)?,
            keys,
            sending: keyring.sending,
            epoch: keyring.epoch,
            since: SystemTime::try_from(since).map_err(|_| Error::invalid("since", "", "a time"))?,
            wanted: keyring.wanted,
            members: members_in(keyring.members)?,
            roster: keyring.roster,
            settled: keyring.settled,
        })
    }
}

impl From<&Keyring> for store::Keyring {
    fn from(keyring: &Keyring) -> Self {
        Self {
            id: keyring.id.to_string(),
            meta: meta_out(&keyring.meta),
            keys: keyring.keys.iter().map(Into::into).collect(),
            sending: keyring.sending,
            epoch: keyring.epoch,
            since: Some(keyring.since.into()),
            wanted: keyring.wanted,
            members: keyring.members.iter().map(|(node, member)| (node.to_string(), member.into())).collect(),
            roster: keyring.roster,
            settled: keyring.settled,
        }
    }
}

fn members_in(
    members: BTreeMap<String, store::KeyringMember>,
) -> Result<BTreeMap<NodeId, KeyringMember>, Error> {
    let read = |(node, member): (String, store::KeyringMember)| {
        let incarnation = member.incarnation.as_slice().try_into();
        let refuse = |_| Error::invalid("members", format!("{} bytes", member.incarnation.len()), "16 bytes");
        let read = KeyringMember {
            incarnation: incarnation.map_err(refuse)?,
            confirmed: member.confirmed,
            since: member.since,
            receives: member.receives,
            sends: member.sends,
            held: member.held,
        };
        Ok((NodeId::from(node), read))
    };
    members.into_iter().map(read).collect()
}

impl From<&KeyringMember> for store::KeyringMember {
    fn from(member: &KeyringMember) -> Self {
        Self {
            incarnation: member.incarnation.to_vec(),
            confirmed: member.confirmed,
            since: member.since,
            receives: member.receives,
            sends: member.sends,
            held: member.held,
        }
    }
}

impl TryFrom<store::NetworkKey> for NetworkKey {
    type Error = Error;

    fn try_from(key: store::NetworkKey) -> Result<Self, Error> {
        if key.secret.len() != SECRET_BYTES {
            return Err(Error::invalid("secret", format!("{} bytes", key.secret.len()), "32 bytes"));
        }
        Ok(Self { generation: key.generation, secret: Sensitive::new(key.secret) })
    }
}

impl From<&NetworkKey> for store::NetworkKey {
    fn from(key: &NetworkKey) -> Self {
        Self { generation: key.generation, secret: key.secret.expose().clone() }
    }
}
