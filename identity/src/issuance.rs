//! Asking a manager for a certificate.
//!
//! A request is handed in, then the manager is asked until it has signed: the same two calls for a node that joins (with
//! a token, without a certificate) and for one that renews (with its certificate). What comes back is not trusted
//! here; who asked checks it.

use std::future::Future;
use std::time::Duration;

use proto::model::Availability;
use proto::wire;
use proto::wire::ca_client::CaClient;
use proto::wire::issuance_status::State;
use proto::wire::node_ca_client::NodeCaClient;
use tokio::sync::watch;
use tonic::transport::Channel;
use tonic::{Code, Status};
use zeroize::Zeroizing;

use crate::UnlockKey;
use crate::dial::{self, Dialer};
use crate::token::JoinToken;

/// From the request to the certificate.
pub const TIMEOUT: Duration = Duration::from_secs(10);
const FIRST_POLL: Duration = Duration::from_millis(20);
const LONGEST_POLL: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the join token is not valid: {0}")]
    Token(String),
    #[error("no certificate was issued: {0}")]
    Refused(String),
    #[error("the manager could not issue the certificate: {0}")]
    Failed(String),
    #[error("the manager issued no certificate within {TIMEOUT:?}")]
    Timeout,
    #[error("the manager's answer lacks a usable {0}")]
    Answer(&'static str),
    #[error("no manager is known that could issue a certificate")]
    NoManager,
    #[error(transparent)]
    Dial(#[from] dial::Error),
}

/// What a node asks for.
#[derive(Debug)]
pub struct Application<'a> {
    /// Signing request in PEM.
    pub request: &'a str,
    /// Needed without a certificate, ignored with one.
    pub token: Option<&'a JoinToken>,
    /// With which the node starts; counts only when it joins.
    pub availability: Availability,
}

impl<'a> Application<'a> {
    /// By a node that has a certificate.
    pub const fn renewal(request: &'a str) -> Self {
        Self { request, token: None, availability: Availability::Active }
    }

    fn refusal(&self, status: &Status) -> Error {
        let about_token =
            matches!(status.code(), Code::InvalidArgument | Code::PermissionDenied | Code::Unauthenticated);
        if self.token.is_some() && about_token {
            Error::Token(status.message().to_owned())
        } else {
            Error::Refused(dial::explain(status))
        }
    }
}

/// Has a certificate issued by the manager behind `channel`; the answer is the chain in PEM.
pub async fn apply(channel: Channel, application: &Application<'_>) -> Result<String, Error> {
    let applying = hand_in_and_wait(channel, application);
    tokio::time::timeout(TIMEOUT, applying).await.map_err(|_| Error::Timeout)?
}

async fn hand_in_and_wait(channel: Channel, application: &Application<'_>) -> Result<String, Error> {
    let mut manager = NodeCaClient::new(channel);
    let request = wire::IssueNodeCertificateRequest {
        csr: application.request.as_bytes().to_vec(),
        token: application.token.map(ToString::to_string).unwrap_or_default(),
        availability: wire::node_spec::Availability::from(application.availability).into(),
        ..Default::default()
    };
    let accepted = manager.issue_node_certificate(request).await;
    let node_id = accepted.map_err(|status| application.refusal(&status))?.into_inner().node_id;

    let mut pause = FIRST_POLL;
    loop {
        let query = wire::NodeCertificateStatusRequest { node_id: node_id.clone() };
        match manager.node_certificate_status(query).await {
            Ok(answer) => {
                if let Some(chain) = issued(answer.into_inner(), application.request)? {
                    return Ok(chain);
                }
            }
            // A manager that has not seen the request of its peer yet.
            Err(status) if status.code() == Code::NotFound => {}
            Err(status) => return Err(Error::Refused(dial::explain(&status))),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_POLL);
    }
}

/// The chain, once it is there: `None` while the request is pending or the answer still is about an earlier one.
fn issued(answer: wire::NodeCertificateStatusResponse, request: &str) -> Result<Option<String>, Error> {
    let status = answer.status.ok_or(Error::Answer("status"))?;
    match status.state() {
        State::Failed => Err(Error::Failed(status.err)),
        State::Issued | State::Rotate => {
            let certificate = answer.certificate.ok_or(Error::Answer("certificate"))?;
            if certificate.csr != request.as_bytes() {
                return Ok(None);
            }
            String::from_utf8(certificate.certificate)
                .map(Some)
                .map_err(|_| Error::Answer("certificate.certificate"))
        }
        _ => Ok(None),
    }
}

/// What seals the keys of managers on disk, and the version of the cluster object that says so. For managers.
pub async fn unlock_key(channel: Channel) -> Result<(Option<UnlockKey>, u64), Error> {
    let mut manager = CaClient::new(channel);
    let asked = tokio::time::timeout(TIMEOUT, manager.get_unlock_key(wire::GetUnlockKeyRequest {}));
    let answer = asked.await.map_err(|_| Error::Timeout)?;
    let answer = answer.map_err(|status| Error::Refused(dial::explain(&status)))?.into_inner();
    let bytes = Zeroizing::new(answer.unlock_key);
    let key = (!bytes.is_empty()).then(|| UnlockKey::from_bytes(&bytes)).transpose();
    Ok((key.map_err(|_| Error::Answer("unlock_key"))?, answer.version.unwrap_or_default().index))
}

/// Signs what a node asks for: other managers over the network, or the own CA of a manager.
pub trait Certify: Send + Sync {
    /// Answers a signing request (PEM) with a chain (PEM).
    fn issue(&self, request: &str) -> impl Future<Output = Result<String, Error>> + Send;
}

/// Any of the managers of the swarm, asked in turn.
#[derive(Clone, Debug)]
pub struct Managers {
    dialer: Dialer,
    addresses: watch::Receiver<Vec<String>>,
}

impl Managers {
    /// `addresses` (`host:port`) is kept current by the owner of the node's list of managers.
    pub const fn new(dialer: Dialer, addresses: watch::Receiver<Vec<String>>) -> Self {
        Self { dialer, addresses }
    }

    async fn ask(&self, address: &str, request: &str) -> Result<String, Error> {
        apply(self.dialer.channel(address)?, &Application::renewal(request)).await
    }
}

impl Certify for Managers {
    async fn issue(&self, request: &str) -> Result<String, Error> {
        let addresses = self.addresses.borrow().clone();
        let mut outcome = Err(Error::NoManager);
        for address in addresses {
            outcome = self.ask(&address, request).await;
            match &outcome {
                Ok(_) => break,
                Err(error) => tracing::debug!(%address, %error, "a manager issued no certificate"),
            }
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(state: State, csr: &str) -> wire::NodeCertificateStatusResponse {
        wire::NodeCertificateStatusResponse {
            status: Some(wire::IssuanceStatus { state: state.into(), err: "no".to_owned() }),
            certificate: Some(wire::Certificate {
                csr: csr.into(),
                certificate: "chain".into(),
                ..Default::default()
            }),
        }
    }

    #[test]
    fn only_an_answer_to_this_request_counts() {
        assert_eq!(issued(answer(State::Issued, "mine"), "mine").unwrap().unwrap(), "chain");
        for waiting in [answer(State::Pending, "mine"), answer(State::Issued, "earlier")] {
            assert!(issued(waiting, "mine").unwrap().is_none());
        }
        assert!(
            matches!(issued(answer(State::Failed, "mine"), "mine"), Err(Error::Failed(why)) if why == "no")
        );
    }

    #[test]
    fn missing_fields_are_named() {
        let without_status =
            wire::NodeCertificateStatusResponse { status: None, ..answer(State::Issued, "x") };
        assert!(matches!(issued(without_status, "x"), Err(Error::Answer("status"))));
        let without = wire::NodeCertificateStatusResponse { certificate: None, ..answer(State::Issued, "x") };
        assert!(matches!(issued(without, "x"), Err(Error::Answer("certificate"))));
    }
}
