//! What a peer's certificate must say, beyond being signed by the root.
//!
//! Chains, dates and signatures are webpki's business. Added here: a server must be a manager, and either side must be
//! of our cluster, as one root may outlive a cluster.

use std::sync::Arc;

use proto::model::{ClusterId, Role};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};

use crate::certificate::{self, Subject};

#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Subject(#[from] certificate::Error),
    #[error("it is a worker's certificate; a manager's is needed")]
    NotManager,
    #[error("it is a certificate of the cluster {0}")]
    OtherCluster(ClusterId),
}

impl From<Refusal> for rustls::Error {
    fn from(refusal: Refusal) -> Self {
        CertificateError::Other(OtherError(Arc::new(refusal))).into()
    }
}

/// A client's view: the server must be a manager, of `cluster` if that is known.
#[derive(Debug)]
pub(crate) struct ManagerOnly {
    chain: Arc<WebPkiServerVerifier>,
    cluster: Option<ClusterId>,
}

impl ManagerOnly {
    pub(crate) const fn new(chain: Arc<WebPkiServerVerifier>, cluster: Option<ClusterId>) -> Self {
        Self { chain, cluster }
    }
}

fn require_manager(certificate: &CertificateDer<'_>, cluster: Option<&ClusterId>) -> Result<(), Refusal> {
    let subject = Subject::of(certificate)?;
    if subject.role != Role::Manager {
        return Err(Refusal::NotManager);
    }
    require_cluster(subject, cluster)
}

fn require_cluster(subject: Subject, expected: Option<&ClusterId>) -> Result<(), Refusal> {
    match expected {
        Some(expected) if subject.cluster != *expected => Err(Refusal::OtherCluster(subject.cluster)),
        _ => Ok(()),
    }
}

/// A server's view: a client shows nothing, or a certificate of `cluster`.
#[derive(Debug)]
pub(crate) struct NodeOrNobody {
    chain: Arc<dyn ClientCertVerifier>,
    cluster: ClusterId,
}

impl NodeOrNobody {
    pub(crate) fn new(chain: Arc<dyn ClientCertVerifier>, cluster: ClusterId) -> Self {
        Self { chain, cluster }
    }
}

/// Believes any certificate, as long as the server holds its key.
#[derive(Debug)]
pub(crate) struct Anyone {
    provider: Arc<CryptoProvider>,
}

impl Anyone {
    pub(crate) const fn new(provider: Arc<CryptoProvider>) -> Self {
        Self { provider }
    }
}

/// How a verifier with a `chain` checks signatures: as that one does.
macro_rules! signatures_as_the_chain {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            self.chain.verify_tls12_signature(message, cert, dss)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            self.chain.verify_tls13_signature(message, cert, dss)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.chain.supported_verify_schemes()
        }
    };
}

impl ServerCertVerifier for ManagerOnly {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified =
            self.chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        require_manager(end_entity, self.cluster.as_ref())?;
        Ok(verified)
    }

    signatures_as_the_chain!();
}

impl ClientCertVerifier for NodeOrNobody {
    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        let subject = Subject::of(end_entity).map_err(Refusal::from)?;
        require_cluster(subject, Some(&self.cluster))?;
        Ok(verified)
    }

    signatures_as_the_chain!();
}

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
