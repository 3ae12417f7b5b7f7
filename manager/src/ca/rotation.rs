//! Replaces the root certificate while everything goes on.
//!
//! The cluster object holds the state: the root so far, and beside it the next one with its certificate signed by the
//! old key. From the beginning on the next root signs what nodes ask for, and the cross-signed certificate goes along,
//! so that it is good under either root. Each node is asked to renew; once all say that the next root has issued
//! their certificates, it takes the old one's place and the join tokens change. Nodes then are told the new root.
//!
//! Begins at an operator's word, with the change of settings (`change`); goes on in a loop of the leader.
//! All is read off the store, so a new leader goes on where the old one stopped.
//!
//! Invariant: the old root goes only when no node needs it.

use std::time::SystemTime;

use identity::certificate::Issuer;
use identity::{JoinToken, RootCertificate};
use proto::model::{
    CaConfig, Cluster, ClusterSpec, IssuanceState, JoinTokens, Node, NodeId, RootCa as State, RootRotation,
    Sensitive,
};
use raft_store::{Change, Object, Tables, Transaction};

use super::change;
use crate::reconcile::{Plan, Planned, Scope};

/// Nodes that are asked in one entry of the log, so that they do not all come at once.
const AT_ONCE: usize = 200;

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
    // The others have nobody any more to sign for.
    let external = change::signers_of(&cluster.spec.ca.external, cert);
    let ca = CaConfig { external, ..cluster.spec.ca };
    tx.update(Cluster { root_ca, spec: ClusterSpec { ca, ..cluster.spec }, ..cluster });
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
