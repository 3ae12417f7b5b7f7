use identity::{Clock, Credentials, NodeCertificate};
use proto::model::RootCa as State;

use super::signer_bench::{Conduct, Signer as External, manager_of};
use super::*;
use crate::fixtures::{CLUSTER, cluster};

fn now() -> SystemTime {
    SystemTime::now()
}

/// A swarm whose managers have the key of its root.
struct Bench {
    cluster: Cluster,
    root: RootCa,
    signers: Signers,
}

fn bench() -> Bench {
    let cluster = cluster();
    let root = signer::own(&cluster).unwrap().unwrap();
    let credentials = Credentials::new(manager_of(&root, CLUSTER), root.certificate().clone()).unwrap();
    Bench { cluster, root, signers: Signers::new(credentials, Clock::system()) }
}

fn pem(root: &RootCa) -> Vec<u8> {
    root.certificate().pem().as_bytes().to_vec()
}

fn external(signer: &External, root: &[u8]) -> ExternalCa {
    ExternalCa { url: signer.url.clone(), root: root.to_vec() }
}

async fn listen(root: &RootCa, clients: &[&RootCa]) -> External {
    let clients: Vec<_> = clients.iter().map(|root| root.certificate()).collect();
    External::start(root, &clients, "127.0.0.1:0").await
}

impl Bench {
    /// With these external CAs, on the way to `next`.
    async fn prepare(&self, all: Vec<ExternalCa>, next: Option<Next>) -> Result<Cluster, Error> {
        let mut spec = self.cluster.spec.clone();
        spec.ca.external = all;
        prepare(&self.cluster, spec, next, &self.signers, now()).await
    }

    async fn change(&mut self, all: Vec<ExternalCa>, next: Option<Next>) {
        self.cluster = self.prepare(all, next).await.unwrap();
    }

    async fn refused(&self, all: Vec<ExternalCa>, next: Option<Next>) -> String {
        self.prepare(all, next).await.unwrap_err().to_string()
    }

    /// As if all nodes had renewed.
    fn finish(&mut self) {
        let rotation = self.cluster.root_ca.rotation.take().unwrap();
        let root_ca = State { key: rotation.key, cert: rotation.cert, ..self.cluster.root_ca.clone() };
        self.cluster.root_ca = root_ca;
    }

    /// What the swarm signs now.
    async fn sign(&self) -> Result<NodeCertificate, Error> {
        let csr = PrivateKey::generate().unwrap().signing_request().unwrap();
        let subject = Subject { node: "n1".into(), role: Role::Manager, cluster: CLUSTER.into() };
        let signer = Signer::of(&self.cluster)?;
        let chain = signer.sign(&self.signers, &csr, &subject, PROBE, now()).await?;
        Ok(NodeCertificate::from_pem(&chain).unwrap())
    }
}

#[tokio::test]
async fn an_external_ca_signs_in_the_managers_place() {
    let mut bench = bench();
    let signer = listen(&bench.root, &[&bench.root]).await;
    bench.change(vec![external(&signer, &[])], None).await;
    assert_eq!(
        bench.cluster.spec.ca.external,
        [external(&signer, &pem(&bench.root))],
        "it belongs to a root"
    );
    assert_eq!(signer.requests().len(), 1, "it was tried");
    bench.root.certificate().verify(&bench.sign().await.unwrap(), now()).unwrap();
    assert_eq!(signer.requests().len(), 2);

    // Other settings need no signer that works.
    signer.conduct(Conduct::Status(500, "out of order".into()));
    bench.change(bench.cluster.spec.ca.external.clone(), None).await;
    let failed = bench.sign().await.unwrap_err();
    let expected = format!("external CA {}: it answered 500 Internal Server Error: out of order", signer.url);
    assert_eq!(failed, Error::Unavailable(expected), "and managers do not take its place");
    bench.change(Vec::new(), None).await;
    bench.sign().await.unwrap();
}

#[tokio::test]
async fn managers_need_not_have_the_key() {
    let mut bench = bench();
    let next = RootCa::generate(now()).unwrap();
    let signer = listen(&next, &[&bench.root, &next]).await;
    let to_next = || Some(Next::External(next.certificate().clone()));
    let named = || vec![external(&signer, &pem(&next))];
    let refused = bench.refused(Vec::new(), to_next()).await;
    assert!(refused.contains("external_cas: managers do not have the key"), "{refused}");
    bench.change(named(), to_next()).await;
    let certificate = bench.sign().await.unwrap();
    for root in [&bench.root, &next] {
        root.certificate().verify(&certificate, now()).unwrap();
    }
    bench.finish();
    assert!(bench.cluster.root_ca.key.expose().is_empty());
    next.certificate().verify(&bench.sign().await.unwrap(), now()).unwrap();
    let refused = bench.refused(Vec::new(), None).await;
    assert!(refused.contains("external_cas: managers do not have the key"), "{refused}");

    // Neither of two roots can vouch for the other if managers have no key.
    let third = RootCa::generate(now()).unwrap();
    let other = listen(&third, &[&bench.root, &next]).await;
    let all = vec![named().remove(0), external(&other, &pem(&third))];
    let refused = bench.refused(all, Some(Next::External(third.certificate().clone()))).await;
    assert!(refused.contains("neither can vouch"), "{refused}");

    // To a root of the managers' own: the external CA vouches for it.
    bench.cluster.spec.ca.force_rotate += 1;
    let spec = bench.cluster.spec.clone();
    bench.cluster.root_ca.last_forced_rotation = spec.ca.force_rotate - 1;
    bench.change(named(), None).await;
    assert_eq!(signer.requests().last().unwrap()["profile"], "CA");
    let certificate = bench.sign().await.unwrap();
    next.certificate().verify(&certificate, now()).unwrap();
    bench.finish();
    signer::own(&bench.cluster).unwrap().unwrap().certificate().verify(&certificate, now()).unwrap();
}

#[tokio::test]
async fn the_key_of_the_same_root_may_come_and_go() {
    let mut bench = bench();
    let root = bench.root.clone();
    let signer = listen(&root, &[&root]).await;
    let named = || vec![external(&signer, &[])];
    bench.change(named(), Some(Next::External(root.certificate().clone()))).await;
    assert!(bench.cluster.root_ca.key.expose().is_empty() && bench.cluster.root_ca.rotation.is_none());
    bench.sign().await.unwrap();
    bench.change(Vec::new(), Some(Next::Own(root.clone()))).await;
    root.certificate().verify(&bench.sign().await.unwrap(), now()).unwrap();
}

#[tokio::test]
async fn a_signer_that_does_not_sign_rightly_is_not_taken() {
    let bench = bench();
    let (next, other) = (RootCa::generate(now()).unwrap(), RootCa::generate(now()).unwrap());
    let signer = listen(&bench.root, &[&bench.root]).await;
    signer.conduct(Conduct::Role(Role::Manager));
    let refused = bench.refused(vec![external(&signer, &[])], None).await;
    assert!(refused.contains("nothing was changed") && refused.contains(&signer.url), "{refused}");
    assert!(refused.contains("the role \"swarm-manager\""), "{refused}");

    // It has the key of another root than the one that is wanted.
    let wrong = listen(&other, &[&bench.root]).await;
    let named = vec![external(&wrong, &pem(&next))];
    let refused = bench.refused(named, Some(Next::External(next.certificate().clone()))).await;
    assert!(refused.contains("cannot recognise it as a signer of this swarm"), "{refused}");
}

#[tokio::test]
async fn bad_settings_are_named() {
    let bench = bench();
    let with = |url: &str| ExternalCa { url: url.into(), root: Vec::new() };
    let foreign = RootCa::generate(now()).unwrap();
    for (all, says) in [
        (vec![with("http://ca/sign")], "external_cas[0].url has the value \"http://ca/sign\": only https"),
        (
            vec![with("https://ca/sign"); 2],
            "external_cas[1].url has the value \"https://ca/sign\": it is named twice",
        ),
        (vec![with("https://ca/"); 9], "external_cas has the value \"9\": at most 8 are allowed"),
        (
            vec![ExternalCa { root: pem(&foreign), ..with("https://ca/") }],
            "external_cas[0].ca_cert: this is neither the swarm's root nor the next one",
        ),
    ] {
        let refused = bench.refused(all, None).await;
        assert!(refused.contains(says), "{refused}");
    }
}

#[tokio::test]
async fn a_root_with_the_same_key_is_refused() {
    let bench = bench();
    // The same root, written in another way.
    let pem = format!("{}\n", bench.root.certificate().pem());
    let again = RootCa::from_pem(&pem, bench.root.key().expose_pem()).unwrap();
    let refused = bench.refused(Vec::new(), Some(Next::Own(again))).await;
    assert!(refused.contains("a new root needs a new key"), "{refused}");
}
