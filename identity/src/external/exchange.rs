//! One request to a signer and its answer: HTTP/1.1 over a TLS connection of its own.
//!
//! Bounded in time and size, whatever the other side does; redirections are not followed.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::io;
use std::sync::Arc;

use http::header::{CONTENT_TYPE, HOST};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::message::{self, Order, Outcome};
use super::{Endpoint, Flaw, LARGEST_ANSWER, TIMEOUT};
use crate::dial;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no answer within {TIMEOUT:?}")]
    Timeout,
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("cannot recognise it as a signer of this swarm: {0}")]
    Handshake(io::Error),
    #[error("the connection has failed: {0}")]
    Broken(String),
    #[error("it answered {0}")]
    Status(String, StatusCode),
    #[error("its answer is larger than {LARGEST_ANSWER} bytes")]
    TooLarge,
    #[error("its answer is not one of the CFSSL sign API: {0}")]
    Malformed(serde_json::Error),
    #[error("it refused: {0}")]
    Refused(String),
    #[error("what it signed is not used: {0}")]
    Certificate(#[from] Flaw),
}

impl Error {
    /// It is the signer or the way there, not the request.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Timeout | Self::Connect(_) | Self::Handshake(_) | Self::Broken(_) => true,
            Self::Status(_, status) => status.is_server_error(),
            Self::TooLarge | Self::Malformed(_) | Self::Refused(_) | Self::Certificate(_) => false,
        }
    }
}

/// The certificate (PEM) that the signer answers with.
pub(super) async fn post(
    endpoint: &Endpoint,
    tls: Arc<ClientConfig>,
    order: &Order,
) -> Result<String, Error> {
    let asking = async { send(endpoint, connect(endpoint, tls).await?, order).await };
    let (status, answer) = tokio::time::timeout(TIMEOUT, asking).await.map_err(|_| Error::Timeout)??;
    if status != StatusCode::OK {
        let said = format!("{status}: {}", String::from_utf8_lossy(&answer));
        return Err(Error::Status(message::legible(said.trim_end_matches([':', ' '])), status));
    }
    match message::read(&answer).map_err(Error::Malformed)? {
        Outcome::Certificate(pem) => Ok(pem),
        Outcome::Refused(reason) => Err(Error::Refused(reason)),
    }
}

async fn connect(endpoint: &Endpoint, tls: Arc<ClientConfig>) -> Result<TlsStream<TcpStream>, Error> {
    let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await;
    let handshake = TlsConnector::from(tls).connect(endpoint.name.clone(), stream.map_err(Error::Connect)?);
    handshake.await.map_err(|error| Error::Handshake(dial::legible(error)))
}

async fn send(
    endpoint: &Endpoint,
    stream: TlsStream<TcpStream>,
    order: &Order,
) -> Result<(StatusCode, Vec<u8>), Error> {
    let body = serde_json::to_string(order).expect("an order has text keys and no value that JSON lacks");
    let uri = &endpoint.uri;
    let request = Request::post(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(HOST, uri.authority().map_or("", |authority| authority.as_str()))
        .header(CONTENT_TYPE, "application/json")
        .body(body)
        .expect("a path and a host that were parsed are good");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(broken)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), LARGEST_ANSWER).collect().await;
        let body = body.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
            Some(_) => Error::TooLarge,
            None => Error::Broken(innermost(error.as_ref())),
        })?;
        Ok((status, body.to_bytes().to_vec()))
    };
    // The exchange tells what became of the connection.
    let driven = async {
        let _ = connection.await;
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        outcome = exchange => outcome,
        never = driven => match never {},
    }
}

fn broken(error: hyper::Error) -> Error {
    Error::Broken(innermost(&error))
}

/// In TLS 1.3 a server judges its client after the handshake: then the cause is an alert, far inside.
fn innermost(error: &(dyn StdError + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes.last().map(ToString::to_string).unwrap_or_default()
}
