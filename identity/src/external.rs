//! Certificates that somebody else signs: an external CA, by the CFSSL sign API as SwarmKit speaks it.
//!
//! Decides how signers are asked and what of an answer is believed: a certificate for exactly the key, node, role and
//! cluster that were asked for, which everybody in the swarm will accept. Who gets one, and which signers there are, is
//! decided by the manager's CA.
//!
//! Signers are asked in turn until one has signed. One that does not work is left alone for a while, longer each time,
//! so that a crowd of nodes does not wait for it again and again.
//!
//! Invariant: what comes out was checked as if a stranger had sent it.

mod check;
mod endpoint;
mod exchange;
mod message;
mod pauses;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::certificate::{self, Subject};
use crate::root::RootCertificate;
use crate::{Clock, Credentials, RootCa, cross_sign, csr, tls};

pub use check::Error as Flaw;
pub use endpoint::{Endpoint, Error as EndpointError};
pub use exchange::Error as Failure;
use message::Order;
use pauses::Pauses;

/// SwarmKit's: of one signer, from the look-up of its name to its answer.
pub const TIMEOUT: Duration = Duration::from_secs(5);
/// SwarmKit's: of an answer.
pub const LARGEST_ANSWER: usize = 256 << 10;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Request(#[from] csr::Error),
    #[error("the certificate of the new root is malformed")]
    Root,
    #[error(transparent)]
    Tls(#[from] tls::Error),
    #[error("{0}")]
    Unsigned(Unsigned),
}

/// Why none of the signers has signed.
#[derive(Debug)]
pub struct Unsigned(Vec<(String, String)>);

impl fmt::Display for Unsigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (url, reason)) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { "; " };
            write!(f, "{separator}external CA {url}: {reason}")?;
        }
        Ok(())
    }
}

/// Who signs in the name of a root.
#[derive(Clone, Debug)]
pub struct Authority {
    /// Asked in this order.
    pub endpoints: Vec<Endpoint>,
    pub root: RootCertificate,
    /// While `root` takes the place of another.
    pub instead_of: Option<Replaced>,
}

/// A root that is being replaced.
#[derive(Clone, Debug)]
pub struct Replaced {
    pub root: RootCertificate,
    /// PEM: the certificate of the next root, signed in the name of this one.
    pub cross_signed: String,
}

impl Authority {
    /// All of them must accept what is signed.
    fn roots(&self) -> impl Iterator<Item = &RootCertificate> {
        std::iter::once(&self.root).chain(self.instead_of.as_ref().map(|replaced| &replaced.root))
    }
}

/// Asks external CAs, with the certificate of this node.
#[derive(Debug)]
pub struct Signers {
    credentials: Option<Credentials>,
    clock: Clock,
    pauses: Pauses,
}

impl Signers {
    pub fn new(credentials: Credentials, clock: Clock) -> Self {
        Self { credentials: Some(credentials), clock, pauses: Pauses::default() }
    }

    /// Of a node without a certificate: only for signers that ask for none.
    pub fn anonymous(clock: Clock) -> Self {
        Self { credentials: None, clock, pauses: Pauses::default() }
    }

    /// Has the key of `request` (PEM) signed as `subject`. The answer is the chain in PEM.
    pub async fn sign(
        &self,
        authority: &Authority,
        request: &str,
        subject: &Subject,
    ) -> Result<String, Error> {
        let key = csr::public_key(request)?;
        let wanted = check::Wanted { authority, key: &key, subject };
        let order = Order::node(request, subject);
        self.ask(authority, &order, |answer| wanted.check(answer, self.clock.now())).await
    }

    /// Has the certificate of `next` signed in the name of the root that `authority` signs for.
    pub async fn cross_sign(&self, authority: &Authority, next: &RootCa) -> Result<String, Error> {
        let root = next.signing_certificate();
        let request = cross_sign::request(&root, next.key()).ok_or(Error::Root)?;
        let order = Order::root(&request, &root).ok_or(Error::Root)?;
        self.ask(authority, &order, |answer| check::cross_signed(answer, &root)).await
    }

    async fn ask(
        &self,
        authority: &Authority,
        order: &Order,
        check: impl Fn(&str) -> Result<String, Flaw>,
    ) -> Result<String, Error> {
        let current = self.credentials.as_ref().map(Credentials::current);
        let identity = current.as_ref().map(|current| current.identity());
        let tls = tls::signer(identity, authority.roots())?;
        let mut reasons = Vec::new();
        for endpoint in &authority.endpoints {
            let url = endpoint.to_string();
            if let Some(reason) = self.pauses.of(&url) {
                reasons.push((url, reason));
                continue;
            }
            let answer = exchange::post(endpoint, Arc::clone(&tls), order).await;
            let signed = answer.and_then(|answer| Ok(check(&answer)?));
            self.pauses.note(&url, signed.as_ref().err());
            match signed {
                Ok(signed) => return Ok(signed),
                Err(error) => {
                    tracing::warn!(%url, %error, "an external CA has not signed");
                    reasons.push((url, error.to_string()));
                }
            }
        }
        Err(Error::Unsigned(Unsigned(reasons)))
    }
}

/// The first certificate of an answer, alone.
fn first(pem: &str) -> Result<pem::Pem, certificate::Error> {
    let parsed = pem::parse(pem).map_err(|error| certificate::Error::Pem(error.to_string()))?;
    if parsed.tag() == "CERTIFICATE" { Ok(parsed) } else { Err(certificate::Error::Malformed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_signers_and_their_reasons_are_named() {
        let reasons = [("https://a/sign", "no answer within 5s"), ("https://b", "it refused: no")];
        let unsigned = Unsigned(reasons.map(|(url, reason)| (url.into(), reason.into())).into());
        assert_eq!(
            unsigned.to_string(),
            "external CA https://a/sign: no answer within 5s; external CA https://b: it refused: no"
        );
    }
}
