//! What can be seen and heard of a way between two hosts, on a real kernel; looking changes nothing.

#![allow(clippy::unwrap_used, reason = "tests")]

mod lab;

use std::net::IpAddr;

use lab::*;
use netdriver::{
    Connected, Desired, Echoed, Far, Heard, Passage, Probe, Probed, Sight, Trail, Tunnel, View, mac_for,
};

const TOKEN: u16 = 0x1234;
const ALL: Passage = Passage { request: true, full_request: true, reply: true, full_reply: true };

async fn two() -> (Vec<Host>, Switch, Vec<Desired>) {
    let (hosts, switch) = hosts(2).await;
    let desired = joined(&hosts, "red", 9);
    for (host, desired) in hosts.iter().zip(&desired) {
        ensure_all(host, desired).await;
    }
    (hosts, switch, desired)
}

fn address(number: usize, ipv6: bool) -> IpAddr {
    if ipv6 { format!("fd00:9::{number}") } else { format!("10.9.0.{number}") }.parse().unwrap()
}

/// What host `i` has for the other one's task.
async fn look(hosts: &[Host], i: usize) -> Sight {
    let (own, other) = (10 + i, 11 - i);
    let view = View {
        sandbox: format!("t{i}").into(),
        position: 0,
        network: "red".into(),
        vni: 9,
        encrypted: false,
        local: hosts[i].vtep,
        mac: mac_for(address(own, false)),
        addresses: vec![address(own, false)],
        virtual_ip: Some("10.9.0.99".parse().unwrap()),
        far: Some(Far {
            address: address(other, false),
            mac: mac_for(address(other, false)),
            vtep: hosts[1 - i].vtep,
        }),
    };
    hosts[i].driver.look(&view).await.unwrap()
}

fn trail(i: usize, ipv6: bool) -> Trail {
    let tunnel = Tunnel { ipv6: false, port: 4789, vni: 9, spis: None };
    Trail {
        sandbox: format!("t{i}").into(),
        network: "red".into(),
        token: TOKEN,
        ipv6,
        full_bytes: 1450,
        tunnel: Some(tunnel),
    }
}

/// From host 0 to host 1, and what both heard.
async fn probe(hosts: &[Host], ipv6: bool, port: u16) -> (Probed, Heard, Heard) {
    let near = hosts[0].driver.listen(&trail(0, ipv6)).await.unwrap();
    let far = hosts[1].driver.listen(&trail(1, ipv6)).await.unwrap();
    let probe = Probe {
        sandbox: "t0".into(),
        address: address(11, ipv6),
        token: TOKEN,
        full_bytes: 1450,
        port: Some(port),
        virtual_ip: None,
    };
    let probed = hosts[0].driver.probe(&probe).await;
    (probed, near.hear(), far.hear())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_is_heard_everywhere_on_its_way() {
    let (hosts, _switch, desired) = two().await;
    for ipv6 in [false, true] {
        let (probed, near, far) = probe(&hosts, ipv6, 80).await;
        assert!(
            matches!(probed.small, Echoed::Answered(_)) && matches!(probed.full, Echoed::Answered(_)),
            "{probed:?}"
        );
        assert_eq!(probed.connection, Some(Connected::Refused));
        for heard in [near, far] {
            assert_eq!(heard, Heard { task: ALL, tunnel: ALL, underlay: ALL }, "IPv6: {ipv6}");
        }
    }
    for (host, desired) in hosts.iter().zip(&desired) {
        assert_eq!(ensure_all(host, desired).await, [""; 0], "nothing was changed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_probe_is_not_heard_it_was_lost() {
    let (hosts, switch, _) = two().await;
    let rules = "table inet f { chain f { type filter hook input priority 0; udp dport 4789 drop; }; }";
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), rules).unwrap();
    succeeded(&hosts[1].inside(&format!("nft -f {}", file.path().display())));
    let (probed, near, far) = probe(&hosts, false, 80).await;
    assert_eq!((probed.small, probed.connection), (Echoed::Lost, Some(Connected::Silent)));
    assert!(near.underlay.request && far.underlay.request && !far.tunnel.request && !far.task.request);
    succeeded(&hosts[1].inside("nft delete table inet f"));

    // Frames that are larger than the port takes are lost without a word.
    succeeded(&switch.inside("ip link set h2 mtu 1400"));
    let (probed, ..) = probe(&hosts, false, 80).await;
    assert!(matches!(probed.small, Echoed::Answered(_)), "{probed:?}");
    assert_eq!(probed.full, Echoed::Lost);
    // A bridge allows for a VLAN tag, of 4 bytes.
    assert_eq!(probed.largest, Some(1352));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_there_is_seen_and_what_is_not_is_not() {
    let (hosts, _switch, _) = two().await;
    let socket = hosts[1].driver.tcp_towards(&"t1".into(), "10.9.0.11:8080".parse().unwrap()).await.unwrap();
    socket.bind("10.9.0.11:8080".parse().unwrap()).unwrap();
    let _server = socket.listen(1).unwrap();
    let (near, far) = (look(&hosts, 0).await, look(&hosts, 1).await);
    assert_eq!(far.listening, ["10.9.0.11:8080".parse().unwrap()]);
    assert!(near.addressed && near.stationed && near.tunnel.is_some());
    assert!([&near.interface, &near.port, &near.bridge].iter().all(|device| device.as_ref().unwrap().1.up));
    assert_eq!((near.neighbour, near.forwarding), (Some(mac_for(address(11, false))), Some(hosts[1].vtep)));
    let underlay = near.underlay.unwrap().unwrap();
    assert_eq!((&*underlay.device, underlay.mtu, underlay.inner_bytes), ("up0", 1500, 1450));

    succeeded(&hosts[0].in_network("red", "ip neigh del 10.9.0.11 dev vx0"));
    succeeded(&hosts[0].in_network("red", "bridge fdb del 02:42:0a:09:00:0b dev vx0 dst 192.168.77.2 self"));
    succeeded(&hosts[0].in_sandbox("t0", "ip link set eth0 down"));
    succeeded(&hosts[0].inside("ip link set up0 down"));
    let near = look(&hosts, 0).await;
    assert_eq!((near.neighbour, near.forwarding), (None, None));
    assert!(!near.interface.unwrap().1.up);
    assert!(near.underlay.unwrap().is_err());
}
