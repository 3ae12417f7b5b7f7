//! What a node trusts: the cluster's root certificate, and its digest, which join tokens carry.
//!
//! The digest is the SHA-256 of the PEM text exactly as a manager serves it, the whole bundle if there are several
//! certificates: SwarmKit computes it so, and hashing one certificate of a bundle would let the others in unchecked.
//! The text is therefore kept as it came and never written anew.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use crate::certificate::NodeCertificate;
use crate::dial::clock;
use crate::tls;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the root certificate is not PEM: {0}")]
    Pem(String),
    #[error("the root certificate is missing")]
    Empty,
    #[error("the root certificate is not a self-signed CA certificate")]
    NotRoot,
    #[error("the certificate was not issued by this swarm's root or is not valid now")]
    Untrusted(#[source] rustls::Error),
    #[error("{0}")]
    Time(String),
}

/// SHA-256 of the root certificate's PEM.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RootDigest([u8; 32]);

impl RootDigest {
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The digest of PEM text, whatever it holds.
    pub fn of(pem: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, pem);
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl fmt::Display for RootDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RootDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootDigest({self})")
    }
}

#[derive(Clone)]
pub struct RootCertificate {
    pem: Arc<str>,
    anchors: Arc<RootCertStore>,
}

impl RootCertificate {
    /// Takes one self-signed CA certificate or a bundle of them.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        let mut anchors = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|error| Error::Pem(error.to_string()))?;
            require_self_signed(&certificate)?;
            anchors.add(certificate).map_err(|_| Error::NotRoot)?;
        }
        if anchors.is_empty() {
            return Err(Error::Empty);
        }
        Ok(Self { pem: pem.into(), anchors: Arc::new(anchors) })
    }

    pub fn pem(&self) -> &str {
        &self.pem
    }

    pub fn digest(&self) -> RootDigest {
        RootDigest::of(self.pem.as_bytes())
    }

    /// Whether it is one certificate, and valid at `time`.
    pub fn is_valid_until(&self, time: SystemTime) -> bool {
        let Some(first) = self.single() else { return false };
        let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let parsed = x509_parser::parse_x509_certificate(&first);
        parsed.is_ok_and(|(_, parsed)| {
            u64::try_from(parsed.validity().not_after.timestamp()).is_ok_and(|until| until > since_epoch)
        })
    }

    /// DER of the certificate, if there is no other.
    pub fn single(&self) -> Option<CertificateDer<'static>> {
        let mut certificates = CertificateDer::pem_slice_iter(self.pem.as_bytes());
        let (first, rest) = (certificates.next(), certificates.next());
        first.filter(|_| rest.is_none())?.ok()
    }

    pub(crate) fn anchors(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.anchors)
    }

    /// Whether `certificate` chains to this root and is valid at `now`.
    pub fn verify(&self, certificate: &NodeCertificate, now: SystemTime) -> Result<(), Error> {
        let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (leaf, intermediates) = certificate.split_chain();
        tls::chain_verifier(self)
            .verify_client_cert(leaf, intermediates, UnixTime::since_unix_epoch(since_epoch))
            .map(drop)
            .map_err(|error| clock::complaint(&error).map_or(Error::Untrusted(error), Error::Time))
    }
}

impl RootCertificate {
    /// Whether clients that know this root will take `certificate` for that of the server `name`, at `now`.
    pub(crate) fn verify_server(
        &self,
        certificate: &NodeCertificate,
        name: &str,
        now: SystemTime,
    ) -> Result<(), Error> {
        let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (leaf, intermediates) = certificate.split_chain();
        let unusable =
            || Error::Untrusted(rustls::Error::General(format!("{name:?} is no name of a server")));
        let name = ServerName::try_from(name).map_err(|_| unusable())?;
        tls::server_verifier(self.anchors())
            .verify_server_cert(leaf, intermediates, &name, &[], UnixTime::since_unix_epoch(since_epoch))
            .map(drop)
            .map_err(|error| clock::complaint(&error).map_or(Error::Untrusted(error), Error::Time))
    }
}

impl PartialEq for RootCertificate {
    fn eq(&self, other: &Self) -> bool {
        self.pem == other.pem
    }
}

impl Eq for RootCertificate {}

impl fmt::Debug for RootCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootCertificate({})", self.digest())
    }
}

fn require_self_signed(certificate: &CertificateDer<'_>) -> Result<(), Error> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|_| Error::NotRoot)?;
    parsed.verify_signature(None).map_err(|_| Error::NotRoot)?;
    if parsed.is_ca() { Ok(()) } else { Err(Error::NotRoot) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RootCa;

    #[test]
    fn the_digest_covers_the_text() {
        let root = RootCa::generate(SystemTime::now()).unwrap().certificate().clone();
        let spaced = RootCertificate::from_pem(&format!("{}\n", root.pem())).unwrap();
        assert_ne!(root.digest(), spaced.digest());
        assert_eq!(
            RootDigest::of(b"").to_string(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }

    #[test]
    fn what_is_no_root_is_refused() {
        assert!(matches!(RootCertificate::from_pem("text"), Err(Error::Empty)));
        let block = pem::encode(&pem::Pem::new("CERTIFICATE", [0x30, 0]));
        assert!(matches!(RootCertificate::from_pem(&block), Err(Error::NotRoot)));
    }
}
