//! Who signs certificates: the managers, with the key of the root, or external CAs that have it.
//!
//! Read off the cluster object. Where there are external CAs for the root that is wanted, they sign and nobody else, also
//! if the managers have its key: who has set up a signer wants to see every certificate there.

use std::time::{Duration, SystemTime};

use identity::external::{self, Authority, Endpoint, Replaced};
use identity::{RootCa, RootCertificate, Signers, Subject, root_ca};
use proto::model::{Cluster, RootCa as State, Sensitive};

use crate::error::Error;

pub enum Signer {
    Own(Box<RootCa>),
    External(Authority),
}

/// The root in whose name certificates are issued now (PEM), with its key, which is empty if managers do not have it.
pub fn wanted(root_ca: &State) -> (&[u8], &Sensitive<Vec<u8>>) {
    match &root_ca.rotation {
        None => (&root_ca.cert, &root_ca.key),
        Some(next) => (&next.cert, &next.key),
    }
}

impl Signer {
    /// While the root is being replaced, the next one signs, and shows that the one so far vouches for it.
    pub fn of(cluster: &Cluster) -> Result<Self, Error> {
        let (root, key) = wanted(&cluster.root_ca);
        let endpoints = endpoints(cluster, root)?;
        let rotation = cluster.root_ca.rotation.as_ref();
        let cross_signed = rotation.map(|next| text(&next.cross_signed).map(str::to_owned)).transpose()?;
        if endpoints.is_empty() {
            let own = authority(root, key)?;
            let own = cross_signed.into_iter().fold(own, RootCa::with_intermediate);
            return Ok(Self::Own(Box::new(own)));
        }
        let replaced =
            |cross_signed| certificate(&cluster.root_ca.cert).map(|root| Replaced { root, cross_signed });
        Ok(Self::External(Authority {
            endpoints,
            root: certificate(root)?,
            instead_of: cross_signed.map(replaced).transpose()?,
        }))
    }

    /// A chain in PEM for the key of `csr`. An external CA decides itself how long it is valid.
    pub async fn sign(
        &self,
        signers: &Signers,
        csr: &str,
        subject: &Subject,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<String, Error> {
        match self {
            Self::Own(root) => root.sign(csr, subject, lifetime, now).map_err(|error| match error {
                root_ca::Error::Request(error) => refused_request(&error),
                error => Error::Internal(error.to_string()),
            }),
            Self::External(authority) => {
                signers.sign(authority, csr, subject).await.map_err(|error| match error {
                    external::Error::Request(error) => refused_request(&error),
                    error => Error::Unavailable(error.to_string()),
                })
            }
        }
    }
}

fn refused_request(error: &identity::csr::Error) -> Error {
    Error::Refused { field: "csr".into(), reason: error.to_string() }
}

/// Where the external CAs are that sign in the name of `root`.
pub fn endpoints(cluster: &Cluster, root: &[u8]) -> Result<Vec<Endpoint>, Error> {
    let of_root = cluster.spec.ca.external.iter().filter(|ca| ca.root == root);
    of_root.map(|ca| ca.url.parse().map_err(unusable)).collect()
}

/// The root so far; none if managers do not have its key.
pub fn own(cluster: &Cluster) -> Result<Option<RootCa>, Error> {
    let State { cert, key, .. } = &cluster.root_ca;
    (!key.expose().is_empty()).then(|| authority(cert, key)).transpose()
}

fn authority(certificate: &[u8], key: &Sensitive<Vec<u8>>) -> Result<RootCa, Error> {
    if key.expose().is_empty() {
        return Err(unusable("only an external CA has its key, and none is set"));
    }
    RootCa::from_pem(text(certificate)?, text(key.expose())?).map_err(unusable)
}

pub fn certificate(pem: &[u8]) -> Result<RootCertificate, Error> {
    RootCertificate::from_pem(text(pem)?).map_err(unusable)
}

fn text(pem: &[u8]) -> Result<&str, Error> {
    std::str::from_utf8(pem).map_err(|_| unusable("is not text"))
}

fn unusable(why: impl std::fmt::Display) -> Error {
    Error::Internal(format!("the swarm's root CA cannot be used: {why}"))
}
