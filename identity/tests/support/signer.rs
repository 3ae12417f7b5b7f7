//! An external CA on this machine: HTTPS with certificates on both sides, the CFSSL sign API, and what may be wrong
//! with it.
#![allow(dead_code, reason = "each test uses its own part")]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use identity::{NodeIdentity, PrivateKey, RootCa, RootCertificate, Subject};
use proto::model::Role;
use rcgen::{CertificateSigningRequestParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

const HOUR: Duration = Duration::from_secs(3600);

/// What it does with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conduct {
    Honest,
    /// Signs for this role, whatever is asked.
    Role(Role),
    /// Signs for this node.
    Node(&'static str),
    /// Signs a key of its own.
    Key,
    /// Signs as this CA.
    As(Box<Signing>),
    /// Answers with a status and this.
    Status(u16, String),
    /// Answers with 200 and this.
    Says(String),
    /// Answers with so many bytes.
    Huge(usize),
    Silent,
}

#[derive(Clone, Debug)]
pub struct Signing(pub RootCa);

impl PartialEq for Signing {
    fn eq(&self, other: &Self) -> bool {
        self.0.certificate() == other.0.certificate()
    }
}

impl Eq for Signing {}

struct State {
    ca: RootCa,
    conduct: Mutex<Conduct>,
    requests: Mutex<VecDeque<Value>>,
}

pub struct Signer {
    pub url: String,
    state: Arc<State>,
    /// Ends with it.
    _serving: JoinSet<()>,
}

impl Signer {
    /// Listens on `addr`; knows as clients whom one of `clients` has issued, and nobody else.
    pub async fn start(ca: &RootCa, clients: &[&RootCertificate], addr: &str) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config(ca, clients, &addr.ip().to_string())));
        let (conduct, requests) = (Mutex::new(Conduct::Honest), Mutex::default());
        let state = Arc::new(State { ca: ca.clone(), conduct, requests });
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, acceptor, Arc::clone(&state)));
        Self { url: format!("https://{addr}/api/v1/cfssl/sign"), state, _serving: serving }
    }

    pub fn conduct(&self, conduct: Conduct) {
        *self.state.conduct.lock().unwrap() = conduct;
    }

    /// What it was asked for, oldest first.
    pub fn requests(&self) -> Vec<Value> {
        self.state.requests.lock().unwrap().iter().cloned().collect()
    }
}

/// A certificate for its address, under the root that it signs for.
fn config(ca: &RootCa, clients: &[&RootCertificate], ip: &str) -> ServerConfig {
    let key = KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec![ip.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer(ca)).unwrap();
    let mut known = RootCertStore::empty();
    for root in clients {
        known.add(CertificateDer::from_pem_slice(root.pem().as_bytes()).unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(known), Arc::clone(&provider));
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap()
}

fn issuer(ca: &RootCa) -> rcgen::Issuer<'static, KeyPair> {
    let root = CertificateDer::from_pem_slice(ca.certificate().pem().as_bytes()).unwrap();
    let key = KeyPair::from_pem(ca.key().expose_pem()).unwrap();
    rcgen::Issuer::from_ca_cert_der(&root, key).unwrap()
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, state) = (acceptor.clone(), Arc::clone(&state));
        connections.spawn(async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let Some(request) = read(&mut stream).await else { return };
            state.requests.lock().unwrap().push_back(request.clone());
            let conduct = state.conduct.lock().unwrap().clone();
            let (status, answer) = match conduct {
                Conduct::Silent => return std::future::pending().await,
                Conduct::Status(status, said) => (status, said),
                Conduct::Says(said) => (200, said),
                Conduct::Huge(bytes) => (200, " ".repeat(bytes)),
                signs => (200, answer(&sign(&state.ca, &request, &signs))),
            };
            let head = format!("HTTP/1.1 {status} So\r\nContent-Length: {}\r\n\r\n", answer.len());
            let _ = stream.write_all(head.as_bytes()).await;
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        });
    }
}

pub fn answer(certificate: &str) -> String {
    json!({"success": true, "result": {"certificate": certificate}, "errors": [], "messages": []}).to_string()
}

/// The JSON of a POST; None if the client has gone.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<Value> {
    let mut data = Vec::new();
    loop {
        let mut part = [0; 4096];
        let read = stream.read(&mut part).await.ok().filter(|read| *read > 0)?;
        data.extend_from_slice(&part[..read]);
        let text = String::from_utf8_lossy(&data).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        assert!(head.starts_with("POST /api/v1/cfssl/sign HTTP/1.1\r\n"), "{head}");
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().unwrap())
        });
        if body.len() >= length.unwrap() {
            return Some(serde_json::from_str(body).unwrap());
        }
    }
}

fn sign(ca: &RootCa, request: &Value, conduct: &Conduct) -> String {
    let csr = request["certificate_request"].as_str().unwrap();
    if request["profile"] == "CA" {
        let mut params = CertificateSigningRequestParams::from_pem(csr).unwrap();
        params.params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        return params.signed_by(&issuer(ca)).unwrap().pem();
    }
    let name = &request["subject"];
    let attribute = |key: &str| name["names"][0][key].as_str().unwrap().to_owned();
    let role = match attribute("OU").as_str() {
        "swarm-manager" => Role::Manager,
        _ => Role::Worker,
    };
    let mut subject =
        Subject { node: name["CN"].as_str().unwrap().into(), role, cluster: attribute("O").as_str().into() };
    let now = SystemTime::now();
    match conduct {
        Conduct::Role(role) => subject.role = *role,
        Conduct::Node(node) => subject.node = (*node).into(),
        Conduct::Key => {
            let csr = PrivateKey::generate().unwrap().signing_request().unwrap();
            return ca.sign(&csr, &subject, HOUR, now).unwrap();
        }
        Conduct::As(other) => return other.0.sign(csr, &subject, HOUR, now).unwrap(),
        _ => {}
    }
    ca.sign(csr, &subject, HOUR, now).unwrap()
}

/// The identity with which a manager asks.
pub fn manager_of(ca: &RootCa, cluster: &str) -> NodeIdentity {
    let subject = Subject { node: "m1".into(), role: Role::Manager, cluster: cluster.into() };
    ca.issue(&subject, HOUR, SystemTime::now()).unwrap()
}
