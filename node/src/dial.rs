//! The way to other managers, as worker and store ask for it.

use std::error::Error as StdError;
use std::io;

use hyper_util::rt::TokioIo;
use identity::Dialer;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

/// Mutual TLS with the node's current certificate.
#[derive(Clone, Debug)]
pub struct Peers(pub Dialer);

impl worker::Dial for Peers {
    fn channel(&self, addr: &str) -> Result<Channel, Box<dyn StdError + Send + Sync>> {
        Ok(self.0.channel(addr)?)
    }

    fn reason(&self, status: &tonic::Status) -> Option<String> {
        let reason = identity::dial::reason(status).map(|error| crate::error::chain(error));
        reason.or_else(|| identity::dial::clocks(status))
    }
}

impl raft_store::Dial for Peers {
    /// An address that cannot be one makes a channel that fails with the reason.
    fn channel(&self, addr: &str) -> Channel {
        self.0.channel(addr).unwrap_or_else(|error| {
            let reason = error.to_string();
            let refuse = service_fn(move |_| {
                let reason = reason.clone();
                async move { Err::<TokioIo<TcpStream>, _>(io::Error::new(io::ErrorKind::InvalidInput, reason)) }
            });
            Endpoint::from_static("http://unusable.invalid").connect_with_connector_lazy(refuse)
        })
    }
}
