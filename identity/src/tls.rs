//! TLS configurations: 1.3 only, *ring*, HTTP/2, no resumption.
//!
//! No resumption, because a resumed session would keep an identity alive that has been replaced since. A client need
//! not show a certificate, as it has none before it joins; who shows one must show a good one.

use std::sync::Arc;

use proto::model::ClusterId;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, ServerConfig, WantsVerifier};

use crate::certificate::{MANAGER, NodeIdentity};
use crate::root::RootCertificate;
use crate::verifier::{Anyone, ManagerOnly, NodeOrNobody};

pub type Error = rustls::Error;

/// For a server of the node `identity`.
pub fn server(identity: &NodeIdentity, root: &RootCertificate) -> Result<Arc<ServerConfig>, Error> {
    let verifier = NodeOrNobody::new(chain_verifier(root), identity.subject().cluster.clone());
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(identity.certificate().chain().to_vec(), identity.key().der())?;
    config.alpn_protocols = alpn();
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// For the node `identity` as a client of a manager of its cluster.
pub fn client(identity: &NodeIdentity, root: &RootCertificate) -> Result<Arc<ClientConfig>, Error> {
    let cluster = identity.subject().cluster.clone();
    let config = client_builder(manager_verifier(root, Some(cluster)))?
        .with_client_auth_cert(identity.certificate().chain().to_vec(), identity.key().der())?;
    Ok(finish(config))
}

/// For a node that has no certificate yet and knows the root: any manager under it will do.
pub fn stranger(root: &RootCertificate) -> Result<Arc<ClientConfig>, Error> {
    Ok(finish(client_builder(manager_verifier(root, None))?.with_no_client_auth()))
}

/// For a node that knows nothing yet. **Anybody may be at the other end**: send nothing secret, and check what comes
/// against the digest of a join token.
pub fn blind() -> Result<Arc<ClientConfig>, Error> {
    Ok(finish(client_builder(Arc::new(Anyone::new(provider())))?.with_no_client_auth()))
}

/// For a client of an external CA under one of `roots`; it is shown `identity`, if there is one.
pub(crate) fn signer<'a>(
    identity: Option<&NodeIdentity>,
    roots: impl Iterator<Item = &'a RootCertificate>,
) -> Result<Arc<ClientConfig>, Error> {
    let mut anchors = RootCertStore::empty();
    anchors.extend(roots.flat_map(|root| root.anchors().roots.clone()));
    let config = client_builder(server_verifier(Arc::new(anchors)))?;
    let mut config = match identity {
        None => config.with_no_client_auth(),
        Some(identity) => {
            config.with_client_auth_cert(identity.certificate().chain().to_vec(), identity.key().der())?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The name that every manager's certificate has.
pub fn manager_name() -> ServerName<'static> {
    ServerName::try_from(MANAGER).expect("swarm-manager is a valid name")
}

/// Checks that a client's chain ends in `root`; lets clients without a certificate in.
pub(crate) fn chain_verifier(root: &RootCertificate) -> Arc<dyn ClientCertVerifier> {
    WebPkiClientVerifier::builder_with_provider(root.anchors(), provider())
        .allow_unauthenticated()
        .build()
        .expect("a root has at least one anchor and there are no revocation lists")
}

/// Checks that a server's chain ends in one of `roots`, and its name.
pub(crate) fn server_verifier(roots: Arc<RootCertStore>) -> Arc<WebPkiServerVerifier> {
    WebPkiServerVerifier::builder_with_provider(roots, provider())
        .build()
        .expect("a root has at least one anchor and there are no revocation lists")
}

fn manager_verifier(root: &RootCertificate, cluster: Option<ClusterId>) -> Arc<dyn ServerCertVerifier> {
    Arc::new(ManagerOnly::new(server_verifier(root.anchors()), cluster))
}

fn client_builder(
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, Error> {
    let builder: ConfigBuilder<ClientConfig, WantsVerifier> =
        ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier))
}

fn finish(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = alpn();
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn alpn() -> Vec<Vec<u8>> {
    vec![b"h2".to_vec()]
}
