//! Overlays on a real kernel: reach, isolation, convergence, removal.

#![allow(clippy::unwrap_used, reason = "tests")]

mod lab;

use std::net::IpAddr;
use std::sync::Arc;

use lab::*;
use netdriver::{Desired, Mac, NetworkKey, Peer, PeerKey, Peers, Scope};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sandboxes_on_two_hosts_reach_each_other_by_ipv4_and_ipv6() {
    let (hosts, _switch) = hosts(2).await;
    let desired = joined(&hosts, "red", 9);
    for (host, desired) in hosts.iter().zip(&desired) {
        ensure_all(host, desired).await;
    }
    assert!(hosts[0].ping("t0", "10.9.0.11") && hosts[1].ping("t1", "10.9.0.10"), "IPv4");
    assert!(hosts[0].ping("t0", "fd00:9::11") && hosts[1].ping("t1", "fd00:9::10"), "IPv6");
    assert!(
        hosts[0].ping("t0", "10.9.0.1") && hosts[0].ping("t0", "fd00:9::1"),
        "the gateway, on the node itself"
    );
    let whole_packet = "ping -c 1 -W 1 -M do -s 1422 10.9.0.11";
    assert!(hosts[0].in_sandbox("t0", whole_packet).status.success(), "1450 bytes fit");
    assert!(
        !hosts[0].in_sandbox("t0", &whole_packet.replace("1422", "1423")).status.success(),
        "1451 do not"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ipv6_underlay_carries_both_families() {
    let (mut hosts, _switch) = hosts(2).await;
    for (number, host) in hosts.iter_mut().enumerate() {
        host.vtep = format!("fd77::{}", number + 1).parse().unwrap();
    }
    let desired = joined(&hosts, "red", 9);
    for (host, desired) in hosts.iter().zip(&desired) {
        ensure_all(host, desired).await;
    }
    assert!(hosts[0].ping("t0", "10.9.0.11") && hosts[0].ping("t0", "fd00:9::11"));
    let link = succeeded(&hosts[0].in_sandbox("t0", "ip link show eth0"));
    assert!(link.contains("mtu 1430"), "70 bytes less than the underlay: {link}");
}

/// Host 0's sandbox has addresses of the first subnet of each family, host 1's of the second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_subnets_of_a_network_reach_each_other() {
    let (hosts, _switch) = hosts(2).await;
    let mut desired = joined(&hosts, "red", 9);
    let (first, second) = (overlay(9, hosts[0].vtep).subnets, overlay(10, hosts[0].vtep).subnets);
    let far = peer(10, 11, hosts[1].vtep);
    for (number, desired) in desired.iter_mut().enumerate() {
        let red = desired.networks.values_mut().next().unwrap();
        red.subnets.extend(second.clone());
        let near = red.peers.clone().into_iter().filter(|(_, peer)| peer.vtep == hosts[0].vtep);
        red.peers = near.chain([far.clone()]).collect();
        let eth = &mut desired.sandboxes.values_mut().next().unwrap().attachments[0];
        if number == 1 {
            *eth = attachment("red", 10, 11);
        }
        let others = if number == 0 { &second } else { &first };
        eth.subnets = others.iter().map(|subnet| subnet.net).collect();
    }
    for (host, desired) in hosts.iter().zip(&desired) {
        ensure_all(host, desired).await;
    }
    assert!(hosts[0].ping("t0", "10.10.0.11") && hosts[1].ping("t1", "10.9.0.10"), "IPv4");
    assert!(hosts[0].ping("t0", "fd00:10::11") && hosts[1].ping("t1", "fd00:9::10"), "IPv6");
    assert!(hosts[0].ping("t0", "10.9.0.1") && hosts[0].ping("t0", "10.10.0.1"), "each subnet's gateway");
    assert_eq!(ensure_all(&hosts[0], &desired[0]).await, [""; 0], "a second time changes nothing");
    succeeded(&hosts[0].in_sandbox("t0", "ip route del 10.10.0.0/16"));
    assert_eq!(ensure_all(&hosts[0], &desired[0]).await, ["sandbox t0: eth0: add route 10.10.0.0/16"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hosts_own_routes_are_told() {
    let (hosts, _switch) = hosts(1).await;
    succeeded(&try_run(
        "ip",
        &["-n", &hosts[0].netns, "route", "add", "10.99.0.0/16", "via", "192.168.77.254"],
    ));
    succeeded(&try_run("ip", &["-n", &hosts[0].netns, "route", "add", "default", "via", "192.168.77.254"]));
    let routes: Vec<String> =
        hosts[0].driver.routes().await.unwrap().iter().map(ToString::to_string).collect();
    // The gateway bridge does not exist yet, and would.
    for told in ["10.99.0.0/16", "192.168.77.0/24", "172.18.0.0/16"] {
        assert!(routes.iter().any(|route| route == told), "{told} is missing: {routes:?}");
    }
    assert!(routes.iter().all(|route| !route.ends_with("/0") && !route.starts_with("fe80")), "{routes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn networks_are_isolated_from_each_other() {
    let (hosts, _switch) = hosts(2).await;
    let red = joined(&hosts, "red", 9);
    // The same subnet under another VNI, and a second network on both hosts.
    let mut blue = joined(&hosts, "blue", 9);
    for desired in &mut blue {
        desired.networks.values_mut().for_each(|overlay| overlay.vni = 77);
    }
    ensure_all(&hosts[0], &red[0]).await;
    ensure_all(&hosts[1], &blue[1]).await;
    assert!(!hosts[0].ping("t0", "10.9.0.11"));
    ensure_all(&hosts[1], &red[1]).await;
    assert!(hosts[0].ping("t0", "10.9.0.11"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_peer_is_known_for_leaves_no_host() {
    let (hosts, _switch) = hosts(2).await;
    let mut desired = joined(&hosts, "red", 9);
    desired[0].networks.values_mut().for_each(|overlay| overlay.peers = Peers::new());
    ensure_all(&hosts[0], &desired[0]).await;
    ensure_all(&hosts[1], &desired[1]).await;
    assert!(!hosts[0].ping("t0", "10.9.0.11") && !hosts[0].ping("t0", "fd00:9::11"));
    assert!(!hosts[1].ping("t1", "10.9.0.10"), "a request that arrives is not answered");
    let counters = succeeded(&hosts[0].in_network("red", "ip -j -s link show vx0"));
    assert!(counters.contains(r#""tx":{"bytes":0,"#), "nothing went into the tunnel: {counters}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_ensure_changes_nothing() {
    let (mut hosts, _switch) = hosts(1).await;
    let mut desired = joined(&hosts, "red", 9).remove(0);
    desired
        .networks
        .values_mut()
        .for_each(|overlay| overlay.peers.extend([peer(9, 500, "192.168.77.9".parse().unwrap())]));
    desired.sandboxes.values_mut().for_each(|sandbox| sandbox.outbound = true);
    let first = ensure_all(&hosts[0], &desired).await;
    assert!(!first.is_empty());
    for scope in [Scope::All, Scope::network("red"), Scope::sandbox("t0"), Scope::All] {
        assert_eq!(ensure(&hosts[0], &desired, scope.clone()).await, [""; 0], "{scope:?}");
    }
    hosts[0].restart().await;
    for scope in [Scope::sandbox("t0"), Scope::network("red"), Scope::All] {
        assert_eq!(ensure(&hosts[0], &desired, scope.clone()).await, [""; 0], "restarted, {scope:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removal_leaves_no_trace() {
    let (hosts, _switch) = hosts(1).await;
    let host = &hosts[0];
    let before = host.traces();
    let mut desired = joined(&hosts, "red", 9).remove(0);
    desired.sandboxes.values_mut().for_each(|sandbox| sandbox.outbound = true);

    ensure_all(host, &desired).await;
    assert_ne!(host.traces(), before);
    ensure_all(host, &Desired::default()).await;
    assert_eq!(host.traces(), before, "by a pass over the node");

    ensure(host, &desired, Scope::sandbox("t0")).await;
    ensure(host, &Desired::default(), Scope::sandbox("t0")).await;
    ensure(host, &Desired::default(), Scope::network("red")).await;
    assert_eq!(host.traces(), before, "part by part");

    let again = ensure(host, &Desired::default(), Scope::network("red")).await;
    assert!(again.is_empty(), "removing what is missing is success");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_follow_the_wish_by_differences() {
    let (hosts, _switch) = hosts(1).await;
    let host = &hosts[0];
    let mut desired = joined(&hosts, "red", 9).remove(0);
    let vtep = "192.168.77.9".parse().unwrap();
    let red = desired.networks.values_mut().next().unwrap();
    red.peers = (0..1000).map(|n| peer(9, 1000 + n, vtep)).collect();
    ensure_all(host, &desired).await;
    let count = |what: &str| {
        succeeded(&host.in_network("red", what)).lines().filter(|l| l.contains("02:42:0a:09")).count()
    };
    assert_eq!(count("bridge fdb show dev vx0"), 1000);
    assert_eq!(count("ip -4 neigh show dev vx0 nud permanent"), 1000);
    assert_eq!(count("ip -6 neigh show dev vx0 nud permanent"), 1000);

    // One goes, one moves, one comes.
    let red = desired.networks.values_mut().next().unwrap();
    red.peers.remove(&PeerKey::new("e1000"));
    red.peers.extend([peer(9, 1001, "192.168.77.8".parse().unwrap()), peer(9, 5000, vtep)]);
    let changes = ensure(host, &desired, Scope::network("red")).await;
    assert_eq!(changes.len(), 3 + 1 + 3, "{changes:?}");
    let moved = succeeded(&host.in_network("red", "bridge fdb show dev vx0"));
    assert_eq!(moved.matches("dst 192.168.77.8").count(), 1);
    assert_eq!(moved.matches("dst 192.168.77.9").count(), 999);
}

/// What others change in the tables, and addresses that two peers claim, which only the whole set can settle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_differences_cannot_tell_the_whole_tables_do() {
    let (hosts, _switch) = hosts(1).await;
    let host = &hosts[0];
    let mut desired = joined(&hosts, "red", 9).remove(0);
    let [near, far]: [IpAddr; 2] = ["192.168.77.8", "192.168.77.9"].map(|vtep| vtep.parse().unwrap());
    let red = NetworkKey::new("red");
    let peers = |desired: &mut Desired, peers: &[(PeerKey, Arc<Peer>)]| {
        desired.networks.get_mut(&red).unwrap().peers = peers.iter().cloned().collect();
    };
    let tunnels = || -> Vec<String> {
        let fdb = succeeded(&host.in_network("red", "bridge fdb show dev vx0"));
        let lines = fdb.lines().filter(|line| line.contains("02:42:0a:09") && line.contains("dst"));
        let mut lines: Vec<_> = lines.map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
        lines.sort();
        lines.iter().map(|words| format!("{} {}", words[0], words[2])).collect()
    };
    let (one, two) = (peer(9, 1, near), peer(9, 2, far));
    peers(&mut desired, &[one.clone(), two.clone()]);
    ensure_all(host, &desired).await;
    assert_eq!(tunnels(), ["02:42:0a:09:00:01 192.168.77.8", "02:42:0a:09:00:02 192.168.77.9"]);

    // "e9" claims what "e1" has, and gives it back.
    let thief = (PeerKey::new("e9"), peer(9, 1, far).1);
    peers(&mut desired, &[one.clone(), two.clone(), thief]);
    ensure(host, &desired, Scope::network("red")).await;
    assert_eq!(tunnels(), ["02:42:0a:09:00:01 192.168.77.9", "02:42:0a:09:00:02 192.168.77.9"]);
    peers(&mut desired, &[one.clone(), two.clone()]);
    ensure(host, &desired, Scope::network("red")).await;
    assert_eq!(tunnels(), ["02:42:0a:09:00:01 192.168.77.8", "02:42:0a:09:00:02 192.168.77.9"]);

    // Somebody removes an entry: an audit finds it. Somebody removes the device: the next change finds it.
    let remove = "bridge fdb del 02:42:0a:09:00:01 dev vx0 dst 192.168.77.8 self permanent";
    succeeded(&host.in_network("red", remove));
    assert_eq!(ensure_all(host, &desired).await.len(), 1);
    succeeded(&host.in_network("red", "ip link del vx0"));
    peers(&mut desired, &[one, two, peer(9, 3, far)]);
    ensure(host, &desired, Scope::network("red")).await;
    assert_eq!(tunnels().len(), 3);

    // An entry that the kernel refuses is told, and tried again with the next change.
    let strange =
        Peer { vtep: far, mac: Mac([1, 2, 3, 4, 5, 6]), addresses: vec!["10.9.0.77".parse().unwrap()] };
    let multicast = (PeerKey::new("e7"), Arc::new(strange));
    let before: Vec<_> = desired.networks[&red].peers.clone().into_iter().collect();
    peers(&mut desired, &[before.clone(), vec![multicast]].concat());
    for _ in 0..2 {
        let report = host.driver.ensure(&desired, Scope::network("red")).await;
        assert_eq!(report.errors.len(), 1, "{:?}", report.errors);
    }
    peers(&mut desired, &before);
    ensure(host, &desired, Scope::network("red")).await;
    assert!(ensure_all(host, &desired).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_cannot_take_another_tasks_traffic() {
    let (hosts, _switch) = hosts(2).await;
    let mut desired = joined(&hosts, "red", 9);
    let thief =
        netdriver::Sandbox { attachments: vec![attachment("red", 9, 200)], outbound: false, resolver: false };
    desired[0].sandboxes.insert("thief".into(), thief);
    for (host, desired) in hosts.iter().zip(&desired) {
        ensure_all(host, desired).await;
    }
    let victim = "02:42:0a:09:00:0a";
    succeeded(&hosts[0].in_sandbox("thief", &format!("ip link set eth0 down address {victim}")));
    succeeded(&hosts[0].in_sandbox("thief", "ip link set eth0 up"));
    hosts[0].ping("thief", "10.9.0.1");
    assert!(hosts[1].ping("t1", "10.9.0.10"), "the victim still gets its frames");
}
