//! Who gets in, who does not, and that those who wait do not keep others out.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::listener::Limits;
use identity::{Credentials, Dialer, NodeIdentity, Peer, dial};
use proto::model::Role;
use proto::wire::GetRootCaCertificateRequest;
use proto::wire::SubscribeLogsRequest;
use proto::wire::ca_client::CaClient;
use proto::wire::logs_client::LogsClient;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use support::{BOUND, HOUR, Manager, Swarm};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::Status;
use tonic::transport::Channel;

async fn call(channel: Channel) -> Result<(), Status> {
    let call = async { CaClient::new(channel).get_root_ca_certificate(GetRootCaCertificateRequest {}).await };
    timeout(BOUND, call).await.expect("an answer in time").map(drop)
}

fn channel(credentials: &Credentials, manager: &Manager) -> Channel {
    Dialer::new(credentials.clone()).channel(&manager.addr.to_string()).unwrap()
}

/// The call fails, and the client knows that it was the handshake.
async fn refused_by_client(credentials: &Credentials, manager: &Manager) -> String {
    let status = call(channel(credentials, manager)).await.unwrap_err();
    assert!(matches!(dial::reason(&status), Some(dial::Error::Handshake { .. })), "{status:?}");
    assert!(manager.service.callers().is_empty());
    dial::explain(&status)
}

/// The call fails. In TLS 1.3 a client believes itself connected before the server has judged it.
async fn refused_by_server(credentials: &Credentials, manager: &Manager) -> String {
    let status = call(channel(credentials, manager)).await.unwrap_err();
    assert!(manager.service.callers().is_empty());
    dial::explain(&status)
}

#[tokio::test]
async fn a_node_is_known_by_its_certificate() {
    let swarm = Swarm::new("one");
    let manager = Manager::start(&swarm, swarm.identity("m1", Role::Manager)).await;
    for (node, role) in [("w1", Role::Worker), ("m2", Role::Manager)] {
        call(channel(&swarm.credentials(swarm.identity(node, role)), &manager)).await.unwrap();
        let caller = manager.service.last_caller();
        assert_eq!(caller.peer, Peer::Node { id: node.into(), role, cluster: "one".into() });
        assert!(caller.remote.unwrap().ip().is_loopback());
    }
    manager.stop().await;
}

#[tokio::test]
async fn a_client_with_a_bad_certificate_is_refused() {
    let swarm = Swarm::new("one");
    let manager = Manager::start(&swarm, swarm.identity("m1", Role::Manager)).await;

    // Trusts this root, has its own certificate from another.
    let forger = Swarm::new("one");
    let forged =
        Credentials::new(forger.identity("m2", Role::Manager), swarm.ca.certificate().clone()).unwrap();
    refused_by_server(&forged, &manager).await;

    let said = refused_by_server(&swarm.credentials(swarm.expired("w1", Role::Worker)), &manager).await;
    assert!(said.contains("this node's certificate out of date") && said.contains("clock says 2"), "{said}");
    let future = swarm.ca.issue(&swarm.subject("w1", Role::Worker), HOUR, SystemTime::now() + 3 * HOUR);
    let said = refused_by_server(&swarm.credentials(future.unwrap()), &manager).await;
    assert!(said.contains("compare the clocks"), "{said}");
}

#[tokio::test]
async fn a_certificate_of_another_cluster_under_the_same_root_is_refused() {
    let swarm = Swarm::new("one");
    let other = Swarm { ca: swarm.ca.clone(), cluster: "two".to_owned() };
    let manager = Manager::start(&swarm, swarm.identity("m1", Role::Manager)).await;
    let said = refused_by_client(&other.credentials(other.identity("m1", Role::Manager)), &manager).await;
    assert!(said.contains("cluster one"), "{said}");

    // A client that does not look at the cluster: the server is left to refuse.
    let mut stream = careless_client(Some(&other.identity("w1", Role::Worker)), &swarm, &manager).await;
    timeout(BOUND, stream.read_to_end(&mut Vec::new())).await.expect("an end").unwrap_err();
}

/// A bare TLS client, which checks the chain only, as the crate's own never would.
async fn careless_client(
    me: Option<&NodeIdentity>,
    swarm: &Swarm,
    manager: &Manager,
) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(swarm.ca.certificate().pem().as_bytes()).unwrap();
    roots.add(root).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match me {
        None => config.with_no_client_auth(),
        Some(me) => {
            let chain = CertificateDer::pem_slice_iter(me.certificate().pem().as_bytes());
            let key = PrivateKeyDer::from_pem_slice(me.key().expose_pem().as_bytes()).unwrap();
            config.with_client_auth_cert(chain.map(Result::unwrap).collect(), key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(manager.addr).await.unwrap();
    TlsConnector::from(Arc::new(config)).connect(identity::tls::manager_name(), stream).await.unwrap()
}

/// Reads what the server says until it hangs up.
async fn hung_up(stream: &mut TlsStream<TcpStream>) {
    let _ = timeout(BOUND, stream.read_to_end(&mut Vec::new())).await.expect("an end");
}

#[tokio::test]
async fn who_shows_no_certificate_does_not_stay() {
    let swarm = Swarm::new("one");
    let limits = Limits { stranger: Duration::from_millis(300), ..Limits::default() };
    let manager = Manager::start_with(&swarm, swarm.identity("m1", Role::Manager), limits).await;
    let mine = swarm.credentials(swarm.identity("w1", Role::Worker));
    let mut node = LogsClient::new(channel(&mine, &manager));
    let stream = node.subscribe_logs(SubscribeLogsRequest::default()).await;
    let mut stream = stream.unwrap().into_inner();
    let mut stranger = careless_client(None, &swarm, &manager).await;
    hung_up(&mut stranger).await;
    // One with a certificate does.
    manager.service.stream_one();
    timeout(BOUND, stream.message()).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn of_too_many_without_a_certificate_the_oldest_goes() {
    let swarm = Swarm::new("one");
    let limits = Limits { stranger: BOUND * 2, strangers: 2, ..Limits::default() };
    let manager = Manager::start_with(&swarm, swarm.identity("m1", Role::Manager), limits).await;
    let mut oldest = careless_client(None, &swarm, &manager).await;
    // The server is through with the first handshake before the others begin.
    oldest.read_exact(&mut [0]).await.unwrap();
    let _second = careless_client(None, &swarm, &manager).await;
    let _third = careless_client(None, &swarm, &manager).await;
    hung_up(&mut oldest).await;
}

#[tokio::test]
async fn a_server_that_is_no_manager_of_this_swarm_is_refused() {
    let swarm = Swarm::new("one");
    let me = swarm.credentials(swarm.identity("w1", Role::Worker));

    let worker = Manager::start(&swarm, swarm.identity("w2", Role::Worker)).await;
    refused_by_client(&me, &worker).await;
    let expired = Manager::start(&swarm, swarm.expired("m1", Role::Manager)).await;
    let said = refused_by_client(&me, &expired).await;
    assert!(said.contains("has expired at 20") && said.contains("clock says 20"), "{said}");
    let forger = Swarm::new("one");
    let forged = Manager::start(&forger, forger.identity("m1", Role::Manager)).await;
    refused_by_client(&me, &forged).await;
}

#[tokio::test]
async fn a_manager_can_be_dialed_by_its_id() {
    let swarm = Swarm::new("one");
    let manager = Manager::start(&swarm, swarm.identity("m1", Role::Manager)).await;
    let dialer = Dialer::new(swarm.credentials(swarm.identity("m2", Role::Manager)))
        .from_address("127.0.0.1".parse().unwrap());
    let addr = manager.addr.to_string();
    call(dialer.channel_to(&addr, &"m1".into()).unwrap()).await.unwrap();
    let status = call(dialer.channel_to(&addr, &"m3".into()).unwrap()).await.unwrap_err();
    assert!(matches!(dial::reason(&status), Some(dial::Error::Handshake { .. })), "{status:?}");
}

#[tokio::test]
async fn credentials_change_under_an_open_stream() {
    let swarm = Swarm::new("one");
    let manager = Manager::start(&swarm, swarm.identity("m1", Role::Manager)).await;
    let mine = swarm.credentials(swarm.identity("n1", Role::Worker));
    let old = channel(&mine, &manager);
    let stream = LogsClient::new(old.clone()).subscribe_logs(SubscribeLogsRequest::default()).await;
    let mut stream = stream.unwrap().into_inner();
    let mut changes = mine.subscribe();

    let root = swarm.ca.certificate();
    mine.replace(swarm.identity("n1", Role::Manager), root.clone()).unwrap();
    manager.credentials.replace(swarm.identity("m1", Role::Manager), root.clone()).unwrap();
    assert!(changes.has_changed().unwrap());
    assert_eq!(changes.borrow_and_update().identity().subject().role, Role::Manager);

    manager.service.stream_one();
    timeout(BOUND, stream.message()).await.unwrap().unwrap().unwrap();
    let role = |peer| match peer {
        Peer::Node { role, .. } => role,
        other => panic!("{other:?}"),
    };
    call(old).await.unwrap();
    assert_eq!(role(manager.service.last_caller().peer), Role::Worker, "the session keeps its identity");
    call(channel(&mine, &manager)).await.unwrap();
    assert_eq!(role(manager.service.last_caller().peer), Role::Manager, "a new one has the new identity");
}

#[tokio::test]
async fn a_channel_outlives_a_restart_of_its_manager_with_new_credentials() {
    let swarm = Swarm::new("one");
    let mut manager = Manager::start(&swarm, swarm.identity("m1", Role::Manager)).await;
    let mine = swarm.credentials(swarm.identity("n1", Role::Worker));
    let channel = channel(&mine, &manager);
    call(channel.clone()).await.unwrap();
    let addr = manager.addr;
    manager.stop().await;

    mine.replace(swarm.identity("n1", Role::Manager), swarm.ca.certificate().clone()).unwrap();
    manager = Manager::start_at(&swarm, swarm.identity("m1", Role::Manager), addr, Limits::default()).await;
    let deadline = Instant::now() + BOUND;
    while let Err(status) = call(channel.clone()).await {
        assert!(Instant::now() < deadline, "{status:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(matches!(manager.service.last_caller().peer, Peer::Node { role: Role::Manager, .. }));
}

#[tokio::test]
async fn silent_clients_keep_nobody_out() {
    let swarm = Swarm::new("one");
    let limits = Limits { handshakes: 50, ..Limits::default() };
    let manager = Manager::start_with(&swarm, swarm.identity("m1", Role::Manager), limits).await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(manager.addr).await.unwrap());
    }

    let started = Instant::now();
    call(channel(&swarm.credentials(swarm.identity("w1", Role::Worker)), &manager)).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    // Beyond the bound the oldest is given up, not the newest, and long before its time is over.
    let closed = timeout(limits.handshake / 2, silent[0].read(&mut [0])).await.unwrap();
    assert!(matches!(closed, Ok(0) | Err(_)));
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_is_given_up() {
    let swarm = Swarm::new("one");
    let limits = Limits { handshake: Duration::from_millis(100), ..Limits::default() };
    let manager = Manager::start_with(&swarm, swarm.identity("m1", Role::Manager), limits).await;
    let mut silent = TcpStream::connect(manager.addr).await.unwrap();
    let closed = timeout(BOUND, silent.read(&mut [0])).await.unwrap();
    assert!(matches!(closed, Ok(0) | Err(_)));
}

#[tokio::test]
async fn a_manager_that_is_not_there_is_named() {
    let swarm = Swarm::new("one");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    drop(listener);
    let dialer = Dialer::new(swarm.credentials(swarm.identity("w1", Role::Worker)));
    let status = call(dialer.channel(&addr).unwrap()).await.unwrap_err();
    assert_eq!(
        dial::explain(&status),
        format!("cannot connect to manager {addr}: Connection refused (os error 111)")
    );
}

#[tokio::test]
async fn a_local_process_is_known_as_such() {
    use proto::wire::ca_server::CaServer;
    use tokio::net::{UnixListener, UnixStream};
    use tonic::transport::{Endpoint, Server};

    let swarm = Swarm::new("one");
    let service = support::CaService::new(&swarm);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("swarmd.sock");
    let incoming = identity::listener::incoming_local(UnixListener::bind(&path).unwrap());
    let mut server = tokio::task::JoinSet::new();
    let serving = Server::builder().add_service(CaServer::new(service.clone())).serve_with_incoming(incoming);
    server.spawn(async move { serving.await.unwrap() });

    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
    });
    call(Endpoint::from_static("http://local").connect_with_connector_lazy(connector)).await.unwrap();
    assert_eq!(service.last_caller().peer, Peer::Local);
    assert_eq!(service.last_caller().remote, None);
}

#[tokio::test]
async fn the_connections_of_a_node_that_is_put_out_are_closed() {
    let swarm = Swarm::new("one");
    let manager = Manager::start(&swarm, swarm.identity("m1", Role::Manager)).await;
    let open = async |node: &str| {
        let channel = channel(&swarm.credentials(swarm.identity(node, Role::Worker)), &manager);
        let stream = LogsClient::new(channel).subscribe_logs(SubscribeLogsRequest::default()).await;
        stream.unwrap().into_inner()
    };
    let (mut out, mut also_out, mut stays) = (open("w1").await, open("w1").await, open("w2").await);
    manager.open.close(|node| node.as_str() != "w1");
    for stream in [&mut out, &mut also_out] {
        timeout(BOUND, stream.message()).await.unwrap().unwrap_err();
    }
    manager.service.stream_one();
    timeout(BOUND, stays.message()).await.unwrap().unwrap().unwrap();
}
