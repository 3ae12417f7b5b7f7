//! Who may have a certificate, and what becomes of one in the store. No I/O: the store's content is passed in.
//!
//! Signing may take a while and fail, as an external CA may do it. So it happens first, on what a manager knows, and a
//! certificate enters the store only if all that it says still holds there.

use identity::{JoinToken, Subject};
use proto::model::{
    Availability, Certificate, Cluster, IssuanceState, Membership, Node, NodeId, NodeSpec, Role, Sensitive,
};
use raft_store::{Tables, Transaction};

use super::signer;
use crate::error::Error;

/// A certificate that has not entered the store yet.
#[derive(Clone, Debug)]
pub struct Signed {
    certificate: Certificate,
    subject: Subject,
    /// The root in whose name it was signed.
    root: Vec<u8>,
    /// The root that it was to take the place of.
    instead_of: Option<Vec<u8>>,
}

impl Signed {
    pub fn new(cluster: &Cluster, subject: Subject, csr: &str, chain: String) -> Self {
        let (root, instead_of) = roots(cluster);
        let certificate = Certificate {
            role: subject.role,
            csr: csr.as_bytes().to_vec(),
            state: IssuanceState::Issued,
            error: String::new(),
            chain: chain.into_bytes(),
            cn: subject.node.to_string(),
        };
        Self { certificate, subject, root, instead_of }
    }

    /// Whether it would be signed in the same way now, for `role`.
    fn holds(&self, cluster: &Cluster, role: Role) -> bool {
        let (root, instead_of) = roots(cluster);
        (&root, &instead_of, role) == (&self.root, &self.instead_of, self.subject.role)
    }
}

fn roots(cluster: &Cluster) -> (Vec<u8>, Option<Vec<u8>>) {
    let instead_of = cluster.root_ca.rotation.as_ref().map(|_| cluster.root_ca.cert.clone());
    (signer::wanted(&cluster.root_ca).0.to_vec(), instead_of)
}

/// Creates the node that has shown `token`, with its certificate. False: it does not hold any more, sign again.
///
/// Void if the cluster has changed since it was read: a token that was replaced opens nothing, though this manager may
/// not have heard of it yet.
pub fn admit(
    tx: &mut Transaction,
    signed: &Signed,
    token: &str,
    availability: Availability,
) -> Result<bool, Error> {
    let cluster = cluster(tx)?;
    let (id, role) = (cluster.id.clone(), role_of(cluster, token)?);
    if !signed.holds(cluster, role) {
        return Ok(false);
    }
    tx.expect_unchanged(id);
    tx.create(Node {
        id: signed.subject.node.clone(),
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
        certificate: signed.certificate.clone(),
        role,
    });
    Ok(true)
}

/// Gives a node that is known its next certificate. False: it does not hold any more, sign again.
pub fn renew(tx: &mut Transaction, signed: &Signed) -> Result<bool, Error> {
    let node = known(tx, &signed.subject.node)?;
    if !signed.holds(cluster(tx)?, node.role) {
        return Ok(false);
    }
    tx.update(Node { certificate: signed.certificate.clone(), ..node });
    Ok(true)
}

pub fn known(tables: &Tables, id: &NodeId) -> Result<Node, Error> {
    tables.node(id).map(|node| Node::clone(node)).ok_or_else(|| Error::not_found("node", id))
}

/// Both tokens are compared, whichever it is, and in constant time.
pub fn role_of(cluster: &Cluster, token: &str) -> Result<Role, Error> {
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

pub fn cluster(tables: &Tables) -> Result<&Cluster, Error> {
    let missing =
        || Error::Precondition("this manager has not caught up with the swarm yet: ask another".into());
    tables.cluster().map(|cluster| &**cluster).ok_or_else(missing)
}
