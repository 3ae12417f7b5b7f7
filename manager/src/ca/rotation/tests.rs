use std::convert::Infallible;
use std::time::{Duration, SystemTime};

use identity::{Clock, NodeCertificate, PrivateKey, RootCa, Signers, Subject};
use proto::model::{Role, TlsInfo};
use raft_store::Store;

use super::*;
use crate::ca::change::{Next, prepare};
use crate::ca::issue::{self, Signed};
use crate::ca::signer::{self, Signer};
use crate::fixtures::{self, node, node_id, put};

const HOUR: Duration = Duration::from_secs(3600);

fn now() -> SystemTime {
    SystemTime::now()
}

async fn change(store: &Store, mut change: impl FnMut(&mut Transaction) + Send) {
    let changed = store.update(|tx| {
        change(tx);
        Ok::<_, Infallible>(())
    });
    changed.await.unwrap();
}

async fn wish(store: &Store, next: &RootCa) {
    let signers = Signers::anonymous(Clock::system());
    let cluster = Cluster::clone(store.view().cluster().unwrap());
    let next = Next::Own(next.clone());
    let changed = prepare(&cluster, cluster.spec.clone(), Some(next), &signers, now()).await.unwrap();
    put(store, [changed]).await;
}

fn planned(store: &Store) -> Vec<Action> {
    Rotation.plan(&store.view(), &Scope::All, now()).actions
}

async fn act(store: &Store, actions: &[Action]) {
    for action in actions {
        change(store, |tx| Rotation.commit(action, now(), tx)).await;
    }
}

/// The node gets its next certificate.
async fn renew(store: &Store, number: u8) {
    let cluster = Cluster::clone(store.view().cluster().unwrap());
    let subject = Subject { node: node_id(number), role: Role::Worker, cluster: cluster.id.clone() };
    let csr = PrivateKey::generate().unwrap().signing_request().unwrap();
    let signers = Signers::anonymous(Clock::system());
    let signer = Signer::of(&cluster).unwrap();
    let chain = signer.sign(&signers, &csr, &subject, HOUR, now()).await.unwrap();
    let signed = Signed::new(&cluster, subject, &csr, chain);
    change(store, |tx| assert!(issue::renew(tx, &signed).unwrap())).await;
}

/// The node says what it has.
async fn tell(store: &Store, number: u8) {
    let mut node = Node::clone(store.view().node(&node_id(number)).unwrap());
    let issuer = Issuer::of_chain(&String::from_utf8_lossy(&node.certificate.chain)).unwrap();
    node.description.as_mut().unwrap().tls = Some(TlsInfo {
        trust_root: store.view().cluster().unwrap().root_ca.cert.clone(),
        issuer_subject: issuer.subject,
        issuer_public_key: issuer.public_key,
    });
    put(store, [node]).await;
}

async fn swarm() -> Store {
    let store = fixtures::store().await;
    put(&store, [node(1), node(2)]).await;
    for number in [1, 2] {
        renew(&store, number).await;
        tell(&store, number).await;
    }
    store
}

fn ask(numbers: &[u8]) -> Vec<Action> {
    numbers.iter().map(|number| Action::Ask(node_id(*number))).collect()
}

fn root(store: &Store) -> RootCertificate {
    let cert = store.view().cluster().unwrap().root_ca.cert.clone();
    RootCertificate::from_pem(&String::from_utf8(cert).unwrap()).unwrap()
}

fn certificate(store: &Store, number: u8) -> NodeCertificate {
    let chain = store.view().node(&node_id(number)).unwrap().certificate.chain.clone();
    NodeCertificate::from_pem(&String::from_utf8(chain).unwrap()).unwrap()
}

#[tokio::test]
async fn the_old_root_goes_when_no_node_needs_it() {
    let store = swarm().await;
    assert!(planned(&store).is_empty());
    let (old, next) = (root(&store), RootCa::generate(now()).unwrap());
    let tokens = store.view().cluster().unwrap().root_ca.join_tokens.clone();
    wish(&store, &next).await;
    assert_eq!(planned(&store), ask(&[1, 2]));
    act(&store, &planned(&store)).await;
    assert!(planned(&store).is_empty(), "they were asked");

    renew(&store, 1).await;
    assert!(planned(&store).is_empty(), "it was given one");
    for root in [&old, next.certificate()] {
        root.verify(&certificate(&store, 1), now()).unwrap();
    }
    tell(&store, 1).await;
    assert!(planned(&store).is_empty(), "the other one has not renewed");
    act(&store, &[Action::Finish(next.certificate().pem().into())]).await;
    assert_eq!(root(&store), old, "it is too early");

    renew(&store, 2).await;
    tell(&store, 2).await;
    assert_eq!(planned(&store), [Action::Finish(next.certificate().pem().into())]);
    act(&store, &planned(&store)).await;
    assert!(planned(&store).is_empty());
    assert_eq!(root(&store), *next.certificate());
    let state = store.view().cluster().unwrap().root_ca.clone();
    assert_eq!(state.rotation, None);
    assert!(state.join_tokens.worker != tokens.worker && state.join_tokens.manager != tokens.manager);
    let token: JoinToken = state.join_tokens.worker.expose().parse().unwrap();
    assert_eq!(token.root_digest(), next.certificate().digest());
    renew(&store, 1).await;
    next.certificate().verify(&certificate(&store, 1), now()).unwrap();
    old.verify(&certificate(&store, 1), now()).unwrap_err();
}

#[tokio::test]
async fn another_rotation_takes_the_place_of_one_under_way() {
    let store = swarm().await;
    let old = store.view().cluster().unwrap().root_ca.clone();
    let (second, third) = (RootCa::generate(now()).unwrap(), RootCa::generate(now()).unwrap());
    wish(&store, &second).await;
    act(&store, &planned(&store)).await;
    renew(&store, 1).await;
    tell(&store, 1).await;

    wish(&store, &third).await;
    assert_eq!(planned(&store), ask(&[1]), "the other was asked before and has not renewed since");
    act(&store, &planned(&store)).await;
    for number in [1, 2] {
        renew(&store, number).await;
        tell(&store, number).await;
        root(&store).verify(&certificate(&store, number), now()).unwrap();
    }
    act(&store, &planned(&store)).await;
    assert_eq!(root(&store), *third.certificate());

    // Back to the first: that is a rotation like any other. Back to the one that there is: it is given up.
    let first = signer::own(&Cluster { root_ca: old, ..fixtures::cluster() }).unwrap().unwrap();
    wish(&store, &first).await;
    assert_eq!(planned(&store).len(), 2);
    wish(&store, &third).await;
    assert!(planned(&store).is_empty() && root(&store) == *third.certificate());
}

#[tokio::test]
async fn a_node_that_lost_its_certificate_is_asked_again() {
    let store = swarm().await;
    wish(&store, &RootCa::generate(now()).unwrap()).await;
    act(&store, &planned(&store)).await;
    renew(&store, 1).await;
    // It comes back and tells of the old one.
    let view = store.view();
    assert!(is_behind(&view, view.node(&node_id(1)).unwrap()));
    tell(&store, 1).await;
    let view = store.view();
    assert!(!is_behind(&view, view.node(&node_id(1)).unwrap()));
}
