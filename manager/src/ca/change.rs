//! What new settings mean for the root: another one, another signer, or nothing.
//!
//! Decides whether they can be had, and prepares the change outside of any transaction, as an external CA may have to
//! be asked. Whoever is to sign from now on is tried first, with a certificate that nobody gets. What follows from a
//! change is `rotation`'s.
//!
//! Invariant: after a change somebody can sign certificates that all nodes accept.

use std::time::{Duration, SystemTime};

use identity::certificate::Issuer;
use identity::external::{Authority, EndpointError};
use identity::{PrivateKey, RootCa, RootCertificate, Signers, Subject};
use proto::model::{Cluster, ClusterSpec, ExternalCa, NodeId, Role, RootRotation, Sensitive};

use super::signer::{self, Signer};
use crate::error::Error;

/// How long the certificate would be valid by which a signer is tried.
const PROBE: Duration = Duration::from_secs(3600);
/// Each may take its time before the next one is asked.
const MOST_SIGNERS: usize = 8;
const CERTIFICATE: &str = "spec.ca_config.signing_ca_cert";
const SIGNERS: &str = "spec.ca_config.external_cas";

/// A root to change to.
#[derive(Clone, Debug)]
pub enum Next {
    Own(RootCa),
    /// Only external CAs have its key.
    External(RootCertificate),
}

impl Next {
    pub const fn certificate(&self) -> &RootCertificate {
        match self {
            Self::Own(root) => root.certificate(),
            Self::External(root) => root,
        }
    }

    fn pem(&self) -> Vec<u8> {
        self.certificate().pem().as_bytes().to_vec()
    }

    fn key(&self) -> Sensitive<Vec<u8>> {
        match self {
            Self::Own(root) => Sensitive::new(root.key().expose_pem().as_bytes().to_vec()),
            Self::External(_) => Sensitive::default(),
        }
    }
}

/// `cluster` with the settings `spec`, and on the way to the root `next` if there is one.
pub async fn prepare(
    cluster: &Cluster,
    spec: ClusterSpec,
    next: Option<Next>,
    signers: &Signers,
    now: SystemTime,
) -> Result<Cluster, Error> {
    let mut changed = Cluster { spec, ..cluster.clone() };
    let forced = changed.spec.ca.force_rotate != cluster.root_ca.last_forced_rotation;
    changed.root_ca.last_forced_rotation = changed.spec.ca.force_rotate;
    let next = match next {
        None if forced => Some(Next::Own(generate(now)?)),
        next => next,
    };
    assign(cluster, &mut changed.spec, next.as_ref())?;
    if let Some(next) = &next {
        turn(&mut changed, next, signers).await?;
    }
    let (root, key) = signer::wanted(&changed.root_ca);
    if key.expose().is_empty() && signer::endpoints(&changed, root)?.is_empty() {
        let reason =
            "managers do not have the key of the root, so an external CA for it must be named".into();
        return Err(Error::Refused { field: SIGNERS.into(), reason });
    }
    let signer = |cluster: &Cluster| (cluster.root_ca.clone(), cluster.spec.ca.external.clone());
    let (mut before, after) = (signer(cluster), signer(&changed));
    before.0.last_forced_rotation = after.0.last_forced_rotation;
    if before != after {
        try_out(&changed, signers, now).await?;
    }
    Ok(changed)
}

fn generate(now: SystemTime) -> Result<RootCa, Error> {
    RootCa::generate(now).map_err(|error| Error::Internal(error.to_string()))
}

/// Each external CA belongs to one root from the beginning, so that none is asked to sign for a root that it does not
/// know when that has taken the place of another.
fn assign(cluster: &Cluster, spec: &mut ClusterSpec, next: Option<&Next>) -> Result<(), Error> {
    let state = &cluster.root_ca;
    let rotation = state.rotation.as_ref().map(|rotation| rotation.cert.clone());
    let roots: Vec<_> =
        [Some(state.cert.clone()), rotation, next.map(Next::pem)].into_iter().flatten().collect();
    // Of a root that was given up meanwhile.
    spec.ca.external.retain(|ca| !cluster.spec.ca.external.contains(ca) || roots.contains(&ca.root));
    let count = spec.ca.external.len();
    if count > MOST_SIGNERS {
        return Err(Error::invalid(SIGNERS, count, format!("at most {MOST_SIGNERS} are allowed")));
    }
    for number in 0..count {
        let (known, rest) = spec.ca.external.split_at_mut(number);
        let Some(ca) = rest.first_mut() else { break };
        let field = |name: &str| format!("{SIGNERS}[{number}].{name}");
        let endpoint = ca.url.parse::<identity::external::Endpoint>();
        endpoint.map_err(|error: EndpointError| Error::invalid(field("url"), &ca.url, error.to_string()))?;
        ca.root = match roots.iter().find(|root| ca.root.is_empty() || is_same(root, &ca.root)) {
            Some(root) => root.clone(),
            None => {
                let reason = "this is neither the swarm's root nor the next one: give the root's own \
                              certificate, or none for the root that there is";
                return Err(Error::Refused { field: field("ca_cert"), reason: reason.into() });
            }
        };
        if known.contains(ca) {
            return Err(Error::invalid(field("url"), &ca.url, "it is named twice"));
        }
    }
    Ok(())
}

/// The same certificate, however it is written.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let read = |pem: &[u8]| RootCertificate::from_pem(std::str::from_utf8(pem).ok()?).ok()?.single();
    one == other || read(one).is_some_and(|one| read(other) == Some(one))
}

/// `next` is to be the root; what is under way is replaced.
async fn turn(cluster: &mut Cluster, next: &Next, signers: &Signers) -> Result<(), Error> {
    let pem = next.pem();
    if cluster.root_ca.cert == pem {
        // Back to what it was before: nothing was given up yet. Whether managers have its key may be another matter now.
        cluster.root_ca.rotation = None;
        cluster.root_ca.key = next.key();
        return Ok(());
    }
    if let Some(rotation) = cluster.root_ca.rotation.as_mut().filter(|rotation| rotation.cert == pem) {
        rotation.key = next.key();
        return Ok(());
    }
    let key_of = |pem: &[u8]| Issuer::of_root(&String::from_utf8_lossy(pem)).map(|issuer| issuer.public_key);
    if key_of(&cluster.root_ca.cert) == key_of(&pem) {
        let reason = "it has the key of the root that there is: a new root needs a new key";
        return Err(Error::Refused { field: CERTIFICATE.into(), reason: reason.into() });
    }
    let cross_signed = cross_sign(cluster, next, signers).await?.into_bytes();
    cluster.root_ca.rotation = Some(RootRotation { cert: pem, key: next.key(), cross_signed });
    Ok(())
}

/// The certificate of `next`, signed in the name of the root so far.
async fn cross_sign(cluster: &Cluster, next: &Next, signers: &Signers) -> Result<String, Error> {
    if let Some(current) = signer::own(cluster)? {
        let cross_signed = current.cross_sign(next.certificate());
        return cross_signed.map_err(|error| Error::Internal(error.to_string()));
    }
    let refused = |reason: String| Error::Refused { field: CERTIFICATE.into(), reason };
    let Next::Own(next) = next else {
        let reason = "managers have neither the key of the root so far nor that of this one, so neither can vouch \
                      for the other: change to a root of the managers' own first (swarmctl swarm ca --rotate)";
        return Err(refused(reason.into()));
    };
    let root = signer::certificate(&cluster.root_ca.cert)?;
    let endpoints = signer::endpoints(cluster, &cluster.root_ca.cert)?;
    if endpoints.is_empty() {
        let reason = "managers do not have the key of the root so far: its external CA must be named, to sign \
                      the next root";
        return Err(Error::Refused { field: SIGNERS.into(), reason: reason.into() });
    }
    let authority = Authority { endpoints, root, instead_of: None };
    let cross_signed = signers.cross_sign(&authority, next).await;
    cross_signed.map_err(|error| refused(format!("the root so far does not vouch for it: {error}")))
}

/// Whether what is signed from now on is good under all roots: a certificate that somebody else has made may be odd,
/// and an external CA may not work.
async fn try_out(cluster: &Cluster, signers: &Signers, now: SystemTime) -> Result<(), Error> {
    let internal = |error: identity::private_key::Error| Error::Internal(error.to_string());
    let csr = PrivateKey::generate().map_err(internal)?.signing_request().map_err(internal)?;
    let node = NodeId::from_random(rand::random());
    let subject = Subject { node, role: Role::Worker, cluster: cluster.id.clone() };
    let signer = Signer::of(cluster)?;
    let signed = signer.sign(signers, &csr, &subject, PROBE, now).await;
    let refused = |field: &str, reason: String| Error::Refused { field: field.into(), reason };
    match (signer, signed) {
        (Signer::External(_), Ok(_)) => Ok(()),
        (Signer::External(_), Err(error)) => Err(refused(
            SIGNERS,
            format!("nothing was changed, as a certificate was asked for in vain: {error}"),
        )),
        (Signer::Own(_), signed) => {
            let state = &cluster.root_ca;
            let roots = [Some(&state.cert), state.rotation.as_ref().map(|next| &next.cert)];
            let is_good = signed.is_ok_and(|chain| {
                let good = |root: &Vec<u8>| accepts(root, &chain, now);
                roots.into_iter().flatten().all(good)
            });
            let reason = "what it signs would not be accepted by all nodes";
            if is_good { Ok(()) } else { Err(refused(CERTIFICATE, reason.into())) }
        }
    }
}

fn accepts(root: &[u8], chain: &str, now: SystemTime) -> bool {
    let certificate = identity::NodeCertificate::from_pem(chain);
    let root = signer::certificate(root);
    matches!((root, certificate), (Ok(root), Ok(certificate)) if root.verify(&certificate, now).is_ok())
}

/// Of all external CAs, those that sign in the name of `root`.
pub fn signers_of(all: &[ExternalCa], root: &[u8]) -> Vec<ExternalCa> {
    all.iter().filter(|ca| ca.root == root).cloned().collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
#[path = "../../../identity/tests/support/signer.rs"]
mod signer_bench;
#[cfg(test)]
mod tests;
