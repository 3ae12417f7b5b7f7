//! Certificates for nodes: who shows a join token becomes a node, who has a certificate gets the next one.
//!
//! Decides who gets a certificate and in which role; how one is made is `identity`'s. Any manager signs, or has it
//! signed (`signer`), before anything is written: a node that cannot have a certificate leaves no trace.
//!
//! Invariant: a certificate says what the store says. A role is never taken from a request: it is the token's for
//! a new node, and the store's for one that is known.

pub mod change;
mod issue;
pub mod rotation;
pub mod signer;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use identity::{Clock, Peer, Signers, Subject};
use proto::convert::{Error as Malformed, Within};
use proto::model::{Availability, Certificate, Cluster, Membership, NodeId, Role, Sensitive};
use proto::wire::{
    self, GetRootCaCertificateRequest, GetRootCaCertificateResponse, GetUnlockKeyRequest,
    GetUnlockKeyResponse, IssueNodeCertificateRequest, IssueNodeCertificateResponse,
    NodeCertificateStatusRequest, NodeCertificateStatusResponse, ca_server, node_ca_server,
};
use raft_store::Store;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use crate::api::limits;
use crate::error::{Error, status};
use issue::Signed;
use signer::Signer;

/// Requests that are worked on at a time: each costs a signature and an entry of the log.
const AT_A_TIME: usize = 8;
/// Requests that may wait for their turn. More are told to come again.
const WAITING: usize = 256;
/// Often enough for a certificate to enter the store while roles and roots change.
const ATTEMPTS: usize = 8;
/// Far above any request for a P-256 key.
const LONGEST_REQUEST: usize = 16 * 1024;

#[derive(Clone)]
pub struct Ca {
    store: Store,
    clock: Clock,
    signers: Arc<Signers>,
    /// Apart, so that a crowd of strangers keeps no node from its next certificate.
    nodes: Arc<Queue>,
    strangers: Arc<Queue>,
}

/// Bounds the requests that are worked on and those that wait.
struct Queue {
    turns: Semaphore,
    places: Semaphore,
}

impl Default for Queue {
    fn default() -> Self {
        Self { turns: Semaphore::new(AT_A_TIME), places: Semaphore::new(AT_A_TIME + WAITING) }
    }
}

impl Queue {
    async fn pass<T>(&self, work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        let busy = || Status::resource_exhausted("too many nodes ask for certificates: try again later");
        let _place = self.places.try_acquire().map_err(|_| busy())?;
        let _turn = self.turns.acquire().await.map_err(|_| busy())?;
        work.await
    }
}

impl Ca {
    pub fn new(store: Store, clock: Clock, signers: Arc<Signers>) -> Self {
        Self { store, clock, signers, nodes: Arc::default(), strangers: Arc::default() }
    }

    fn cluster(&self) -> Result<Arc<Cluster>, Status> {
        let late = || Status::unavailable("this manager has not caught up yet");
        self.store.view().cluster().cloned().ok_or_else(late)
    }

    async fn issue(&self, peer: &Peer, request: IssueNodeCertificateRequest) -> Result<NodeId, Status> {
        limits::size("csr", request.csr.len(), LONGEST_REQUEST)?;
        let csr = String::from_utf8(request.csr)
            .map_err(|_| Error::from(Malformed::invalid("csr", "(binary)", "a PEM block")))?;
        match peer {
            Peer::Node { id, .. } => self.nodes.pass(self.renew(id, &csr)).await,
            Peer::Local | Peer::Anonymous => {
                self.strangers.pass(self.admit(&csr, &request.token, request.availability)).await
            }
        }
    }

    /// A new node, in the role that its token is for.
    async fn admit(&self, csr: &str, token: &str, availability: i32) -> Result<NodeId, Status> {
        let availability = wire::node_spec::Availability::try_from(availability)
            .map(Availability::from)
            .map_err(|_| Malformed::invalid("availability", availability, "active, pause or drain"))
            .within("request")
            .map_err(Error::from)?;
        let id = NodeId::from_random(rand::random());
        for _ in 0..ATTEMPTS {
            let cluster = self.cluster()?;
            let signed = self.sign(&cluster, &id, issue::role_of(&cluster, token)?, csr).await?;
            let created = self.store.update(|tx| issue::admit(tx, &signed, token, availability));
            if created.await.map_err(status)? {
                tracing::info!(node = %id, "a node has joined");
                return Ok(id);
            }
        }
        Err(changing())
    }

    /// The next certificate of a node that is known, in the role that it has now.
    async fn renew(&self, id: &NodeId, csr: &str) -> Result<NodeId, Status> {
        for _ in 0..ATTEMPTS {
            let role = issue::known(&self.store.view(), id)?.role;
            let cluster = self.cluster()?;
            let signed = self.sign(&cluster, id, role, csr).await?;
            let updated = self.store.update(|tx| issue::renew(tx, &signed));
            if updated.await.map_err(status)? {
                return Ok(id.clone());
            }
        }
        Err(changing())
    }

    /// Nothing is written yet.
    async fn sign(&self, cluster: &Cluster, id: &NodeId, role: Role, csr: &str) -> Result<Signed, Error> {
        let subject = Subject { node: id.clone(), role, cluster: cluster.id.clone() };
        let lifetime = cluster.spec.ca.node_cert_expiry;
        let signer = Signer::of(cluster)?;
        let chain = signer.sign(&self.signers, csr, &subject, lifetime, self.clock.now()).await?;
        Ok(Signed::new(cluster, subject, csr, chain))
    }
}

fn changing() -> Status {
    Status::unavailable("the root or the node's role changes just now: try again")
}

#[tonic::async_trait]
impl ca_server::Ca for Ca {
    async fn get_root_ca_certificate(
        &self,
        _: Request<GetRootCaCertificateRequest>,
    ) -> Result<Response<GetRootCaCertificateResponse>, Status> {
        let cluster = self.cluster()?;
        Ok(Response::new(GetRootCaCertificateResponse { certificate: cluster.root_ca.cert.clone() }))
    }

    async fn get_unlock_key(
        &self,
        _: Request<GetUnlockKeyRequest>,
    ) -> Result<Response<GetUnlockKeyResponse>, Status> {
        let cluster = self.cluster()?;
        let unlock_key = cluster.unlock_key.clone().map(Sensitive::into_inner).unwrap_or_default();
        let version = Some(wire::Version { index: cluster.meta.version });
        Ok(Response::new(GetUnlockKeyResponse { unlock_key, version }))
    }
}

#[tonic::async_trait]
impl node_ca_server::NodeCa for Ca {
    async fn issue_node_certificate(
        &self,
        request: Request<IssueNodeCertificateRequest>,
    ) -> Result<Response<IssueNodeCertificateResponse>, Status> {
        let peer = Peer::of(request.extensions()).clone();
        let node_id = self.issue(&peer, request.into_inner()).await?.to_string();
        let node_membership = wire::node_spec::Membership::from(Membership::Accepted).into();
        Ok(Response::new(IssueNodeCertificateResponse { node_id, node_membership }))
    }

    /// A node may ask for its own; a stranger for one whose id it can name, which is as hard to guess as a key.
    async fn node_certificate_status(
        &self,
        request: Request<NodeCertificateStatusRequest>,
    ) -> Result<Response<NodeCertificateStatusResponse>, Status> {
        let asked = &request.get_ref().node_id;
        if let Peer::Node { id, .. } = Peer::of(request.extensions())
            && id.as_str() != asked
        {
            return Err(Status::permission_denied("a node may ask for its own certificate only"));
        }
        let view = self.store.view();
        let node = view.node(&asked.as_str().into()).ok_or_else(|| Error::not_found("node", asked))?;
        Ok(Response::new(status_of(&node.certificate)))
    }
}

fn status_of(certificate: &Certificate) -> NodeCertificateStatusResponse {
    let certificate = wire::Certificate::from(certificate);
    NodeCertificateStatusResponse { status: certificate.status.clone(), certificate: Some(certificate) }
}
