//! Certificates from an external CA: what one gets, and what is not believed.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "support/signer.rs"]
mod signer;

use std::time::{Duration, SystemTime};

use identity::external::{Authority, Endpoint, Replaced, TIMEOUT};
use identity::{Clock, Credentials, NodeCertificate, PrivateKey, RootCa, Signers, Subject};
use proto::model::Role;
use serde_json::json;
use signer::{Conduct, Signer, Signing, answer, manager_of};

const CLUSTER: &str = "c1";

struct Bench {
    ca: RootCa,
    signer: Signer,
    signers: Signers,
}

fn now() -> SystemTime {
    SystemTime::now()
}

fn signers(ca: &RootCa) -> Signers {
    let credentials = Credentials::new(manager_of(ca, CLUSTER), ca.certificate().clone()).unwrap();
    Signers::new(credentials, Clock::system())
}

fn authority(ca: &RootCa, urls: &[&str]) -> Authority {
    let endpoints = urls.iter().map(|url| url.parse::<Endpoint>().unwrap()).collect();
    Authority { endpoints, root: ca.certificate().clone(), instead_of: None }
}

async fn bench() -> Bench {
    let ca = RootCa::generate(now()).unwrap();
    let signer = Signer::start(&ca, &[ca.certificate()], "127.0.0.1:0").await;
    Bench { signers: signers(&ca), signer, ca }
}

fn subject(role: Role) -> Subject {
    Subject { node: "n1".into(), role, cluster: CLUSTER.into() }
}

impl Bench {
    async fn sign(&self, role: Role) -> Result<String, String> {
        self.sign_by(&authority(&self.ca, &[&self.signer.url]), role).await
    }

    async fn sign_by(&self, authority: &Authority, role: Role) -> Result<String, String> {
        let csr = PrivateKey::generate().unwrap().signing_request().unwrap();
        self.signers.sign(authority, &csr, &subject(role)).await.map_err(|error| error.to_string())
    }

    /// Why what it does gives no certificate, without its URL.
    async fn refusal(&self, conduct: Conduct) -> String {
        self.signer.conduct(conduct);
        let refused = self.sign(Role::Worker).await.unwrap_err();
        let start = format!("external CA {}: ", self.signer.url);
        refused.strip_prefix(&start).unwrap_or_else(|| panic!("{refused}")).to_owned()
    }
}

#[tokio::test]
async fn a_certificate_is_for_what_was_asked() {
    let bench = bench().await;
    for role in [Role::Worker, Role::Manager] {
        let chain = bench.sign(role).await.unwrap();
        let certificate = NodeCertificate::from_pem(&chain).unwrap();
        assert_eq!(*certificate.subject(), subject(role));
        bench.ca.certificate().verify(&certificate, now()).unwrap();
        assert_eq!(chain.matches("BEGIN").count(), 2, "the root goes along");
    }
    let asked = &bench.signer.requests()[0];
    assert_eq!(asked["hosts"], json!(["swarm-worker", "n1"]));
    assert_eq!(asked["subject"], json!({"CN": "n1", "names": [{"O": CLUSTER, "OU": "swarm-worker"}]}));
}

#[tokio::test]
async fn nothing_else_is_believed() {
    let bench = bench().await;
    let other = RootCa::generate(now()).unwrap();
    let good = bench.sign(Role::Worker).await.unwrap();
    let root = bench.ca.certificate().pem();
    for (conduct, says) in [
        (Conduct::Role(Role::Manager), "for the role \"swarm-manager\"; \"swarm-worker\" was asked for"),
        (Conduct::Node("n2"), "for the node \"n2\"; \"n1\" was asked for"),
        (Conduct::Key, "another key than the request"),
        (Conduct::As(Box::new(Signing(other))), "was not issued by this swarm's root"),
        (Conduct::Says(answer(&good)), "another key than the request"),
        (Conduct::Says(answer(root)), "must have exactly one organizational unit"),
        (Conduct::Says(answer("rubbish")), "not PEM"),
        (Conduct::Says("rubbish".into()), "not one of the CFSSL sign API"),
        (Conduct::Says("{\"success\":false,\"errors\":[{\"message\":\"no\"}]}".into()), "it refused: no"),
        (Conduct::Status(403, "not you".into()), "it answered 403 Forbidden: not you"),
        (Conduct::Huge(300 << 10), "larger than 262144 bytes"),
    ] {
        let refused = bench.refusal(conduct.clone()).await;
        assert!(refused.contains(says), "{conduct:?}: {refused}");
        // None of that keeps the next one from its certificate.
        bench.signer.conduct(Conduct::Honest);
        bench.sign(Role::Worker).await.unwrap();
    }
}

#[tokio::test]
async fn who_does_not_answer_is_given_up_and_left_alone() {
    let bench = bench().await;
    let begun = tokio::time::Instant::now();
    assert_eq!(bench.refusal(Conduct::Silent).await, "no answer within 5s");
    assert!(begun.elapsed() < TIMEOUT + Duration::from_secs(3));

    // While it is left alone it is not asked; the others are.
    let asked = bench.signer.requests().len();
    let begun = tokio::time::Instant::now();
    assert_eq!(bench.refusal(Conduct::Honest).await, "no answer within 5s");
    assert!(begun.elapsed() < Duration::from_secs(1) && bench.signer.requests().len() == asked);
    let second = Signer::start(&bench.ca, &[bench.ca.certificate()], "127.0.0.1:0").await;
    let both = authority(&bench.ca, &[&bench.signer.url, &second.url]);
    bench.sign_by(&both, Role::Worker).await.unwrap();
}

#[tokio::test]
async fn both_sides_show_certificates_of_the_swarm() {
    let bench = bench().await;
    let other = RootCa::generate(now()).unwrap();
    let stranger = Signer::start(&other, &[bench.ca.certificate()], "127.0.0.1:0").await;
    let refused = bench.sign_by(&authority(&bench.ca, &[&stranger.url]), Role::Worker).await.unwrap_err();
    assert!(refused.contains("cannot recognise it as a signer of this swarm"), "{refused}");
    assert!(stranger.requests().is_empty());

    let unknown = Bench { signers: Signers::anonymous(Clock::system()), ..bench };
    let refused = unknown.sign(Role::Worker).await.unwrap_err();
    assert!(
        refused.contains("the connection has failed: received fatal alert: CertificateRequired"),
        "{refused}"
    );
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = authority(&unknown.ca, &[&format!("https://{port}/")]);
    let refused = unknown.sign_by(&nobody, Role::Worker).await.unwrap_err();
    assert!(refused.contains("cannot connect: Connection refused"), "{refused}");
}

#[tokio::test]
async fn a_root_is_signed_by_the_one_before() {
    let bench = bench().await;
    let next = RootCa::generate(now()).unwrap();
    let old = authority(&bench.ca, &[&bench.signer.url]);
    let cross_signed = bench.signers.cross_sign(&old, &next).await.unwrap();
    let node =
        next.clone().with_intermediate(cross_signed.clone()).issue(&subject(Role::Worker), TIMEOUT, now());
    for root in [bench.ca.certificate(), next.certificate()] {
        root.verify(node.as_ref().unwrap().certificate(), now()).unwrap();
    }
    // What an external CA signs in the name of the next root is good under both, too.
    let known = [bench.ca.certificate(), next.certificate()];
    let signer = Signer::start(&next, &known, "127.0.0.1:0").await;
    let instead_of = Some(Replaced { root: bench.ca.certificate().clone(), cross_signed });
    let both = Authority { instead_of, ..authority(&next, &[&signer.url]) };
    let chain = bench.sign_by(&both, Role::Manager).await.unwrap();
    let certificate = NodeCertificate::from_pem(&chain).unwrap();
    known.iter().for_each(|root| root.verify(&certificate, now()).unwrap());

    // Of a root that does not vouch for it, it is not.
    let third = RootCa::generate(now()).unwrap();
    let root = third.certificate().clone();
    let cross_signed = third.cross_sign(third.certificate()).unwrap();
    let unrelated = Authority { instead_of: Some(Replaced { root, cross_signed }), ..both };
    let refused = bench.sign_by(&unrelated, Role::Worker).await.unwrap_err();
    assert!(refused.contains("what it signed is not used"), "{refused}");

    for (pem, says) in [
        (third.certificate().pem(), "another key than the request"),
        (node.unwrap().certificate().pem(), "another key than the request"),
        ("rubbish", "not PEM"),
    ] {
        bench.signer.conduct(Conduct::Says(answer(pem)));
        let refused = bench.signers.cross_sign(&old, &next).await.unwrap_err().to_string();
        assert!(refused.contains(says), "{refused}");
    }
}
