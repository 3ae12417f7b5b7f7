//! How a node joins a swarm: from an address and a token to an identity on disk.
//!
//! 1. Connect to anybody at the address, sending nothing, and fetch the root certificate.
//! 2. Compare its digest with the token's: now the root is known to be the swarm's.
//! 3. Connect anew, to a manager under that root only, and hand in the token with a signing request.
//! 4. Check the certificate that comes back, and only then write anything to disk.
//!
//! Invariant: the token leaves this node only over a connection to a manager of the swarm that it is for; a join that
//! fails leaves nothing behind.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proto::model::Availability;
use proto::wire::GetRootCaCertificateRequest;
use proto::wire::ca_client::CaClient;
use rustls::ClientConfig;
use tonic::transport::Channel;

use crate::certificate::{self, NodeCertificate, NodeIdentity};
use crate::certificate_dir::{self, CertificateDir};
use crate::issuance::{self, Application};
use crate::root::{self, RootCertificate, RootDigest};
use crate::token::JoinToken;
use crate::{PrivateKey, dial, private_key, tls};

const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// A bundle of a few certificates; the sender is not known yet.
const LARGEST_ROOT_BYTES: usize = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Dial(#[from] dial::Error),
    #[error("{addr} did not send its root certificate within {FETCH_TIMEOUT:?}")]
    Silent { addr: String },
    #[error("{addr} does not answer as a swarm manager: {answer}")]
    Foreign { addr: String, answer: String },
    #[error(
        "the join token is not valid for the swarm of {addr}: remote CA does not match fingerprint: \
         expected {expected}, found {found}"
    )]
    OtherSwarm { addr: String, expected: RootDigest, found: RootDigest },
    #[error("{addr} sent an unusable root certificate")]
    Root { addr: String, source: root::Error },
    #[error(transparent)]
    Issuance(#[from] issuance::Error),
    #[error("manager {addr} issued an unusable certificate")]
    Certificate { addr: String, source: certificate::Error },
    #[error("manager {addr} issued a certificate of another swarm or time")]
    Untrusted { addr: String, source: root::Error },
    #[error(transparent)]
    Key(#[from] private_key::Error),
    #[error(transparent)]
    Tls(#[from] tls::Error),
    #[error(transparent)]
    Disk(#[from] certificate_dir::Error),
    #[error("writing the certificates was interrupted")]
    Interrupted,
}

/// Which swarm to join, and how.
#[derive(Clone, Debug)]
pub struct Join {
    /// Of a manager: `host:port`.
    pub addr: String,
    pub token: JoinToken,
    pub availability: Availability,
    /// Connect from this address of the node.
    pub source: Option<IpAddr>,
}

/// What the node has become; its id, role and cluster are in `identity.subject()`.
#[derive(Clone, Debug)]
pub struct Joined {
    pub identity: NodeIdentity,
    pub root: RootCertificate,
}

impl Join {
    /// Joins and writes the identity into `dir`. Each step is bounded; the whole takes at most 25 s.
    pub async fn run(&self, dir: &CertificateDir, now: SystemTime) -> Result<Joined, Error> {
        let root = self.fetch_root().await?;
        let identity = self.obtain_identity(&root, now).await?;
        let joined = Joined { identity, root };

        let (dir, saved) = (dir.clone(), joined.clone());
        let saving = tokio::task::spawn_blocking(move || dir.save(&saved.identity, &saved.root));
        saving.await.map_err(|_| Error::Interrupted)??;
        Ok(joined)
    }

    async fn fetch_root(&self) -> Result<RootCertificate, Error> {
        let addr = || self.addr.clone();
        let channel = self.connect(tls::blind()?).await?;
        let mut stranger = CaClient::new(channel).max_decoding_message_size(LARGEST_ROOT_BYTES);
        let answer = stranger.get_root_ca_certificate(GetRootCaCertificateRequest {});
        let answer = tokio::time::timeout(FETCH_TIMEOUT, answer)
            .await
            .map_err(|_| Error::Silent { addr: addr() })?
            .map_err(|status| Error::Foreign { addr: addr(), answer: dial::explain(&status) })?;
        self.check_root(&answer.into_inner().certificate)
    }

    fn check_root(&self, pem: &[u8]) -> Result<RootCertificate, Error> {
        let (expected, found) = (self.token.root_digest(), RootDigest::of(pem));
        if expected != found {
            return Err(Error::OtherSwarm { addr: self.addr.clone(), expected, found });
        }
        // With the right digest it is what the swarm's managers made, so a lossy reading loses nothing.
        RootCertificate::from_pem(&String::from_utf8_lossy(pem))
            .map_err(|source| Error::Root { addr: self.addr.clone(), source })
    }

    async fn obtain_identity(&self, root: &RootCertificate, now: SystemTime) -> Result<NodeIdentity, Error> {
        let addr = || self.addr.clone();
        let key = PrivateKey::generate()?;
        let request = key.signing_request()?;
        let channel = self.connect(tls::stranger(root)?).await?;
        let application =
            Application { request: &request, token: Some(&self.token), availability: self.availability };
        let chain = issuance::apply(channel, &application).await?;

        let unusable = |source| Error::Certificate { addr: addr(), source };
        let certificate = NodeCertificate::from_pem(&chain).map_err(unusable)?;
        root.verify(&certificate, now).map_err(|source| Error::Untrusted { addr: addr(), source })?;
        NodeIdentity::new(certificate, key).map_err(unusable)
    }

    async fn connect(&self, config: Arc<ClientConfig>) -> Result<Channel, Error> {
        let stream = dial::connect(&self.addr, self.source, config, tls::manager_name()).await?;
        Ok(dial::channel_over(&self.addr, stream)?)
    }
}
