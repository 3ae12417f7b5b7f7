//! A node's certificate, and the certificate together with its key: the node's identity.
//!
//! Reads what a certificate says. Whether it is to be believed is decided by `RootCertificate::verify` and, in a
//! handshake, by `verifier`.

use std::time::{Duration, SystemTime};

use proto::model::{ClusterId, NodeId, Role};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::x509::AttributeTypeAndValue;

use crate::PrivateKey;

pub(crate) const MANAGER: &str = "swarm-manager";
pub(crate) const WORKER: &str = "swarm-worker";
pub(crate) const CA: &str = "swarm-ca";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the certificate is not PEM: {0}")]
    Pem(String),
    #[error("the certificate is not X.509")]
    Malformed,
    #[error("the certificate's subject must have exactly one {0}")]
    Subject(&'static str),
    #[error("the certificate's organizational unit is {0:?}; it must be {MANAGER} or {WORKER}")]
    Role(String),
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
}

/// Who a certificate is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Common name.
    pub node: NodeId,
    /// Organizational unit.
    pub role: Role,
    /// Organization.
    pub cluster: ClusterId,
}

impl Subject {
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, Error> {
        Self::read(&parse(certificate)?)
    }

    fn read(certificate: &X509Certificate<'_>) -> Result<Self, Error> {
        let subject = certificate.subject();
        let unit = single("organizational unit", subject.iter_organizational_unit())?;
        Ok(Self {
            node: single("common name", subject.iter_common_name())?.into(),
            role: match unit {
                MANAGER => Role::Manager,
                WORKER => Role::Worker,
                other => return Err(Error::Role(other.to_owned())),
            },
            cluster: single("organization", subject.iter_organization())?.into(),
        })
    }
}

/// Who has signed a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// DER.
    pub subject: Vec<u8>,
    /// DER, with the kind of key.
    pub public_key: Vec<u8>,
}

impl Issuer {
    /// Of what is issued under the root in `pem`, the first one if there are several.
    pub fn of_root(pem: &str) -> Option<Self> {
        Self::nth(pem, 0)
    }

    /// Of the first certificate of a chain; none if it does not go along.
    pub fn of_chain(pem: &str) -> Option<Self> {
        Self::nth(pem, 1)
    }

    fn nth(pem: &str, n: usize) -> Option<Self> {
        let certificate = CertificateDer::pem_slice_iter(pem.as_bytes()).nth(n)?.ok()?;
        let parsed = parse(&certificate).ok()?;
        let (subject, public_key) = (parsed.subject().as_raw(), parsed.public_key().raw);
        Some(Self { subject: subject.to_vec(), public_key: public_key.to_vec() })
    }
}

/// When a certificate is valid; both ends are inclusive, in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

impl Validity {
    pub fn lifetime(&self) -> Duration {
        self.not_after.duration_since(self.not_before).unwrap_or_default()
    }
}

/// A chain whose first certificate has the subject of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeCertificate {
    pem: String,
    chain: Vec<CertificateDer<'static>>,
    subject: Subject,
    validity: Validity,
}

impl NodeCertificate {
    /// Takes the node's certificate followed by those of its issuers.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        let chain = CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| Error::Pem(error.to_string()))?;
        let leaf = parse(chain.first().ok_or_else(|| Error::Pem("no certificate in it".to_owned()))?)?;
        let validity = Validity {
            not_before: time(leaf.validity().not_before.timestamp()),
            not_after: time(leaf.validity().not_after.timestamp()),
        };
        let subject = Subject::read(&leaf)?;
        Ok(Self { pem: pem.to_owned(), subject, validity, chain })
    }

    pub fn pem(&self) -> &str {
        &self.pem
    }

    pub const fn subject(&self) -> &Subject {
        &self.subject
    }

    pub const fn validity(&self) -> Validity {
        self.validity
    }

    /// The names that a peer may check it against.
    pub fn names(&self) -> Vec<String> {
        let leaf = parse(self.split_chain().0).expect("it was parsed when it was made");
        let Ok(Some(names)) = leaf.subject_alternative_name() else { return Vec::new() };
        let names = names.value.general_names.iter();
        names
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some((*name).to_owned()),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn is_ca(&self) -> bool {
        parse(self.split_chain().0).expect("it was parsed when it was made").is_ca()
    }

    pub(crate) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    pub(crate) fn split_chain(&self) -> (&CertificateDer<'static>, &[CertificateDer<'static>]) {
        self.chain.split_first().expect("a chain has at least one certificate")
    }
}

/// A certificate and the private key that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeIdentity {
    certificate: NodeCertificate,
    key: PrivateKey,
}

impl NodeIdentity {
    pub fn new(certificate: NodeCertificate, key: PrivateKey) -> Result<Self, Error> {
        if public_key(certificate.split_chain().0)? != key.public_key() {
            return Err(Error::KeyMismatch);
        }
        Ok(Self { certificate, key })
    }

    pub const fn certificate(&self) -> &NodeCertificate {
        &self.certificate
    }

    pub const fn key(&self) -> &PrivateKey {
        &self.key
    }

    pub const fn subject(&self) -> &Subject {
        self.certificate.subject()
    }
}

/// The names that a node's certificate is for, besides its subject: managers are also reached as the CA.
pub(crate) fn names_of(subject: &Subject) -> impl Iterator<Item = &str> {
    let ca = (subject.role == Role::Manager).then_some(CA);
    [role_name(subject.role), subject.node.as_str()].into_iter().chain(ca)
}

/// How a role is written in a certificate.
pub(crate) const fn role_name(role: Role) -> &'static str {
    match role {
        Role::Manager => MANAGER,
        Role::Worker => WORKER,
    }
}

pub(crate) fn public_key(certificate: &CertificateDer<'_>) -> Result<Vec<u8>, Error> {
    Ok(parse(certificate)?.public_key().subject_public_key.data.to_vec())
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Error> {
    match x509_parser::parse_x509_certificate(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(Error::Malformed),
    }
}

/// Two of them would let two readers see two different peers.
fn single<'a>(
    what: &'static str,
    mut values: impl Iterator<Item = &'a AttributeTypeAndValue<'a>>,
) -> Result<&'a str, Error> {
    match (values.next().map(AttributeTypeAndValue::as_str), values.next()) {
        (Some(Ok(value)), None) if !value.is_empty() => Ok(value),
        _ => Err(Error::Subject(what)),
    }
}

fn time(since_epoch: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(since_epoch.try_into().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;
    use crate::RootCa;

    fn certificate(attributes: &[(DnType, &str)]) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in attributes {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    const UNIT: DnType = DnType::OrganizationalUnitName;

    #[test]
    fn a_subject_without_a_known_role_is_refused() {
        let pem = certificate(&[(DnType::CommonName, "n"), (DnType::OrganizationName, "c"), (UNIT, "admin")]);
        assert!(matches!(NodeCertificate::from_pem(&pem), Err(Error::Role(unit)) if unit == "admin"));
        let pem = certificate(&[(DnType::CommonName, "n"), (UNIT, MANAGER)]);
        assert!(matches!(NodeCertificate::from_pem(&pem), Err(Error::Subject("organization"))));
        let pem = certificate(&[(DnType::OrganizationName, "c"), (UNIT, MANAGER)]);
        assert!(matches!(NodeCertificate::from_pem(&pem), Err(Error::Subject("common name"))));
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        assert!(matches!(NodeCertificate::from_pem(""), Err(Error::Pem(_))));
        let block = pem::encode(&pem::Pem::new("CERTIFICATE", [1, 2, 3]));
        assert!(matches!(NodeCertificate::from_pem(&block), Err(Error::Malformed)));
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let now = SystemTime::now();
        let ca = RootCa::generate(now).unwrap();
        let subject = Subject { node: "n".into(), role: Role::Worker, cluster: "c".into() };
        let identity = ca.issue(&subject, Duration::from_secs(3600), now).unwrap();
        let stranger = PrivateKey::generate().unwrap();
        assert!(matches!(
            NodeIdentity::new(identity.certificate().clone(), stranger),
            Err(Error::KeyMismatch)
        ));
        assert!(!format!("{identity:?}").contains("PRIVATE"));
    }
}
