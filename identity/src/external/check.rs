//! What must hold of a certificate that an external CA has signed.
//!
//! The signer knows the key of the root, so it could make itself any node; what it must not do is to put a node, by
//! mistake, in another role or place than the managers decided.

use std::time::SystemTime;

use rcgen::{PublicKeyData as _, SubjectPublicKeyInfo};
use rustls::pki_types::CertificateDer;

use super::{Authority, first};
use crate::certificate::{self, NodeCertificate, Subject, names_of, role_name};
use crate::root::{self, RootCertificate};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Certificate(#[from] certificate::Error),
    #[error("it has another key than the request")]
    Key,
    #[error("it is for {what} {found:?}; {wanted:?} was asked for")]
    Other { what: &'static str, wanted: String, found: String },
    #[error("it is for the names {found:?}; {wanted:?} were asked for")]
    Names { wanted: Vec<String>, found: Vec<String> },
    #[error("it is that of a CA")]
    Ca,
    #[error("it is not that of a CA")]
    NoCa,
    #[error("{0}")]
    Untrusted(String),
    #[error("its subject is written in another way than that of the new root")]
    Subject,
}

/// What was asked for.
pub(super) struct Wanted<'a> {
    pub(super) authority: &'a Authority,
    pub(super) key: &'a SubjectPublicKeyInfo,
    pub(super) subject: &'a Subject,
}

impl Wanted<'_> {
    /// The chain in PEM: what the signer answered, and who vouches for it. More that it sends is left away, as every
    /// certificate is signed with the key of a root.
    pub(super) fn check(&self, answer: &str, now: SystemTime) -> Result<String, Error> {
        let leaf = pem_text(&first(answer)?);
        let issuer = match &self.authority.instead_of {
            Some(replaced) => replaced.cross_signed.as_str(),
            None => self.authority.root.pem(),
        };
        let chain = format!("{leaf}{}", pem_text(&first(issuer)?));
        let certificate = NodeCertificate::from_pem(&chain)?;
        if certificate::public_key(certificate.split_chain().0)? != self.key.der_bytes() {
            return Err(Error::Key);
        }
        self.check_subject(certificate.subject())?;
        let names = certificate.names();
        let wanted = || names_of(self.subject);
        let is_exact =
            wanted().count() == names.len() && wanted().all(|name| names.iter().any(|n| n == name));
        if !is_exact {
            return Err(Error::Names { wanted: wanted().map(str::to_owned).collect(), found: names });
        }
        if certificate.is_ca() {
            return Err(Error::Ca);
        }
        self.authority.roots().try_for_each(|root| accepted(root, &certificate, self.subject, now))?;
        Ok(chain)
    }

    fn check_subject(&self, found: &Subject) -> Result<(), Error> {
        let wanted = self.subject;
        let parts = [
            ("the role", role_name(wanted.role), role_name(found.role)),
            ("the node", wanted.node.as_str(), found.node.as_str()),
            ("the cluster", wanted.cluster.as_str(), found.cluster.as_str()),
        ];
        match parts.into_iter().find(|(_, wanted, found)| wanted != found) {
            None => Ok(()),
            Some((what, wanted, found)) => {
                Err(Error::Other { what, wanted: wanted.into(), found: found.into() })
            }
        }
    }
}

/// As a client and as a server: a node may become a manager's peer in both ways.
fn accepted(
    root: &RootCertificate,
    certificate: &NodeCertificate,
    subject: &Subject,
    now: SystemTime,
) -> Result<(), Error> {
    let told = |error: root::Error| {
        let source = std::error::Error::source(&error).map(|source| format!(" ({source})"));
        Error::Untrusted(format!("{error}{}", source.unwrap_or_default()))
    };
    root.verify(certificate, now).map_err(told)?;
    root.verify_server(certificate, subject.node.as_str(), now).map_err(told)
}

/// The certificate of `root`, as an external CA has signed it, in PEM. Whether it is of use is tried with what the
/// root signs.
pub(super) fn cross_signed(answer: &str, root: &CertificateDer<'_>) -> Result<String, Error> {
    let signed = first(answer)?;
    let malformed = |_| Error::Certificate(certificate::Error::Malformed);
    let (_, found) = x509_parser::parse_x509_certificate(signed.contents()).map_err(malformed)?;
    let (_, root) = x509_parser::parse_x509_certificate(root).map_err(malformed)?;
    if found.public_key().raw != root.public_key().raw {
        return Err(Error::Key);
    }
    if !found.is_ca() {
        return Err(Error::NoCa);
    }
    // Names are compared byte by byte (RFC 5280, section 7.1, leaves it open).
    if found.subject().as_raw() != root.subject().as_raw() {
        return Err(Error::Subject);
    }
    Ok(pem_text(&signed))
}

fn pem_text(block: &pem::Pem) -> String {
    pem::encode_config(block, pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF))
}
