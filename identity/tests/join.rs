//! Joining a swarm, and every way in which it must fail.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use identity::bootstrap::{Error, Join, Joined};
use identity::issuance::{self, Certify, Managers};
use identity::{CertificateDir, Dialer, JoinToken, NodeCertificate, Peer};
use proto::model::{Availability, Role};
use support::{Manager, Swarm};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;

/// One attempt with a data root of its own.
struct Attempt {
    data_root: TempDir,
    join: Join,
}

impl Attempt {
    fn new(addr: SocketAddr, token: JoinToken) -> Self {
        let join = Join { addr: addr.to_string(), token, availability: Availability::Drain, source: None };
        Self { data_root: tempfile::tempdir().unwrap(), join }
    }

    fn dir(&self) -> CertificateDir {
        CertificateDir::new(self.data_root.path())
    }

    async fn run(&self) -> Result<Joined, Error> {
        self.join.run(&self.dir(), SystemTime::now()).await
    }

    /// It fails and leaves nothing on disk.
    async fn fails(&self) -> Error {
        let error = self.run().await.unwrap_err();
        assert_eq!(std::fs::read_dir(self.data_root.path()).unwrap().count(), 0);
        error
    }
}

#[tokio::test]
async fn a_token_and_an_address_are_enough() {
    let swarm = Swarm::new("one");
    let manager = Manager::start(&swarm, swarm.identity("m1", Role::Manager)).await;
    let attempt = Attempt::new(manager.addr, manager.service.token());
    let joined = attempt.run().await.unwrap();

    let subject = joined.identity.subject();
    assert_eq!((subject.role, subject.cluster.as_str()), (Role::Worker, "one"));
    assert_eq!(joined.root, *swarm.ca.certificate());
    assert_eq!(attempt.dir().load().unwrap(), Some((joined.identity.clone(), joined.root)));
    let key = attempt.data_root.path().join("certificates/swarm-node.key");
    assert_eq!(std::fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);

    assert!(manager.service.callers().iter().all(|caller| caller.peer == Peer::Anonymous));
    assert_eq!(manager.service.requests()[0].availability(), proto::wire::node_spec::Availability::Drain);
}

#[tokio::test]
async fn another_swarms_manager_never_sees_the_token() {
    let (swarm, other) = (Swarm::new("one"), Swarm::new("two"));
    let manager = Manager::start(&swarm, swarm.identity("m1", Role::Manager)).await;
    let error = Attempt::new(manager.addr, other.token()).fails().await;
    assert!(matches!(error, Error::OtherSwarm { .. }));
    assert!(error.to_string().contains("remote CA does not match fingerprint"), "{error}");
    assert!(manager.service.requests().is_empty());
}

/// Serves the right root, but has no certificate under it.
#[tokio::test]
async fn an_impostor_with_the_right_root_never_sees_the_token() {
    let (swarm, forger) = (Swarm::new("one"), Swarm::new("one"));
    let honest = swarm.token();
    let disguised = Swarm { ca: swarm.ca.clone(), cluster: "one".to_owned() };
    let impostor =
        Manager::start_as(&disguised, forger.credentials(forger.identity("m1", Role::Manager))).await;
    let error = Attempt::new(impostor.addr, honest).fails().await;
    assert!(matches!(error, Error::Dial(identity::dial::Error::Handshake { .. })), "{error:?}");
    assert!(impostor.service.requests().is_empty());
}

#[tokio::test]
async fn a_worker_cannot_pose_as_a_manager_to_get_the_token() {
    let swarm = Swarm::new("one");
    let worker = Manager::start(&swarm, swarm.identity("w1", Role::Worker)).await;
    let error = Attempt::new(worker.addr, worker.service.token()).fails().await;
    assert!(matches!(error, Error::Dial(identity::dial::Error::Handshake { .. })), "{error:?}");
    assert!(worker.service.requests().is_empty());
}

#[tokio::test]
async fn a_token_with_another_secret_is_not_valid() {
    let swarm = Swarm::new("one");
    let manager = Manager::start(&swarm, swarm.identity("m1", Role::Manager)).await;
    let error = Attempt::new(manager.addr, swarm.token()).fails().await;
    assert!(matches!(error, Error::Issuance(issuance::Error::Token(_))), "{error:?}");
    assert!(error.to_string().starts_with("the join token is not valid"), "{error}");
}

#[tokio::test]
async fn nobody_at_the_address_is_said_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let started = Instant::now();
    let error = Attempt::new(addr, Swarm::new("one").token()).fails().await;
    assert_eq!(error.to_string(), format!("cannot connect to manager {addr}"));
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn one_who_does_not_speak_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let started = Instant::now();
    let error = Attempt::new(addr, Swarm::new("one").token()).fails().await;
    assert_eq!(error.to_string(), format!("manager {addr} did not answer within 5s"));
    assert!(started.elapsed() < Duration::from_secs(8));
}

#[tokio::test]
async fn a_node_renews_with_any_manager_that_answers() {
    let swarm = Swarm::new("one");
    let manager = Manager::start(&swarm, swarm.identity("m1", Role::Manager)).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = listener.local_addr().unwrap().to_string();
    drop(listener);

    let dialer = Dialer::new(swarm.credentials(swarm.identity("w1", Role::Worker)));
    let (addresses, current) = watch::channel(vec![dead.clone()]);
    let managers = Managers::new(dialer, current);
    let request = identity::PrivateKey::generate().unwrap().signing_request().unwrap();
    let error = managers.issue(&request).await.unwrap_err();
    assert!(error.to_string().contains(&dead), "{error}");

    addresses.send_replace(vec![dead, manager.addr.to_string()]);
    let chain = managers.issue(&request).await.unwrap();
    assert_eq!(NodeCertificate::from_pem(&chain).unwrap().subject().node.as_str(), "w1");
    assert!(matches!(manager.service.last_caller().peer, Peer::Node { .. }));
    assert_eq!(manager.service.requests()[0].token, "");

    addresses.send_replace(Vec::new());
    assert!(matches!(managers.issue(&request).await, Err(issuance::Error::NoManager)));
}
