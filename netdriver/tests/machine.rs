//! What the machine can do, and does badly.

#![allow(clippy::unwrap_used, reason = "tests")]

mod lab;

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use lab::*;
use netdriver::{Config, Netdriver, Place};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn this_machine_has_what_every_task_needs() {
    let (hosts, _switch) = hosts(1).await;
    let before = hosts[0].traces();
    let lacks = hosts[0].driver.check().await;
    let told: Vec<String> = lacks.iter().map(ToString::to_string).collect();
    assert!(lacks.iter().all(|lack| !lack.fatal), "{told:?}");
    let others: Vec<_> =
        told.iter().filter(|lack| !lack.starts_with("encryption is not available")).collect();
    assert!(others.is_empty(), "{others:?}");
    assert_eq!(told.is_empty(), hosts[0].driver.lacks_for_encryption().is_empty());
    assert_eq!(hosts[0].traces(), before);
    let underlay = hosts[0].driver.underlay(hosts[0].vtep).await.unwrap();
    assert_eq!(underlay, ("up0".to_owned(), 1500));
}

async fn offload(host: &Host) -> Option<bool> {
    let world = host.driver.observe().await.unwrap();
    world[&Place::Network("red".into())].links["vx0"].offload
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checksums_are_left_to_the_device_below_or_not() {
    let (mut hosts, _switch) = hosts(2).await;
    let desired = joined(&hosts, "red", 9);
    for (host, desired) in hosts.iter().zip(&desired) {
        ensure_all(host, desired).await;
    }
    assert_eq!(offload(&hosts[0]).await, Some(true));
    for on in [false, true] {
        let netns = format!("/run/netns/{}", hosts[0].netns);
        let config = Config {
            host_netns: Some(netns.into()),
            vxlan_checksum_offload: on,
            ..Config::new(hosts[0].dir())
        };
        hosts[0].driver = Arc::new(Netdriver::open(config).await.unwrap());
        let expected = format!("network red: vx0: set checksum offload {on}");
        assert_eq!(ensure_all(&hosts[0], &desired[0]).await, [expected]);
        assert_eq!(offload(&hosts[0]).await, Some(on));
        assert_eq!(ensure_all(&hosts[0], &desired[0]).await, [""; 0]);
        assert!(hosts[0].ping("t0", "10.9.0.11"));
    }
}

/// A datagram whose checksum is wrong, as a card leaves it that reckons badly.
fn send_corrupted(host: &Host, sandbox: &str, to: SocketAddrV4) {
    let namespace = File::open(host.driver.sandbox_path(&sandbox.into())).unwrap();
    let send = move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Udp).unwrap();
        let [high, low] = to.port().to_be_bytes();
        let datagram = [0x30, 0x39, high, low, 0, 12, 0xba, 0xad, b't', b'e', b's', b't'];
        sendto(raw.as_raw_fd(), &datagram, &SockaddrIn::from(to), MsgFlags::empty()).unwrap();
    };
    std::thread::spawn(send).join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_that_come_corrupted_are_counted_where_they_come() {
    let (hosts, _switch) = hosts(2).await;
    for (host, desired) in hosts.iter().zip(&joined(&hosts, "red", 9)) {
        ensure_all(host, desired).await;
    }
    let namespace = File::open(hosts[1].driver.sandbox_path(&"t1".into())).unwrap();
    let listen = move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        std::net::UdpSocket::bind(("0.0.0.0", 7000)).unwrap()
    };
    let listener = std::thread::spawn(listen).join().unwrap();
    assert!(hosts[1].driver.corrupted().await.unwrap().is_empty());
    for _ in 0..3 {
        send_corrupted(&hosts[0], "t0", SocketAddrV4::new(Ipv4Addr::new(10, 9, 0, 11), 7000));
    }
    eventually("three are counted", || {
        let table = succeeded(&hosts[1].in_sandbox("t1", "nstat -az UdpInCsumErrors"));
        table.lines().any(|line| line.split_whitespace().nth(1) == Some("3"))
    })
    .await;
    assert_eq!(hosts[1].driver.corrupted().await.unwrap(), [("t1".into(), 3)].into());
    assert!(hosts[0].driver.corrupted().await.unwrap().is_empty());
    drop(listener);
}
