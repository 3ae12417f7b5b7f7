//! The cluster's certificate authority: the root certificate with its private key.
//!
//! Every manager holds it (it is replicated, encrypted, in the store) and signs with it. A certificate says what the
//! CA decided and nothing that the asking node wrote: only the public key is taken from a request.
//!
//! Conventions are SwarmKit's: subject CN = node id, OU = role, O = cluster id; names = role, node id, and for managers
//! `swarm-ca`; valid from one hour ago, since clocks differ.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyUsagePurpose, SanType, SerialNumber,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::certificate::{self, NodeCertificate, NodeIdentity, Subject, role_name};
use crate::root::{self, RootCertificate};
use crate::{PrivateKey, cross_sign, csr, private_key};

const ROOT_LIFETIME: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
/// How far clocks of two nodes may be apart.
const BACKDATE: Duration = Duration::from_secs(3600);
/// Of a node's certificate, where the cluster does not say otherwise: 90 days.
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Request(#[from] csr::Error),
    #[error("a certificate lifetime of {0:?} is longer than that of the root")]
    Lifetime(Duration),
    #[error("the root certificate does not belong to the CA's private key")]
    KeyMismatch,
    #[error("the root certificate cannot be signed by another one")]
    CrossSign,
    #[error("no randomness from the system")]
    Random,
    #[error("cannot sign a certificate")]
    Sign(#[source] rcgen::Error),
    #[error(transparent)]
    Root(#[from] root::Error),
    #[error(transparent)]
    Key(#[from] private_key::Error),
    #[error(transparent)]
    Certificate(#[from] certificate::Error),
}

#[derive(Clone, Debug)]
pub struct RootCa {
    certificate: RootCertificate,
    key: PrivateKey,
    /// Goes along with what is signed, instead of the root itself.
    intermediate: Option<String>,
}

impl RootCa {
    /// A new authority, valid for 20 years from `now`.
    pub fn generate(now: SystemTime) -> Result<Self, Error> {
        let key = PrivateKey::generate()?;
        let mut params = params(now, ROOT_LIFETIME)?;
        // Written as Go writes it, so that an external CA can sign it for the same subject, byte by byte.
        let name = certificate::CA.try_into().map_err(Error::Sign)?;
        params.distinguished_name.push(DnType::CommonName, DnValue::PrintableString(name));
        // Without a path limit, so that a later root can be cross-signed.
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key.pair()).map_err(Error::Sign)?;
        Ok(Self { certificate: RootCertificate::from_pem(&certificate.pem())?, key, intermediate: None })
    }

    /// From what was stored: certificate and PKCS#8 key, both PEM.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, Error> {
        let ca = Self {
            certificate: RootCertificate::from_pem(certificate)?,
            key: PrivateKey::from_pem(key)?,
            intermediate: None,
        };
        if certificate::public_key(&ca.signing_certificate())? != ca.key.public_key() {
            return Err(Error::KeyMismatch);
        }
        Ok(ca)
    }

    /// The same authority, whose certificates are good under the root too that has signed `cross_signed` (PEM).
    #[must_use]
    pub fn with_intermediate(self, cross_signed: String) -> Self {
        Self { intermediate: Some(cross_signed), ..self }
    }

    /// The certificate of another root, signed by this one: see [`Self::with_intermediate`].
    pub fn cross_sign(&self, other: &RootCertificate) -> Result<String, Error> {
        let (of, by) = (first(other), self.signing_certificate());
        let signed = cross_sign::cross_sign(&of, &by, &self.key, &random_serial()?);
        Ok(pem_of(&signed.ok_or(Error::CrossSign)?))
    }

    pub const fn certificate(&self) -> &RootCertificate {
        &self.certificate
    }

    pub const fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// Signs the key of `request` (PEM) as `subject`; valid until `now` + `lifetime`.
    ///
    /// The answer is the chain in PEM, the node's certificate first, then the root's.
    pub fn sign(
        &self,
        request: &str,
        subject: &Subject,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<String, Error> {
        let public_key = csr::public_key(request)?;
        let root = self.signing_certificate();
        let issuer = Issuer::from_ca_cert_der(&root, self.key.pair()).map_err(Error::Sign)?;
        let certificate =
            node_params(subject, lifetime, now)?.signed_by(&public_key, &issuer).map_err(Error::Sign)?;
        let issuer = self.intermediate.clone().unwrap_or_else(|| pem_of(&root));
        Ok(format!("{}{issuer}", certificate.pem()))
    }

    /// A key and certificate made here: what the first manager of a swarm gives to itself.
    pub fn issue(
        &self,
        subject: &Subject,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<NodeIdentity, Error> {
        let key = PrivateKey::generate()?;
        let chain = self.sign(&key.signing_request()?, subject, lifetime, now)?;
        Ok(NodeIdentity::new(NodeCertificate::from_pem(&chain)?, key)?)
    }

    /// The first of the bundle is the one that signs.
    pub(crate) fn signing_certificate(&self) -> CertificateDer<'static> {
        first(&self.certificate)
    }
}

fn first(root: &RootCertificate) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(root.pem().as_bytes()).expect("a root holds at least one certificate")
}

fn pem_of(certificate: &[u8]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new("CERTIFICATE", certificate), config)
}

fn params(now: SystemTime, lifetime: Duration) -> Result<CertificateParams, Error> {
    if lifetime > ROOT_LIFETIME {
        return Err(Error::Lifetime(lifetime));
    }
    let mut params = CertificateParams::default();
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + lifetime).into();
    params.serial_number = Some(SerialNumber::from_slice(&random_serial()?));
    params.distinguished_name = DistinguishedName::new();
    Ok(params)
}

fn node_params(subject: &Subject, lifetime: Duration, now: SystemTime) -> Result<CertificateParams, Error> {
    let role = role_name(subject.role);
    let mut params = params(now, lifetime)?;
    params.distinguished_name.push(DnType::OrganizationName, subject.cluster.as_str());
    params.distinguished_name.push(DnType::OrganizationalUnitName, role);
    params.distinguished_name.push(DnType::CommonName, subject.node.as_str());
    for name in certificate::names_of(subject) {
        params.subject_alt_names.push(SanType::DnsName(name.try_into().map_err(Error::Sign)?));
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// 20 octets at most, positive (RFC 5280, section 4.1.2.2).
fn random_serial() -> Result<[u8; 20], Error> {
    let mut bytes = [0; 20];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::Random)?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proto::model::Role;
    use rcgen::KeyPair;

    use super::*;

    fn subject(role: Role) -> Subject {
        Subject {
            node: "nnnnnnnnnnnnnnnnnnnnnnnn1".into(),
            role,
            cluster: "ccccccccccccccccccccccccc".into(),
        }
    }

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn the_ca_writes_the_subject_whatever_the_request_says() {
        let now = SystemTime::now();
        let ca = RootCa::generate(now).unwrap();
        let pair = KeyPair::generate().unwrap();
        let mut wish = CertificateParams::new(vec!["swarm-manager".to_owned()]).unwrap();
        wish.distinguished_name.push(DnType::OrganizationalUnitName, "swarm-manager");
        wish.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let request = wish.serialize_request(&pair).unwrap().pem().unwrap();

        let chain = ca.sign(&request, &subject(Role::Worker), DAY, now).unwrap();
        let certificate = NodeCertificate::from_pem(&chain).unwrap();
        assert_eq!(*certificate.subject(), subject(Role::Worker));
        assert_eq!(certificate.names(), ["swarm-worker", "nnnnnnnnnnnnnnnnnnnnnnnn1"]);
        let (leaf, rest) = certificate.split_chain();
        assert!(!x509_parser::parse_x509_certificate(leaf).unwrap().1.is_ca());
        assert_eq!(rest.len(), 1);
        ca.certificate().verify(&certificate, now).unwrap();
    }

    #[test]
    fn managers_are_also_named_as_the_ca() {
        let now = SystemTime::now();
        let ca = RootCa::generate(now).unwrap();
        let manager = ca.issue(&subject(Role::Manager), DAY, now).unwrap();
        assert_eq!(manager.certificate().names(), ["swarm-manager", "nnnnnnnnnnnnnnnnnnnnnnnn1", "swarm-ca"]);
    }

    #[test]
    fn a_certificate_is_valid_in_its_time_and_under_its_root_only() {
        let now = SystemTime::now();
        let (ca, other) = (RootCa::generate(now).unwrap(), RootCa::generate(now).unwrap());
        let node = ca.issue(&subject(Role::Worker), DAY, now).unwrap();
        let verify = |ca: &RootCa, at| ca.certificate().verify(node.certificate(), at);

        let slow_clock = now - BACKDATE + Duration::from_secs(60);
        verify(&ca, slow_clock).unwrap();
        verify(&ca, now + DAY - Duration::from_secs(60)).unwrap();
        verify(&ca, now + DAY + Duration::from_secs(60)).unwrap_err();
        verify(&ca, now - BACKDATE - Duration::from_secs(60)).unwrap_err();
        verify(&other, now).unwrap_err();
    }

    #[test]
    fn survives_storage_and_refuses_another_key() {
        let now = SystemTime::now();
        let (ca, other) = (RootCa::generate(now).unwrap(), RootCa::generate(now).unwrap());
        let again = RootCa::from_pem(ca.certificate().pem(), ca.key().expose_pem()).unwrap();
        let node = again.issue(&subject(Role::Worker), DAY, now).unwrap();
        ca.certificate().verify(node.certificate(), now).unwrap();
        assert!(matches!(
            RootCa::from_pem(ca.certificate().pem(), other.key().expose_pem()),
            Err(Error::KeyMismatch)
        ));
        assert!(!format!("{ca:?}").contains("PRIVATE"));
    }

    #[test]
    fn what_a_cross_signed_root_signs_is_good_under_both_roots() {
        let now = SystemTime::now();
        let (old, new) = (RootCa::generate(now).unwrap(), RootCa::generate(now).unwrap());
        let cross_signed = old.cross_sign(new.certificate()).unwrap();
        let new = new.with_intermediate(cross_signed);
        let node = new.issue(&subject(Role::Manager), DAY, now).unwrap();
        old.certificate().verify(node.certificate(), now).unwrap();
        new.certificate().verify(node.certificate(), now).unwrap();
        RootCa::generate(now).unwrap().certificate().verify(node.certificate(), now).unwrap_err();
        let issuer = certificate::Issuer::of_chain(node.certificate().pem()).unwrap();
        assert_eq!(Some(&issuer), certificate::Issuer::of_root(new.certificate().pem()).as_ref());
        assert_ne!(Some(issuer), certificate::Issuer::of_root(old.certificate().pem()));
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&node.certificate().split_chain().1[0]).unwrap();
        assert!(parsed.is_ca() && parsed.validity().is_valid());
    }

    #[test]
    fn a_lifetime_beyond_the_roots_is_refused() {
        let now = SystemTime::now();
        let ca = RootCa::generate(now).unwrap();
        let result = ca.issue(&subject(Role::Worker), ROOT_LIFETIME + DAY, now);
        assert!(matches!(result, Err(Error::Lifetime(_))));
    }
}
