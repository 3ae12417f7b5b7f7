//! What somebody can do to managers from the network, with and without a certificate, and what a wrong clock does.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e::{Host, Lab, PATIENCE, wait};
use hyper_util::rt::TokioIo;
use identity::{CertificateDir, Credentials, Dialer, RootCertificate, tls};
use proto::wire::control_client::ControlClient;
use proto::wire::dispatcher_client::DispatcherClient;
use proto::wire::node_ca_client::NodeCaClient;
use proto::wire::{
    Annotations, CreateNetworkRequest, IssueNodeCertificateRequest, NetworkSpec, NodeDescription,
    SessionRequest,
};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tower::service_fn;

/// Connections that say nothing, and as many that begin a handshake.
const HALF_OPEN: usize = 5_000;
const LARGE: usize = 100 << 20;
/// By which the memory of a manager may grow under any of this.
const ROOM_KIB: u64 = 96 << 10;

fn own(host: &Host) -> (Credentials, RootCertificate) {
    let (identity, root) = CertificateDir::new(&host.data_root()).load().unwrap().unwrap();
    (Credentials::new(identity, root.clone()).unwrap(), root)
}

/// Does `story` in the network of a host.
fn inside<T: Send>(host: &Host, story: impl Future<Output = T> + Send) -> T {
    host.within(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(story)
    })
}

fn port(host: &Host) -> SocketAddr {
    (host.addr(), 2377).into()
}

/// A connection under no certificate.
fn anonymous(root: &RootCertificate, to: &Host) -> Channel {
    let (config, addr) = (tls::stranger(root).unwrap(), port(to));
    Endpoint::from_static("http://manager").connect_with_connector_lazy(service_fn(move |_| {
        let connector = TlsConnector::from(config.clone());
        async move {
            let stream = TcpStream::connect(addr).await?;
            connector.connect(tls::manager_name(), stream).await.map(TokioIo::new)
        }
    }))
}

fn local(host: &Host) -> Channel {
    let path = host.socket().trim_start_matches("unix://").to_owned();
    Endpoint::from_static("http://local").connect_with_connector_lazy(service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    }))
}

/// It is refused for its size. The connection may end before all was sent.
#[track_caller]
fn too_large<T: std::fmt::Debug>(what: &str, answer: Result<T, Status>) {
    let status = answer.expect_err(what);
    let is_cut = matches!(status.code(), Code::Unknown | Code::Unavailable | Code::Cancelled);
    assert!(status.code() == Code::OutOfRange || is_cut, "{what}: {status:?}");
}

#[test]
fn messages_of_100_mib_are_refused_and_cost_no_memory() {
    let lab = Lab::swarm("large messages", 1, 1);
    let (h1, h2) = (lab.host(1), lab.host(2));
    let (mine, root) = own(h2);
    let before = e2e::resident_kib(h1.pid()).unwrap();
    let large = || "x".repeat(LARGE);
    let csr = || IssueNodeCertificateRequest { csr: vec![b'x'; LARGE], ..Default::default() };
    inside(h2, async {
        let node = Dialer::new(mine).channel(&port(h1).to_string()).unwrap();
        too_large("a node's request", NodeCaClient::new(node.clone()).issue_node_certificate(csr()).await);
        let description = Some(NodeDescription { hostname: large(), ..Default::default() });
        let session = SessionRequest { description, ..Default::default() };
        too_large("a node's description", DispatcherClient::new(node).session(session).await);
        let stranger = anonymous(&root, h1);
        too_large("a stranger's request", NodeCaClient::new(stranger).issue_node_certificate(csr()).await);
        let annotations = Some(Annotations { name: large(), ..Default::default() });
        let spec = Some(NetworkSpec { annotations, ..Default::default() });
        let create = CreateNetworkRequest { spec };
        too_large("a client's request", ControlClient::new(local(h1)).create_network(create).await);
    });
    let grown = e2e::resident_kib(h1.pid()).unwrap().saturating_sub(before);
    assert!(grown < ROOM_KIB, "{grown} KiB");
    h1.create_network("afterwards", "10.0.9.0/24");
    h1.wait_status("h2", "Ready", PATIENCE);
}

#[test]
fn requests_for_other_kinds_of_keys_are_refused() {
    let lab = Lab::swarm("other kinds of keys", 1, 1);
    let (h1, h2) = (lab.host(1), lab.host(2));
    let (mine, root) = own(h2);
    let token = h1.token("worker");
    let kinds = [
        ("rsa", "-newkey rsa:2048"),
        ("p384", "-newkey ec -pkeyopt ec_paramgen_curve:P-384"),
        ("k1", "-newkey ec -pkeyopt ec_paramgen_curve:secp256k1"),
        ("ed25519", "-newkey ed25519"),
    ];
    let nodes = h1.nodes().len();
    for (name, kind) in kinds {
        let file = h2.folder().join(name).display().to_string();
        h2.sh(&format!("openssl req -new {kind} -nodes -subj /CN=x -keyout {file}.key -out {file}.csr")).ok();
        let csr = fs::read(format!("{file}.csr")).unwrap();
        let refused = inside(h2, async {
            let node = Dialer::new(mine.clone()).channel(&port(h1).to_string()).unwrap();
            let renewal = IssueNodeCertificateRequest { csr: csr.clone(), ..Default::default() };
            let joining = IssueNodeCertificateRequest { csr, token: token.clone(), ..Default::default() };
            [
                NodeCaClient::new(node).issue_node_certificate(renewal).await.unwrap_err(),
                NodeCaClient::new(anonymous(&root, h1)).issue_node_certificate(joining).await.unwrap_err(),
            ]
        });
        for status in refused {
            assert_eq!(status.code(), Code::InvalidArgument, "{name}: {status:?}");
            assert!(status.message().contains("is not on the curve P-256"), "{name}: {status:?}");
        }
    }
    assert_eq!(h1.nodes().len(), nodes);
}

/// A client that says nothing, or not enough.
async fn half_open(to: SocketAddr, begins: bool) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(to).await?;
    if begins {
        // The head of a TLS record, and a byte of the many that it announces.
        stream.write_all(&[0x16, 3, 1, 2, 0, 1]).await?;
    }
    Ok(stream)
}

/// Opens them all, then opens anew what the manager closes, until `done`.
async fn besiege(to: SocketAddr, begun: &AtomicBool, done: &AtomicBool) {
    let (mut opening, mut open) = (JoinSet::new(), Vec::new());
    let open_one = |opening: &mut JoinSet<_>, number: usize| {
        opening.spawn(half_open(to, number.is_multiple_of(2)));
    };
    (0..2 * HALF_OPEN).for_each(|number| open_one(&mut opening, number));
    let mut opened = 0;
    while !done.load(Ordering::Relaxed) {
        match opening.join_next().await {
            Some(Ok(Ok(stream))) => open.push(stream),
            _ => tokio::task::yield_now().await,
        }
        opened += 1;
        if opened == 2 * HALF_OPEN {
            begun.store(true, Ordering::Relaxed);
        }
        if opened >= 2 * HALF_OPEN {
            // The oldest gives its place to a new one: the crowd never gets smaller, and never rests.
            drop(open.swap_remove(opened % open.len()));
            open_one(&mut opening, opened);
        }
    }
}

#[test]
fn ten_thousand_half_open_connections_keep_nobody_out() {
    let mut lab = Lab::swarm("half open connections", 1, 1);
    (0..2).for_each(|_| lab.add_host());
    let [h1, h2, h3, h4] = [1, 2, 3, 4].map(|number| lab.host(number));
    h4.start();
    let before = e2e::resident_kib(h1.pid()).unwrap();
    let (begun, done) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let crowd = scope.spawn(|| inside(h3, besiege(port(h1), &begun, &done)));
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait("ten thousand connections", PATIENCE, || {
                begun.load(Ordering::Relaxed).then_some(()).ok_or("not yet")
            });
            let start = Instant::now();
            h4.join(&h1.token("worker"), h1).ok();
            h1.wait_nodes(3);
            h1.create_network("net", "10.0.9.0/24");
            h1.create_web(&lab, "web", "net", 3);
            assert_eq!(h1.node("h2").status, "Ready");
            // Far from what a node or a client would give up at.
            assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
            eprintln!("a node joined and runs a task after {:?}", start.elapsed());
            let (grown, files) = (e2e::resident_kib(h1.pid()).unwrap(), e2e::open_files(h1.pid()));
            assert!(grown.saturating_sub(before) < ROOM_KIB, "from {before} to {grown} KiB");
            assert!(files < 1_500, "{files} open files");
        }));
        done.store(true, Ordering::Relaxed);
        crowd.join().unwrap();
        told.unwrap();
    });
    assert_eq!(h2.ctl(&["info"]).ok().matches("Error").count(), 0);
}

#[test]
fn a_clock_that_is_a_year_off_is_named_on_both_sides() {
    let mut lab = Lab::swarm("a clock that is a year off", 1, 1);
    lab.add_host();
    let [h1, h2, h3] = [1, 2, 3].map(|number| lab.host(number));
    let id = h1.node("h2").id;
    h2.kill();
    h2.launch_at("+365d");
    wait("h2 to name its clock", PATIENCE, || {
        let said = h2.ctl(&["info"]);
        if said.stdout.contains("compare the clocks of both") { Ok(()) } else { Err(said) }
    });
    wait("h1 to name it too", PATIENCE, || {
        let said = h1.logged();
        let named = said
            .lines()
            .any(|line| line.contains(&h2.addr().to_string()) && line.contains("compare the clocks of both"));
        if named { Ok(()) } else { Err("nothing in its log") }
    });
    h3.launch_at("-365d");
    h3.wait_ready();
    let refused = h3.join(&h1.token("worker"), h1).refused();
    assert!(refused.contains("valid only from") && refused.contains("compare the clocks"), "{refused}");
    assert_eq!(h1.nodes().len(), 2, "nobody was added");
    h1.create_network("meanwhile", "10.0.9.0/24");

    // With their clocks set they are what they were.
    for host in [h2, h3] {
        host.kill();
        host.start();
    }
    h1.wait_status("h2", "Ready", PATIENCE);
    assert_eq!(h1.node("h2").id, id);
    h3.join(&h1.token("worker"), h1).ok();
    h1.wait_nodes(3);
}
