//! Service addresses for SCTP, on a kernel that has it.
//!
//! All but the first test need such a kernel. The first starts a guest that has one, and runs the others in it.

#![allow(clippy::unwrap_used, reason = "tests")]

mod lab;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use lab::*;
use netdriver::{Desired, NetworkKey, Sandbox, SandboxKey, Service, Services};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, listen, socket,
};

const VNI: u8 = 9;
const PORT: u16 = 8000;
/// The guest is slow.
const BOUND: Duration = Duration::from_secs(20);

#[test]
fn in_a_guest() {
    run_in_a_guest("1G", 300);
}

/// Runs `work` in the sandbox's namespace.
fn inside<T: Send + 'static>(host: &Host, key: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let namespace = File::open(host.driver.sandbox_path(&key.into())).unwrap();
    let thread = std::thread::spawn(move || {
        setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    });
    thread.join().unwrap()
}

/// In its one-to-one style (RFC 6458 section 4) an SCTP socket is used as one of TCP.
fn sctp(family: AddressFamily) -> OwnedFd {
    socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, SockProtocol::Sctp).unwrap()
}

/// Answers each association with its own name and the client's address, until the process ends.
fn start_server(host: &Host, key: &str) {
    let name = key.to_owned();
    inside(host, key, move || {
        let server = sctp(AddressFamily::Inet6);
        let anywhere: SocketAddr = format!("[::]:{PORT}").parse().unwrap();
        bind(server.as_raw_fd(), &SockaddrStorage::from(anywhere)).unwrap();
        listen(&server, Backlog::new(16).unwrap()).unwrap();
        let listener = TcpListener::from(server);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let peer = stream.peer_addr().unwrap().ip().to_canonical();
                let _ = stream.write_all(format!("{name} {peer}").as_bytes());
                // Until the client has it.
                let _ = stream.read(&mut [0]);
            }
        });
    });
}

/// What the backend of a new association answers.
fn ask(to: IpAddr) -> std::io::Result<String> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let mut stream = TcpStream::from(sctp(family));
    stream.set_write_timeout(Some(BOUND))?;
    stream.set_read_timeout(Some(BOUND))?;
    connect(stream.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(to, PORT)))?;
    let mut answer = [0; 128];
    let length = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

fn endpoint(number: u16) -> [IpAddr; 2] {
    let addresses = addresses(VNI, number);
    [addresses[0].addr(), addresses[1].addr()]
}

fn service(number: u16, backends: &[u16]) -> [(IpAddr, Arc<Service>); 2] {
    let of = |family: usize| {
        let backends = backends.iter().map(|number| endpoint(*number)[family]).collect();
        Arc::new(Service { backends, ..Service::default() })
    };
    let [v4, v6] = endpoint(number);
    [(v4, of(0)), (v6, of(1))]
}

/// One network on both hosts: `t10` and `t11` on the first, `t12` on the second. Address 100 leads to the last two,
/// 101 to the first alone.
fn desired(hosts: &[Host], own: usize) -> Desired {
    let places = [(10, 0), (11, 0), (12, 1)];
    let mut overlay = overlay(VNI, hosts[own].vtep);
    overlay.peers = places.iter().map(|(number, host)| peer(VNI, *number, hosts[*host].vtep)).collect();
    let services = [service(100, &[11, 12]), service(101, &[10])];
    overlay.services = services.into_iter().flatten().collect::<Services>();
    let sandbox =
        |n: u16| Sandbox { attachments: vec![attachment("red", VNI, n)], outbound: false, resolver: false };
    let here = places.iter().filter(|(_, host)| *host == own);
    Desired {
        networks: [(NetworkKey::new("red"), overlay)].into(),
        sandboxes: here.map(|(n, _)| (SandboxKey::new(format!("t{n}")), sandbox(*n))).collect(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a kernel with SCTP: see in_a_guest"]
async fn a_service_address_translates_sctp() {
    run("modprobe", &["sctp"]);
    let (hosts, _switch) = hosts(2).await;
    for (own, host) in hosts.iter().enumerate() {
        ensure_all(host, &desired(&hosts, own)).await;
    }
    let [first, second] = [&hosts[0], &hosts[1]];
    for (host, key) in [(first, "t10"), (first, "t11"), (second, "t12")] {
        start_server(host, key);
    }
    let local = || succeeded(&first.in_sandbox("t10", "ip -6 route show table local")).contains("fd00:9::10");
    eventually("the address to be local", local).await;

    for family in [0, 1] {
        let [spread, own] = [100, 101].map(|number| endpoint(number)[family]);
        let answers: BTreeSet<String> =
            inside(first, "t10", move || (0..16).map(|_| ask(spread).unwrap()).collect());
        // One is on the other host; both see the client.
        let client = endpoint(10)[family];
        let expected = ["t11", "t12"].map(|key| format!("{key} {client}"));
        assert_eq!(answers.into_iter().collect::<Vec<_>>(), expected, "{spread}");
        let own = inside(first, "t10", move || ask(own).unwrap());
        assert!(own.starts_with("t10 "), "a service reaches itself: {own}");
    }
}
