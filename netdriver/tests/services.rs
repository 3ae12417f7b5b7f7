//! Service addresses and the resolver's, as an application in a task meets them.

#![allow(clippy::unwrap_used, reason = "tests")]

mod lab;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use imbl::OrdSet;
use lab::*;
use netdriver::{Desired, NetworkKey, RESOLVER_PORT, Sandbox, SandboxKey, Scope, Service, Services};
use nix::sched::{CloneFlags, setns};

const PORT: u16 = 8000;
const BOUND: Duration = Duration::from_secs(2);

/// Runs `work` on a thread in the sandbox's namespace.
fn inside<T: Send + 'static>(
    host: &Host,
    key: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let namespace = File::open(host.driver.sandbox_path(&key.into())).unwrap();
    std::thread::spawn(move || {
        setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    })
}

fn now<T: Send + 'static>(host: &Host, key: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    inside(host, key, work).join().unwrap()
}

fn backend(number: u16) -> [IpAddr; 2] {
    let addresses = addresses(9, number);
    [addresses[0].addr(), addresses[1].addr()]
}

/// The service `number` of network 9 with these backends, for both families.
fn service(number: u16, backends: &[u16], leaving: &[u16]) -> [(IpAddr, Arc<Service>); 2] {
    let of = |family: usize| {
        let all = |numbers: &[u16]| numbers.iter().map(|number| backend(*number)[family]).collect();
        Arc::new(Service { backends: all(backends), leaving: all(leaving) })
    };
    let [v4, v6] = backend(number);
    [(v4, of(0)), (v6, of(1))]
}

/// A network with tasks `t10`, `t11`, … and these services.
fn desired(host: &Host, tasks: std::ops::Range<u16>, services: Services) -> Desired {
    let mut overlay = overlay(9, host.vtep);
    overlay.services = services;
    let sandbox =
        |n: u16| Sandbox { attachments: vec![attachment("red", 9, n)], outbound: false, resolver: true };
    Desired {
        networks: [(NetworkKey::new("red"), overlay)].into(),
        sandboxes: tasks.map(|n| (SandboxKey::new(format!("t{n}")), sandbox(n))).collect(),
    }
}

async fn serve(
    host: &Host,
    desired: &mut Desired,
    services: impl IntoIterator<Item = (IpAddr, Arc<Service>)>,
) -> usize {
    let overlay = desired.networks.get_mut(&"red".into()).unwrap();
    overlay.services = services.into_iter().collect();
    ensure(host, desired, Scope::network("red")).await.len()
}

/// Answers each connection and each datagram with its own name, until the process ends.
fn start_server(host: &Host, key: &str) {
    let name = key.to_owned();
    now(host, key, move || {
        let listener = TcpListener::bind(("::", PORT)).unwrap();
        let socket = UdpSocket::bind(("::", PORT)).unwrap();
        let tcp_name = name.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let name = tcp_name.clone();
                std::thread::spawn(move || {
                    // A line for each byte.
                    let mut byte = [0];
                    while stream.read(&mut byte).is_ok_and(|read| read == 1) {
                        let peer = stream.peer_addr().unwrap().ip().to_canonical();
                        let _ = stream.write_all(format!("{name} {peer}\n").as_bytes());
                    }
                });
            }
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(name.as_bytes(), from);
            }
        });
    });
}

fn connect(to: IpAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::new(to, PORT), BOUND)?;
    stream.set_read_timeout(Some(BOUND))?;
    Ok(stream)
}

fn line(stream: &mut TcpStream) -> std::io::Result<String> {
    stream.write_all(b".")?;
    let (mut line, mut byte) = (Vec::new(), [0]);
    while stream.read(&mut byte)? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    match line.is_empty() {
        true => Err(std::io::ErrorKind::UnexpectedEof.into()),
        false => Ok(String::from_utf8(line).unwrap()),
    }
}

/// The backend that answers a new connection.
fn ask(to: IpAddr) -> std::io::Result<String> {
    let answer = line(&mut connect(to)?)?;
    Ok(answer.split(' ').next().unwrap().to_owned())
}

fn ask_by_datagram(socket: &UdpSocket, to: IpAddr) -> std::io::Result<String> {
    let mut buffer = [0; 64];
    socket.send_to(b"?", (to, PORT))?;
    let (read, from) = socket.recv_from(&mut buffer)?;
    assert_eq!(from.ip().to_canonical(), to, "the answer comes from the service's address");
    Ok(String::from_utf8_lossy(&buffer[..read]).into_owned())
}

fn datagrams() -> UdpSocket {
    let socket = UdpSocket::bind("[::]:0").unwrap();
    socket.set_read_timeout(Some(BOUND)).unwrap();
    socket
}

fn count(answers: Vec<String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    answers.into_iter().for_each(|answer| *counts.entry(answer).or_default() += 1);
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_spread_evenly_over_the_backends() {
    let (hosts, _switch) = hosts(1).await;
    let host = &hosts[0];
    let desired = desired(host, 10..14, Services::from_iter(service(100, &[11, 12, 13], &[])));
    ensure_all(host, &desired).await;
    (11..14).for_each(|n| start_server(host, &format!("t{n}")));
    for vip in backend(100) {
        let tcp = now(host, "t10", move || (0..600).map(|_| ask(vip).unwrap()).collect());
        let udp =
            now(host, "t10", move || (0..600).map(|_| ask_by_datagram(&datagrams(), vip).unwrap()).collect());
        for counts in [count(tcp), count(udp)] {
            // 200 each; the standard deviation is 12.
            let is_even = counts.len() == 3 && counts.values().all(|n| (140..=260).contains(n));
            assert!(is_even, "{vip}: {counts:?}");
        }
        let seen = now(host, "t10", move || line(&mut connect(vip).unwrap()).unwrap());
        let client = backend(10)[usize::from(vip.is_ipv6())];
        assert!(seen.ends_with(&format!(" {client}")), "the backend sees the client: {seen}");
        assert!(host.ping("t10", &vip.to_string()), "ping {vip}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_reaches_itself() {
    let (hosts, _switch) = hosts(1).await;
    let host = &hosts[0];
    let desired = desired(host, 10..11, Services::from_iter(service(100, &[10], &[])));
    ensure_all(host, &desired).await;
    start_server(host, "t10");
    // The kernel makes an IPv6 address of a device that has just come up local a moment later.
    let local = || succeeded(&host.in_sandbox("t10", "ip -6 route show table local")).contains("fd00:9::10");
    eventually("the address to be local", local).await;
    for vip in backend(100) {
        assert_eq!(now(host, "t10", move || ask(vip).unwrap()), "t10");
        assert_eq!(now(host, "t10", move || ask_by_datagram(&datagrams(), vip).unwrap()), "t10");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_backends_connections_are_refused_at_once() {
    let (hosts, _switch) = hosts(1).await;
    let host = &hosts[0];
    ensure_all(host, &desired(host, 10..11, Services::from_iter(service(100, &[], &[])))).await;
    for vip in backend(100) {
        let start = Instant::now();
        let refused = now(host, "t10", move || connect(vip).unwrap_err().kind());
        assert_eq!(refused, std::io::ErrorKind::ConnectionRefused, "{vip}");
        let told = now(host, "t10", move || {
            let socket = datagrams();
            socket.connect((vip, PORT)).unwrap();
            socket.send(b"?").and_then(|_| socket.recv(&mut [0; 1])).unwrap_err().kind()
        });
        // The kernel's word for a datagram that is refused before it has left.
        assert_eq!(told, std::io::ErrorKind::PermissionDenied, "{vip}, UDP");
        assert!(start.elapsed() < BOUND / 4);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_under_load_lose_no_connection() {
    let (hosts, _switch) = hosts(1).await;
    let host = &hosts[0];
    let mut desired = desired(host, 10..14, Services::from_iter(service(100, &[11, 12, 13], &[])));
    ensure_all(host, &desired).await;
    (11..14).for_each(|n| start_server(host, &format!("t{n}")));
    let stop = Arc::new(AtomicBool::new(false));
    let [vip, _] = backend(100);
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let stop = stop.clone();
            inside(host, "t10", move || {
                let mut answered = 0;
                while !stop.load(Ordering::Relaxed) {
                    ask(vip).unwrap_or_else(|error| panic!("after {answered}: {error}"));
                    answered += 1;
                }
                answered
            })
        })
        .collect();
    for round in 0..100 {
        let sets: [&[u16]; 4] = [&[11, 12, 13], &[12], &[11, 13], &[13, 12]];
        assert!(serve(host, &mut desired, service(100, sets[(round + 1) % 4], &[11, 12, 13])).await > 0);
    }
    stop.store(true, Ordering::Relaxed);
    let answered: u32 = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert!(answered > 100, "{answered}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_to_a_leaving_backend_go_on_and_those_to_one_that_is_gone_are_forgotten() {
    let (hosts, _switch) = hosts(1).await;
    let host = &hosts[0];
    let mut desired = desired(host, 10..13, Services::from_iter(service(100, &[11], &[])));
    ensure_all(host, &desired).await;
    (11..13).for_each(|n| start_server(host, &format!("t{n}")));
    let [vip, _] = backend(100);
    let (mut stream, socket) = now(host, "t10", move || (connect(vip).unwrap(), datagrams()));
    assert!(line(&mut stream).unwrap().starts_with("t11"));
    assert_eq!(ask_by_datagram(&socket, vip).unwrap(), "t11");

    serve(host, &mut desired, service(100, &[12], &[11])).await;
    assert_eq!(now(host, "t10", move || ask(vip).unwrap()), "t12", "new ones go elsewhere");
    assert!(line(&mut stream).unwrap().starts_with("t11"));
    assert_eq!(ask_by_datagram(&socket, vip).unwrap(), "t11");

    serve(host, &mut desired, service(100, &[12], &[])).await;
    assert_eq!(ask_by_datagram(&socket, vip).unwrap(), "t12", "without a new socket");
    let told = line(&mut stream).unwrap_err().kind();
    assert_eq!(told, std::io::ErrorKind::ConnectionReset);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_disturbs_nothing_and_forgets_what_went_meanwhile() {
    let (mut hosts, _switch) = hosts(1).await;
    let services = || service(100, &[11, 12], &[]).into_iter().chain(service(101, &[], &[])).collect();
    let mut desired = desired(&hosts[0], 10..13, services());
    ensure_all(&hosts[0], &desired).await;
    (11..13).for_each(|n| start_server(&hosts[0], &format!("t{n}")));
    let [vip, _] = backend(100);
    let mut streams =
        now(&hosts[0], "t10", move || (0..40).map(|_| connect(vip).unwrap()).collect::<Vec<_>>());
    streams.iter_mut().for_each(|stream| _ = line(stream).unwrap());

    hosts[0].restart().await;
    assert_eq!(ensure_all(&hosts[0], &desired).await, [""; 0]);
    let answers = count(streams.iter_mut().map(|stream| line(stream).unwrap()[..3].to_owned()).collect());
    assert_eq!(answers.len(), 2, "{answers:?}");

    hosts[0].restart().await;
    assert!(serve(&hosts[0], &mut desired, service(100, &[12], &[])).await > 0);
    let left = streams.iter_mut().filter_map(|stream| line(stream).ok()).count();
    assert_eq!(left, answers["t12"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_change_is_mended() {
    let (hosts, _switch) = hosts(1).await;
    let host = &hosts[0];
    let desired = desired(host, 10..12, Services::from_iter(service(100, &[11], &[])));
    ensure_all(host, &desired).await;
    start_server(host, "t11");
    let [vip, _] = backend(100);
    for damage in [
        "nft flush ruleset",
        "nft flush chain inet swarmd ip_output",
        "nft flush chain inet swarmd ip_of_1",
        "nft delete element inet swarmd ip_services { 10.9.0.100 }",
        "nft flush map inet swarmd ip_backends",
        "nft insert rule inet swarmd ip_output drop",
    ] {
        succeeded(&host.in_sandbox("t10", damage));
        let broken = now(host, "t10", move || ask(vip).is_err());
        assert!(broken, "{damage}");
        let changes = ensure_all(host, &desired).await;
        assert_eq!(changes.len(), 1, "{damage}: {changes:?}");
        assert_eq!(now(host, "t10", move || ask(vip).unwrap()), "t11", "not mended: {damage}");
        assert_eq!(ensure_all(host, &desired).await, [""; 0]);
    }
    // What a task does in tables of its own is its business.
    succeeded(&host.in_sandbox("t10", "nft add table inet mine"));
    assert_eq!(ensure_all(host, &desired).await, [""; 0]);
    assert!(succeeded(&host.in_sandbox("t10", "nft list tables")).contains("inet mine"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_services_are_one_look_up() {
    let (mut hosts, _switch) = hosts(1).await;
    let many = |last: &[u16]| -> Services {
        let services = (1000..4000).flat_map(|n| service(n, &[11, 12, 13, 14, 15], &[]));
        services.chain(service(4000, last, &[])).collect()
    };
    let mut desired = desired(&hosts[0], 10..12, many(&[11]));
    ensure_all(&hosts[0], &desired).await;
    start_server(&hosts[0], "t11");
    let [vip, _] = backend(4000);
    assert_eq!(now(&hosts[0], "t10", move || ask(vip).unwrap()), "t11");
    let rules = succeeded(&hosts[0].in_sandbox("t10", "nft list chain inet swarmd ip_output"));
    assert_eq!(rules.matches("ip daddr").count(), 1, "{rules}");

    let more = many(&[11, 12]);
    let start = Instant::now();
    assert!(serve(&hosts[0], &mut desired, more).await > 0);
    let took = start.elapsed();
    println!("one backend more, in each of two tasks: {took:?}");
    assert!(took < Duration::from_secs(1), "one backend more took {took:?}");
    hosts[0].restart().await;
    assert_eq!(ensure_all(&hosts[0], &desired).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_resolvers_address_leads_to_its_port_and_port_53_stays_the_applications() {
    let (hosts, _switch) = hosts(1).await;
    let host = &hosts[0];
    ensure_all(host, &desired(host, 10..11, Services::new())).await;
    now(host, "t10", || {
        let resolver = SocketAddr::from(([127, 0, 0, 11], RESOLVER_PORT));
        let (udp, tcp) = (UdpSocket::bind(resolver).unwrap(), TcpListener::bind(resolver).unwrap());
        let own = UdpSocket::bind("0.0.0.0:53").unwrap();
        let _own_tcp = TcpListener::bind("0.0.0.0:53").unwrap();
        let client = UdpSocket::bind("0.0.0.0:0").unwrap();
        client.set_read_timeout(Some(BOUND)).unwrap();
        let mut buffer = [0; 16];

        client.connect("127.0.0.11:53").unwrap();
        client.send(b"query").unwrap();
        let (_, from) = udp.recv_from(&mut buffer).unwrap();
        udp.send_to(b"answer", from).unwrap();
        assert_eq!(
            client.recv(&mut buffer).unwrap(),
            6,
            "a connected socket takes it: the source is port 53"
        );

        client.connect("127.0.0.1:53").unwrap();
        client.send(b"own").unwrap();
        assert_eq!(own.recv(&mut buffer).unwrap(), 3);

        let mut stream = TcpStream::connect_timeout(&"127.0.0.11:53".parse().unwrap(), BOUND).unwrap();
        stream.set_read_timeout(Some(BOUND)).unwrap();
        let (mut accepted, _) = tcp.accept().unwrap();
        stream.write_all(b"query").unwrap();
        accepted.read_exact(&mut buffer[..5]).unwrap();
        accepted.write_all(b"answer").unwrap();
        stream.read_exact(&mut buffer[..6]).unwrap();
    });
    // Queries leave nothing behind in the table of connections.
    let tracked = succeeded(&host.in_sandbox("t10", "cat /proc/net/nf_conntrack"));
    assert!(!tracked.contains("127.0.0.11"), "{tracked}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_on_two_networks_has_the_services_of_both_and_loses_those_it_leaves() {
    let (hosts, _switch) = hosts(1).await;
    let host = &hosts[0];
    let mut desired = desired(host, 10..12, Services::from_iter(service(100, &[11], &[])));
    let mut blue = overlay(10, host.vtep);
    let blue_vip: IpAddr = "10.10.0.100".parse().unwrap();
    let of_blue = Service { backends: OrdSet::unit("10.10.0.10".parse().unwrap()), ..Service::default() };
    blue.services = Services::unit(blue_vip, Arc::new(of_blue));
    desired.networks.insert("blue".into(), blue);
    let both = desired.sandboxes.get_mut(&"t10".into()).unwrap();
    both.attachments.push(attachment("blue", 10, 10));
    ensure_all(host, &desired).await;
    start_server(host, "t10");
    start_server(host, "t11");
    let [vip, _] = backend(100);
    let asked = now(host, "t10", move || [ask(vip).unwrap(), ask(blue_vip).unwrap()]);
    assert_eq!(asked, ["t11", "t10"]);

    desired.networks.get_mut(&"red".into()).unwrap().services = Services::new();
    desired.sandboxes.values_mut().for_each(|sandbox| sandbox.resolver = false);
    ensure_all(host, &desired).await;
    assert_eq!(now(host, "t10", move || ask(blue_vip).unwrap()), "t10");
    assert_eq!(succeeded(&host.in_sandbox("t11", "nft list ruleset")), "", "nothing wanted, nothing left");
}
