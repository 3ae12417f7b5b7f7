//! Replaces the root certificate while everything goes on.
//!
//! The cluster object holds the state: the root so far, and beside it the next one with its certificate signed by the
//! old key. From the beginning on the next key signs what nodes ask for, and the cross-signed certificate goes along,
//! so that it is good under either root. Each node is asked to renew; once all say that the next root has issued
//! their certificates, it takes the old one's place and the join tokens change. Nodes then are told the new root.
//!
//! Begins at an operator's word, in the same transaction as the change of settings; goes on in a loop of the leader.
//! All is read off the store, so a new leader goes on where the old one stopped.
//!
//! Invariant: the old root goes only when no node needs it.

use std::time::{Duration, SystemTime};

use identity::certificate::Issuer;
use identity::{JoinToken, RootCa, RootCertificate, Subject};
use proto::model::{
    Cluster, IssuanceState, JoinTokens, Node, NodeId, Role, RootCa as State, RootRotation, Sensitive,
};
use raft_store::{Change, Object, Tables, Transaction};

use crate::error::Error;
use crate::reconcile::{Plan, Planned, Scope};

/// Nodes that are asked in one entry of the log, so that they do not all come at once.
const AT_ONCE: usize = 200;
/// How long the certificate would be valid by which a new root is tried.
const PROBE: Duration = Duration::from_secs(3600);

/// `next` is to be the root; what is under way is replaced.
pub fn begin(cluster: &mut Cluster, next: &RootCa, now: SystemTime) -> Result<(), Error> {
    let key = Sensitive::new(next.key().expose_pem().as_bytes().to_vec());
    let cert = next.certificate().pem().as_bytes().to_vec();
    if cert == cluster.root_ca.cert {
        // Back to what it was before: nothing was given up yet.
        cluster.root_ca.rotation = None;
        return Ok(());
    }
    if let Some(rotation) = &cluster.root_ca.rotation
        && rotation.cert == cert
    {
        return Ok(());
    }
    let refused = |reason: &str| Error::Refused {
        field: "spec.ca_config.signing_ca_cert".into(),
        reason: reason.into(),
    };
    let current = super::issue::root_ca(cluster)?;
    if current.key().public_key() == next.key().public_key() {
        return Err(refused("it has the key of the root that there is: a new root needs a new key"));
    }
    let cross_signed = current.cross_sign(next.certificate());
    let cross_signed = cross_signed.map_err(|error| Error::Internal(error.to_string()))?;
    if !is_good(next, &current, &cross_signed, now) {
        return Err(refused("what it signs would not be accepted by all nodes"));
    }
    cluster.root_ca.rotation = Some(RootRotation { cert, key, cross_signed: cross_signed.into_bytes() });
    Ok(())
}

/// Whether what `next` signs is good under both roots: a certificate that somebody else has made may be odd.
fn is_good(next: &RootCa, current: &RootCa, cross_signed: &str, now: SystemTime) -> bool {
    let subject = Subject { node: "probe".into(), role: Role::Manager, cluster: "probe".into() };
    let next = next.clone().with_intermediate(cross_signed.to_owned());
    next.issue(&subject, PROBE, now).is_ok_and(|probe| {
        let good = |root: &RootCa| root.certificate().verify(probe.certificate(), now).is_ok();
        good(current) && good(&next)
    })
}

/// Who must have issued the certificates of all nodes.
fn wanted(cluster: &Cluster) -> Option<Issuer> {
    let rotation = cluster.root_ca.rotation.as_ref()?;
    Issuer::of_root(&String::from_utf8_lossy(&rotation.cert))
}

fn is_issued_by(node: &Node, issuer: &Issuer) -> bool {
    let told = node.description.as_ref().and_then(|description| description.tls.as_ref());
    told.is_some_and(|told| {
        told.issuer_subject == issuer.subject && told.issuer_public_key == issuer.public_key
    })
}

/// Whether the node, which has just told of itself, is to be asked for another certificate.
pub fn is_behind(tables: &Tables, node: &Node) -> bool {
    let wanted = tables.cluster().and_then(|cluster| wanted(cluster));
    wanted.is_some_and(|wanted| !is_issued_by(node, &wanted))
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The node shall renew its certificate.
    Ask(NodeId),
    /// The root with this certificate takes the place of the old one.
    Finish(Vec<u8>),
}

/// The loop.
pub struct Rotation;

impl Plan for Rotation {
    const NAME: &'static str = "root rotation";
    type Key = ();
    type Action = Action;

    fn keys(&self, change: &Change, view: &Tables) -> Vec<()> {
        let rotates = view.cluster().is_some_and(|cluster| cluster.root_ca.rotation.is_some());
        let concerned = matches!(change.object(), Object::Node(_) | Object::Cluster(_));
        if rotates && concerned { vec![()] } else { Vec::new() }
    }

    fn plan(&self, view: &Tables, _: &Scope<()>, _: SystemTime) -> Planned<(), Action> {
        let actions = view.cluster().map(|cluster| plan(view, cluster)).unwrap_or_default();
        Planned { actions, ..Planned::default() }
    }

    fn commit(&self, action: &Action, _: SystemTime, tx: &mut Transaction) {
        match action {
            Action::Ask(id) => ask(id, tx),
            Action::Finish(cert) => finish(cert, tx),
        }
    }
}

fn plan(view: &Tables, cluster: &Cluster) -> Vec<Action> {
    let (Some(wanted), Some(rotation)) = (wanted(cluster), &cluster.root_ca.rotation) else {
        return Vec::new();
    };
    let mut behind = view.nodes().filter(|node| !is_issued_by(node, &wanted)).peekable();
    if behind.peek().is_none() {
        return vec![Action::Finish(rotation.cert.clone())];
    }
    let unasked = behind.filter(|node| needs_asking(node, &wanted)).take(AT_ONCE);
    unasked.map(|node| Action::Ask(node.id.clone())).collect()
}

/// Who was asked, or was given a certificate and has not told of it yet, is waited for. A session that begins with the
/// old certificate asks again.
fn needs_asking(node: &Node, wanted: &Issuer) -> bool {
    if node.certificate.state == IssuanceState::Rotate {
        return false;
    }
    let chain = String::from_utf8_lossy(&node.certificate.chain);
    Issuer::of_chain(&chain).as_ref() != Some(wanted)
}

fn ask(id: &NodeId, tx: &mut Transaction) {
    let wanted = tx.cluster().and_then(|cluster| wanted(cluster));
    let Some(node) = tx.node(id).map(|node| Node::clone(node)) else { return };
    if wanted.is_some_and(|wanted| !is_issued_by(&node, &wanted) && needs_asking(&node, &wanted)) {
        let certificate = proto::model::Certificate { state: IssuanceState::Rotate, ..node.certificate };
        tx.update(Node { certificate, ..node });
    }
}

fn finish(cert: &[u8], tx: &mut Transaction) {
    let Some(cluster) = tx.cluster().map(|cluster| Cluster::clone(cluster)) else { return };
    let Some(rotation) = cluster.root_ca.rotation.clone().filter(|rotation| rotation.cert == cert) else {
        return;
    };
    let is_done = plan(tx, &cluster) == [Action::Finish(cert.to_vec())];
    let (true, Some(root_ca)) = (is_done, successor(&cluster.root_ca, rotation)) else { return };
    tracing::info!(root = root_ca.cert_digest, "the root certificate was replaced");
    tx.update(Cluster { root_ca, ..cluster });
}

/// None if there is no randomness for tokens: it is tried again.
fn successor(old: &State, rotation: RootRotation) -> Option<State> {
    let certificate = RootCertificate::from_pem(&String::from_utf8_lossy(&rotation.cert)).ok()?;
    let digest = certificate.digest();
    let token = || JoinToken::generate(digest).ok().map(|token| Sensitive::new(token.to_string()));
    Some(State {
        key: rotation.key,
        cert: rotation.cert,
        cert_digest: format!("sha256:{digest}"),
        join_tokens: JoinTokens { worker: token()?, manager: token()? },
        rotation: None,
        last_forced_rotation: old.last_forced_rotation,
    })
}

#[cfg(test)]
mod tests;
