//! The identity that a running node uses right now.
//!
//! One handle, shared by every listener and dialer. Replacing the identity touches no open connection: each handshake
//! reads the current one, and a session keeps what its handshake saw.
//!
//! Invariant: identity, root and both TLS configurations change together.

use std::sync::Arc;

use proto::model::TlsInfo;
use rustls::{ClientConfig, ServerConfig};
use tokio::sync::watch;

use crate::certificate::{Issuer, NodeIdentity};
use crate::root::RootCertificate;
use crate::tls;

#[derive(Debug)]
pub struct Current {
    identity: NodeIdentity,
    root: RootCertificate,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Current {
    fn new(identity: NodeIdentity, root: RootCertificate) -> Result<Arc<Self>, tls::Error> {
        let server = tls::server(&identity, &root)?;
        let client = tls::client(&identity, &root)?;
        Ok(Arc::new(Self { identity, root, server, client }))
    }

    pub const fn identity(&self) -> &NodeIdentity {
        &self.identity
    }

    pub const fn root(&self) -> &RootCertificate {
        &self.root
    }

    /// As managers are told of it.
    pub fn tls_info(&self) -> TlsInfo {
        let issuer = Issuer::of_chain(self.identity.certificate().pem());
        let (issuer_subject, issuer_public_key) =
            issuer.map(|issuer| (issuer.subject, issuer.public_key)).unwrap_or_default();
        TlsInfo { trust_root: self.root.pem().as_bytes().to_vec(), issuer_subject, issuer_public_key }
    }

    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    pub fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.client)
    }
}

#[derive(Clone, Debug)]
pub struct Credentials(Arc<watch::Sender<Arc<Current>>>);

impl Credentials {
    pub fn new(identity: NodeIdentity, root: RootCertificate) -> Result<Self, tls::Error> {
        Ok(Self(Arc::new(watch::Sender::new(Current::new(identity, root)?))))
    }

    pub fn current(&self) -> Arc<Current> {
        Arc::clone(&self.0.borrow())
    }

    /// From now on handshakes use this. On an error nothing changes.
    pub fn replace(&self, identity: NodeIdentity, root: RootCertificate) -> Result<(), tls::Error> {
        self.0.send_replace(Current::new(identity, root)?);
        Ok(())
    }

    /// Wakes on each replacement.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Current>> {
        self.0.subscribe()
    }
}
