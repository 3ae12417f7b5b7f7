//! Connections to managers.
//!
//! Decides how a manager is reached and recognised; which one to ask is decided by the caller. Addresses are never
//! matched against names in a certificate: a manager is recognised by its role and cluster, or by its node id.

pub(crate) mod clock;

use std::error::Error as StdError;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use proto::model::NodeId;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConfig, OtherError};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::credentials::Credentials;
use crate::{socket, tls};

/// From the look-up of the name to the end of the handshake.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A silent cut is noticed after at most the sum of the two.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0:?} is not the address of a manager: it must be <host>:<port>")]
    Address(String),
    #[error("node id {0} cannot be the name of a manager")]
    Name(NodeId),
    #[error("cannot find the address of manager {addr}")]
    Resolve { addr: String, source: io::Error },
    #[error("cannot connect to manager {addr}")]
    Connect { addr: String, source: io::Error },
    #[error("manager {addr} did not answer within {CONNECT_TIMEOUT:?}")]
    Timeout { addr: String },
    #[error("cannot recognise {addr} as a manager of this swarm")]
    Handshake { addr: String, source: io::Error },
}

/// The reason why a call never reached its manager, if it is one of ours.
pub fn reason(status: &tonic::Status) -> Option<&Error> {
    causes(status).find_map(|error| error.downcast_ref())
}

/// Why a call failed, for people: what kept it from its manager, else what the manager said.
pub fn explain(status: &tonic::Status) -> String {
    if let Some(reason) = reason(status) {
        let source = reason.source().map(|source| format!(": {source}"));
        return format!("{reason}{}", source.unwrap_or_default());
    }
    if let Some(complaint) = clocks(status) {
        return complaint;
    }
    // A status with a cause was made on this side: the innermost says most.
    causes(status).last().map_or_else(|| status.message().to_owned(), ToString::to_string)
}

/// That a clock is wrong, if that is why a call failed after the handshake: a client believes itself connected before the
/// server has judged it.
pub fn clocks(status: &tonic::Status) -> Option<String> {
    let alert = rustls::Error::AlertReceived(AlertDescription::CertificateExpired);
    // HTTP/2 keeps of such an error nothing but its text.
    let text = alert.to_string();
    causes(status).any(|cause| cause.to_string().ends_with(&text)).then(|| clock::complaint(&alert)).flatten()
}

fn causes(status: &tonic::Status) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    std::iter::successors(status.source(), |&error| error.source())
}

#[derive(Clone, Debug)]
pub struct Dialer {
    credentials: Credentials,
    source: Option<IpAddr>,
}

impl Dialer {
    pub const fn new(credentials: Credentials) -> Self {
        Self { credentials, source: None }
    }

    /// Connects from this address of the node.
    #[must_use]
    pub fn from_address(self, source: IpAddr) -> Self {
        Self { credentials: self.credentials, source: Some(source) }
    }

    /// A channel to whichever manager answers at `addr` (`host:port`).
    ///
    /// It connects with the first call and again when the connection was lost, each time with the credentials of that
    /// moment. A call that cannot connect fails; [`reason`] tells why.
    pub fn channel(&self, addr: &str) -> Result<Channel, Error> {
        self.lazy(addr, tls::manager_name())
    }

    /// A channel to the manager `node` and no other.
    pub fn channel_to(&self, addr: &str, node: &NodeId) -> Result<Channel, Error> {
        let name = ServerName::try_from(node.as_str().to_owned()).map_err(|_| Error::Name(node.clone()))?;
        self.lazy(addr, name)
    }

    fn lazy(&self, addr: &str, name: ServerName<'static>) -> Result<Channel, Error> {
        let (dialer, target) = (self.clone(), addr.to_owned());
        let connector = service_fn(move |_: Uri| {
            let (dialer, addr, name) = (dialer.clone(), target.clone(), name.clone());
            async move {
                let config = dialer.credentials.current().client();
                connect(&addr, dialer.source, config, name).await.map(TokioIo::new)
            }
        });
        Ok(endpoint(addr)?.connect_with_connector_lazy(connector))
    }
}

/// Makes one connection.
pub(crate) async fn connect(
    addr: &str,
    source: Option<IpAddr>,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Result<TlsStream<TcpStream>, Error> {
    let connecting = async {
        let stream = open(addr, source).await?;
        let handshake = TlsConnector::from(config).connect(name, stream).await;
        handshake.map_err(|error| Error::Handshake { addr: addr.to_owned(), source: legible(error) })
    };
    let timeout = || Error::Timeout { addr: addr.to_owned() };
    tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| timeout())?
}

/// rustls shows the refusals of our own verifier in debug form only, and times as numbers.
pub(crate) fn legible(error: io::Error) -> io::Error {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref());
    match tls {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(refusal)))) => {
            io::Error::other(refusal.to_string())
        }
        Some(tls) => clock::complaint(tls).map_or(error, io::Error::other),
        None => error,
    }
}

/// A channel over a connection that is there already; when that ends, so does the channel.
pub(crate) fn channel_over(addr: &str, stream: TlsStream<TcpStream>) -> Result<Channel, Error> {
    let mut stream = Some(stream);
    let connector = service_fn(move |_: Uri| {
        let stream = stream.take().ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted));
        async move { stream.map(TokioIo::new) }
    });
    Ok(endpoint(addr)?.connect_with_connector_lazy(connector))
}

fn endpoint(addr: &str) -> Result<Endpoint, Error> {
    let unusable = || Error::Address(addr.to_owned());
    let (host, port) = addr.rsplit_once(':').ok_or_else(unusable)?;
    if host.is_empty() || port.parse::<u16>().is_err() {
        return Err(unusable());
    }
    // The scheme says http, as TLS is in the connector.
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).map_err(|_| unusable())?;
    Ok(endpoint
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true))
}

async fn open(addr: &str, source: Option<IpAddr>) -> Result<TcpStream, Error> {
    let resolved = tokio::net::lookup_host(addr).await;
    let resolved = resolved.map_err(|source| Error::Resolve { addr: addr.to_owned(), source })?;
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for target in resolved.filter(|target| source.is_none_or(|source| source.is_ipv4() == target.is_ipv4())) {
        match open_one(target, source).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(Error::Connect { addr: addr.to_owned(), source: last })
}

async fn open_one(target: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    let stream = socket.connect(target).await?;
    socket::tune(&stream)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_need_a_host_and_a_port() {
        for addr in ["192.168.77.11:2377", "[fd00::1]:2377", "manager.example:2377"] {
            endpoint(addr).unwrap();
        }
        for addr in ["", "192.168.77.11", ":2377", "192.168.77.11:x", "a b:1", "192.168.77.11:99999"] {
            assert!(matches!(endpoint(addr), Err(Error::Address(_))), "{addr}");
        }
    }
}
