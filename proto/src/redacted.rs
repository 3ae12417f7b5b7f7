//! `Debug` of messages that hold secrets: all but the secrets.
//!
//! Which fields are secret is marked in the `.proto` files (`debug_redact`), and so are bytes that hold whole
//! encoded objects. The build script leaves the messages concerned without `Debug`, so none is forgotten
//! here.

use std::fmt::{Debug, Formatter, Result};

use crate::{local, network, raft, store, wire};

/// Stands for a secret. Its length tells whether there is one, and helps where replication is looked into.
struct Redacted(usize);

impl Debug for Redacted {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "[redacted, {} bytes]", self.0)
    }
}

macro_rules! redacted {
    ($($message:ty { $($shown:ident),* $(; $($secret:ident),+)? })+) => {$(
        impl Debug for $message {
            fn fmt(&self, f: &mut Formatter<'_>) -> Result {
                let mut shown = f.debug_struct(stringify!($message));
                $(shown.field(stringify!($shown), &self.$shown);)*
                $($(shown.field(stringify!($secret), &Redacted(self.$secret.len()));)+)?
                shown.finish()
            }
        }
    )+};
}

// Fields in the order of their numbers; after the semicolon, the secret ones.
redacted! {
    wire::CaConfig { node_cert_expiry, external_cas, signing_ca_cert, force_rotate; signing_ca_key }
    wire::GetUnlockKeyResponse { version; unlock_key }
    wire::EncryptionKey { subsystem, algorithm, lamport_time; key }
    wire::IssueNodeCertificateRequest { csr, availability; token }
    wire::JoinTokens { ; worker, manager }
    wire::RootCa { ca_cert, ca_cert_hash, join_tokens, root_rotation, last_forced_rotation; ca_key }
    wire::RootRotation { ca_cert, cross_signed_ca_cert; ca_key }
    wire::container_spec::PullOptions { ; registry_auth }
    local::JoinRequest { remote_addrs, listen_addr, advertise_addr, data_path_addr, availability; token }
    local::UnlockRequest { ; unlock_key }
    raft::SnapshotPart { part }
    network::NetworkKey { generation; secret }
    store::Entry { log_id, payload }
    store::NetworkKey { generation; secret }
}

impl Debug for raft::ProposeRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let more: Vec<_> = self.more.iter().map(|proposal| Redacted(proposal.len())).collect();
        let proposal = Redacted(self.proposal.len());
        f.debug_struct("ProposeRequest").field("proposal", &proposal).field("more", &more).finish()
    }
}

impl Debug for raft::snapshot_part::Part {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Header(header) => f.debug_tuple("Header").field(header).finish(),
            Self::Chunk(chunk) => f.debug_tuple("Chunk").field(&Redacted(chunk.len())).finish(),
            Self::End(end) => f.debug_tuple("End").field(end).finish(),
        }
    }
}

impl Debug for store::entry::Payload {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Blank(_) => f.write_str("Blank"),
            Self::Proposal(proposal) => f.debug_tuple("Proposal").field(&Redacted(proposal.len())).finish(),
            Self::Membership(membership) => f.debug_tuple("Membership").field(membership).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model;

    const SECRET: &str = "hunter2";

    fn hides(message: &dyn Debug, shown: &str) {
        let text = format!("{message:?}");
        let numbers = format!("{:?}", SECRET.as_bytes());
        let numbers = numbers.trim_matches(['[', ']']);
        assert!(!text.contains(SECRET) && !text.contains(numbers), "{text}");
        assert!(text.contains("redacted") && text.contains(shown), "{text}");
    }

    #[test]
    fn secrets_of_the_swarm_are_not_shown() {
        let join_tokens = wire::JoinTokens { worker: SECRET.into(), manager: SECRET.into() };
        let ca_cert_hash = "digest".into();
        let root = wire::RootCa {
            ca_key: SECRET.into(),
            ca_cert_hash,
            join_tokens: Some(join_tokens),
            ..Default::default()
        };
        let root_ca = model::RootCa::from(root.clone());
        let cluster = wire::Cluster { root_ca: Some(root), ..Default::default() };
        hides(&cluster, "digest");
        hides(&root_ca, "digest");
        hides(&wire::EncryptionKey { key: SECRET.into(), lamport_time: 71, ..Default::default() }, "71");
        hides(
            &wire::CaConfig { signing_ca_key: SECRET.into(), force_rotate: 71, ..Default::default() },
            "71",
        );
    }

    #[test]
    fn tokens_and_credentials_are_not_shown() {
        let token = || SECRET.to_owned();
        hides(&wire::IssueNodeCertificateRequest { token: token(), ..Default::default() }, "csr");
        hides(&local::JoinRequest { token: token(), listen_addr: "any".into(), ..Default::default() }, "any");
        let pull_options = Some(wire::container_spec::PullOptions { registry_auth: token() });
        hides(&wire::ContainerSpec { pull_options, image: "nginx".into(), ..Default::default() }, "nginx");
    }

    #[test]
    fn keys_of_networks_are_not_shown() {
        let key = network::NetworkKey { generation: 71, secret: SECRET.into() };
        hides(&network::Encryption { keys: vec![key], ..Default::default() }, "71");
        let key = store::NetworkKey { generation: 71, secret: SECRET.into() };
        let keyring = store::Keyring { id: "n1".into(), keys: vec![key], ..Default::default() };
        hides(&keyring, "71");
        let read = model::Keyring::try_from(keyring).unwrap_err();
        assert!(!read.to_string().contains(SECRET));
        let key = model::NetworkKey { generation: 71, secret: model::Sensitive::new(SECRET.into()) };
        hides(&key, "71");
    }

    #[test]
    fn encoded_objects_are_not_shown() {
        let log_id = Some(store::LogId { term: 3, index: 71 });
        let payload = Some(store::entry::Payload::Proposal(SECRET.into()));
        hides(&store::Entry { log_id, payload }, "71");
        hides(&raft::ProposeRequest { proposal: SECRET.into(), more: vec![SECRET.into()] }, "7 bytes");
        let part = Some(raft::snapshot_part::Part::Chunk(SECRET.into()));
        hides(&raft::SnapshotPart { part }, "Chunk");
    }
}
