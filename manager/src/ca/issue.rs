//! Who may have a certificate, and the certificate. No I/O: the store's content and the time are passed in.

use std::time::SystemTime;

use identity::{JoinToken, RootCa, Subject};
use proto::model::{
    Availability, Certificate, Cluster, IssuanceState, Membership, Node, NodeId, NodeSpec, Role, Sensitive,
};
use raft_store::{Tables, Transaction};

use crate::error::Error;

/// Creates the node that has shown `token`, with its certificate.
///
/// Void if the cluster has changed since it was read: a token that was replaced opens nothing, though this manager may
/// not have heard of it yet.
pub fn admit(
    tx: &mut Transaction,
    id: &NodeId,
    csr: &str,
    token: &str,
    availability: Availability,
    now: SystemTime,
) -> Result<(), Error> {
    let cluster = cluster(tx)?.id.clone();
    let node = new_node(tx, id, csr, token, availability, now)?;
    tx.expect_unchanged(cluster);
    tx.create(node);
    Ok(())
}

fn new_node(
    tables: &Tables,
    id: &NodeId,
    csr: &str,
    token: &str,
    availability: Availability,
    now: SystemTime,
) -> Result<Node, Error> {
    let role = role_of(cluster(tables)?, token)?;
    Ok(Node {
        id: id.clone(),
        meta: Default::default(),
        spec: NodeSpec {
            annotations: Default::default(),
            desired_role: role,
            membership: Membership::Accepted,
            availability,
        },
        description: None,
        status: Default::default(),
        manager: None,
        certificate: sign(tables, id, role, csr, now)?,
        role,
    })
}

/// Both tokens are compared, whichever it is, and in constant time.
fn role_of(cluster: &Cluster, token: &str) -> Result<Role, Error> {
    let tokens = &cluster.root_ca.join_tokens;
    let is = |known: &Sensitive<String>| {
        known.expose().parse::<JoinToken>().is_ok_and(|known| known.matches_text(token))
    };
    match (is(&tokens.worker), is(&tokens.manager)) {
        (_, true) => Ok(Role::Manager),
        (true, false) => Ok(Role::Worker),
        (false, false) => Err(Error::Denied(
            "the token is neither the worker's nor the manager's of this swarm: `swarmctl swarm join-token` \
             prints the current ones"
                .into(),
        )),
    }
}

/// A certificate for `id` in `role`, for the key that is in `csr`.
pub fn sign(
    tables: &Tables,
    id: &NodeId,
    role: Role,
    csr: &str,
    now: SystemTime,
) -> Result<Certificate, Error> {
    let cluster = cluster(tables)?;
    let subject = Subject { node: id.clone(), role, cluster: cluster.id.clone() };
    let signed = signer(cluster)?.sign(csr, &subject, cluster.spec.ca.node_cert_expiry, now);
    let chain = signed.map_err(|error| match error {
        identity::root_ca::Error::Request(error) => {
            Error::Refused { field: "csr".into(), reason: error.to_string() }
        }
        error => Error::Internal(error.to_string()),
    })?;
    Ok(Certificate {
        role,
        csr: csr.as_bytes().to_vec(),
        state: IssuanceState::Issued,
        error: String::new(),
        chain: chain.into_bytes(),
        cn: id.to_string(),
    })
}

/// While the root is being replaced, the next one signs, and shows that the one so far vouches for it.
fn signer(cluster: &Cluster) -> Result<RootCa, Error> {
    match &cluster.root_ca.rotation {
        None => root_ca(cluster),
        Some(next) => {
            let cross_signed = text(&next.cross_signed)?.to_owned();
            Ok(authority(&next.cert, &next.key)?.with_intermediate(cross_signed))
        }
    }
}

/// The root so far.
pub fn root_ca(cluster: &Cluster) -> Result<RootCa, Error> {
    authority(&cluster.root_ca.cert, &cluster.root_ca.key)
}

fn authority(certificate: &[u8], key: &Sensitive<Vec<u8>>) -> Result<RootCa, Error> {
    RootCa::from_pem(text(certificate)?, text(key.expose())?).map_err(unusable)
}

fn text(pem: &[u8]) -> Result<&str, Error> {
    std::str::from_utf8(pem).map_err(|_| unusable("is not text"))
}

fn unusable(why: impl std::fmt::Display) -> Error {
    Error::Internal(format!("the swarm's root CA cannot be used: {why}"))
}

fn cluster(tables: &Tables) -> Result<&Cluster, Error> {
    let missing =
        || Error::Precondition("this manager has not caught up with the swarm yet: ask another".into());
    tables.cluster().map(|cluster| &**cluster).ok_or_else(missing)
}
