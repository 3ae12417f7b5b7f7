//! Who gets a certificate, and which.

use identity::{Connection, JoinToken, NodeCertificate, PrivateKey, RootCertificate, RootDigest};
use proto::model::{ClusterId, Node, Role};
use proto::wire::node_ca_server::NodeCa as _;
use tonic::Code;

use super::*;
use crate::fixtures::{self, CLUSTER, node, put};

fn from(peer: Peer, message: IssueNodeCertificateRequest) -> Request<IssueNodeCertificateRequest> {
    with_peer(peer, message)
}

fn with_peer<T>(peer: Peer, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(Connection { peer, remote: None });
    request
}

fn a_node(id: &NodeId, role: Role) -> Peer {
    Peer::Node { id: id.clone(), role, cluster: ClusterId::from(CLUSTER) }
}

fn application(token: &str) -> IssueNodeCertificateRequest {
    let csr = PrivateKey::generate().unwrap().signing_request().unwrap();
    IssueNodeCertificateRequest { csr: csr.into_bytes(), token: token.into(), ..Default::default() }
}

struct Swarm {
    store: Store,
    ca: Ca,
    worker: String,
    manager: String,
}

fn ca(store: &Store) -> Ca {
    Ca::new(store.clone(), Clock::system(), Arc::new(Signers::anonymous(Clock::system())))
}

async fn swarm() -> Swarm {
    let store = fixtures::store().await;
    let tokens = store.view().cluster().unwrap().root_ca.join_tokens.clone();
    let ca = ca(&store);
    Swarm { store, ca, worker: tokens.worker.into_inner(), manager: tokens.manager.into_inner() }
}

impl Swarm {
    async fn issue(&self, peer: Peer, request: IssueNodeCertificateRequest) -> Result<NodeId, Status> {
        let issued = self.ca.issue_node_certificate(from(peer, request)).await?;
        Ok(issued.into_inner().node_id.into())
    }

    async fn certificate(&self, peer: Peer, id: &NodeId) -> Result<NodeCertificate, Status> {
        let request = NodeCertificateStatusRequest { node_id: id.to_string() };
        let answer = self.ca.node_certificate_status(with_peer(peer, request)).await?.into_inner();
        let chain = answer.certificate.unwrap().certificate;
        Ok(NodeCertificate::from_pem(&String::from_utf8(chain).unwrap()).unwrap())
    }
}

#[tokio::test]
async fn the_token_decides_the_role() {
    let swarm = swarm().await;
    for (token, role) in [(&swarm.worker, Role::Worker), (&swarm.manager, Role::Manager)] {
        let id = swarm.issue(Peer::Anonymous, application(token)).await.unwrap();
        let certificate = swarm.certificate(Peer::Anonymous, &id).await.unwrap();
        let subject = certificate.subject();
        assert_eq!((&subject.node, subject.role, subject.cluster.as_str()), (&id, role, CLUSTER));
        let view = swarm.store.view();
        let node = view.node(&id).unwrap();
        assert_eq!((node.role, node.spec.desired_role), (role, role));
        let root = view.cluster().unwrap().root_ca.cert.clone();
        let root = RootCertificate::from_pem(&String::from_utf8(root).unwrap()).unwrap();
        root.verify(&certificate, std::time::SystemTime::now()).unwrap();
    }
}

#[tokio::test]
async fn no_other_token_will_do() {
    let swarm = swarm().await;
    let mut changed = swarm.worker.clone();
    let last = changed.pop().unwrap();
    changed.push(if last == '0' { '1' } else { '0' });
    let foreign = JoinToken::generate(identity::RootDigest::of(b"another root")).unwrap().to_string();
    for token in ["", "SWMTKN", &changed, &foreign] {
        let refused = swarm.issue(Peer::Anonymous, application(token)).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{token}");
        assert!(refused.message().contains("neither the worker's nor the manager's"), "{refused}");
    }
    assert_eq!(swarm.store.view().nodes().len(), 0);
}

#[tokio::test]
async fn what_is_no_request_is_refused() {
    let swarm = swarm().await;
    let with = |csr: &[u8]| IssueNodeCertificateRequest {
        csr: csr.to_vec(),
        token: swarm.worker.clone(),
        ..Default::default()
    };
    for csr in [&b"text"[..], &[0xff, 0xfe], &vec![b'a'; LONGEST_REQUEST + 1]] {
        let refused = swarm.issue(Peer::Anonymous, with(csr)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with("csr"), "{refused}");
    }
}

#[tokio::test]
async fn a_renewal_gives_the_role_of_the_store() {
    let swarm = swarm().await;
    let id = swarm.issue(Peer::Anonymous, application(&swarm.worker)).await.unwrap();
    let mut promoted = Node::clone(swarm.store.view().node(&id).unwrap());
    promoted.role = Role::Manager;
    put(&swarm.store, [promoted]).await;
    let peer = a_node(&id, Role::Worker);
    // With another token than it came with: it is ignored.
    assert_eq!(swarm.issue(peer.clone(), application(&swarm.worker)).await.unwrap(), id);
    assert_eq!(swarm.certificate(peer, &id).await.unwrap().subject().role, Role::Manager);
    let stranger = a_node(&"removed".into(), Role::Manager);
    assert_eq!(swarm.issue(stranger, application("")).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_node_sees_its_own_certificate_only() {
    let swarm = swarm().await;
    put(&swarm.store, [node(1)]).await;
    let id = swarm.issue(Peer::Anonymous, application(&swarm.worker)).await.unwrap();
    let other = a_node(&fixtures::node_id(1), Role::Manager);
    assert_eq!(swarm.certificate(other, &id).await.unwrap_err().code(), Code::PermissionDenied);
    let unknown = swarm.certificate(Peer::Anonymous, &"no-such-node".into()).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test]
async fn a_crowd_is_told_to_come_again() {
    let swarm = swarm().await;
    let _all = swarm.ca.strangers.places.acquire_many((AT_A_TIME + WAITING) as u32).await.unwrap();
    let refused = swarm.issue(Peer::Anonymous, application(&swarm.worker)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    // Nodes do not stand in that queue.
    put(&swarm.store, [node(1)]).await;
    let renewal = a_node(&fixtures::node_id(1), Role::Worker);
    swarm.issue(renewal, application("")).await.unwrap();
}

#[tokio::test]
async fn a_token_that_is_replaced_meanwhile_opens_nothing() {
    let swarm = swarm().await;
    let csr = PrivateKey::generate().unwrap().signing_request().unwrap();
    let cluster = swarm.ca.cluster().unwrap();
    let signed = swarm.ca.sign(&cluster, &"n1".into(), Role::Worker, &csr).await.unwrap();
    let mut looks = 0;
    let admitted = swarm.store.update(|tx| {
        looks += 1;
        // As on a manager that has not heard of the rotation: its view is older.
        if looks == 1 {
            let mut cluster = Cluster::clone(swarm.store.view().cluster().unwrap());
            let fresh = JoinToken::generate(RootDigest::of(&cluster.root_ca.cert)).unwrap();
            cluster.root_ca.join_tokens.worker = proto::model::Sensitive::new(fresh.to_string());
            futures_util::FutureExt::now_or_never(put(&swarm.store, [cluster])).unwrap();
        }
        issue::admit(tx, &signed, &swarm.worker, Availability::Active)
    });
    let refused = status(admitted.await.unwrap_err());
    assert_eq!((refused.code(), looks), (Code::PermissionDenied, 2));
    assert_eq!(swarm.store.view().nodes().count(), 0);
}

#[tokio::test]
async fn a_certificate_for_what_has_changed_meanwhile_is_made_anew() {
    let swarm = swarm().await;
    let id = swarm.issue(Peer::Anonymous, application(&swarm.worker)).await.unwrap();
    let csr = PrivateKey::generate().unwrap().signing_request().unwrap();
    let cluster = swarm.ca.cluster().unwrap();
    let signed = swarm.ca.sign(&cluster, &id, Role::Worker, &csr).await.unwrap();
    let enters = async |signed: &Signed| swarm.store.update(|tx| issue::renew(tx, signed)).await.unwrap();
    assert!(enters(&signed).await);
    let mut promoted = Node::clone(swarm.store.view().node(&id).unwrap());
    promoted.role = Role::Manager;
    put(&swarm.store, [promoted]).await;
    assert!(!enters(&signed).await, "it is of another role");

    let signed = swarm.ca.sign(&cluster, &id, Role::Manager, &csr).await.unwrap();
    assert!(enters(&signed).await);
    let mut cluster = Cluster::clone(&cluster);
    cluster.root_ca.cert = fixtures::cluster().root_ca.cert;
    put(&swarm.store, [cluster]).await;
    assert!(!enters(&signed).await, "it is of another root");
}
