//! Half-made states, restarts, many at once, and nothing leaked.

#![allow(clippy::unwrap_used, reason = "tests")]

mod lab;

use std::time::{Duration, Instant};

use lab::*;
use netdriver::{Desired, NetworkKey, Sandbox, SandboxKey, Scope};

/// One sandbox on one network, with a way out, and a peer to reach.
async fn pair() -> (Vec<Host>, Switch, Vec<Desired>) {
    let (hosts, switch) = hosts(2).await;
    let mut desired = joined(&hosts, "red", 9);
    desired.iter_mut().flat_map(|d| d.sandboxes.values_mut()).for_each(|sandbox| sandbox.outbound = true);
    for (host, desired) in hosts.iter().zip(&desired) {
        ensure_all(host, desired).await;
    }
    (hosts, switch, desired)
}

fn works(host: &Host) -> bool {
    host.ping("t0", "10.9.0.11") && host.ping("t0", "fd00:9::11") && host.ping("t0", "192.168.77.254")
}

/// Damage done by a command in the network's namespace, in the sandbox, or to files of the directory (`DIR`). `PORT`
/// is the network's end of the sandbox's cable.
const DAMAGES: [(Where, &str); 18] = [
    (Where::Network, "ip link del br0"),
    (Where::Network, "ip link del vx0"),
    (Where::Network, "ip link set vx0 down"),
    (Where::Network, "ip link set vx0 nomaster"),
    (Where::Network, "ip link set vx0 mtu 1280"),
    (Where::Network, "ip link add v0123456789ab type veth"),
    (Where::Network, "ip neigh flush dev vx0 nud permanent"),
    (Where::Network, "bridge fdb del 02:42:0a:09:00:0b dev vx0 self"),
    (Where::Network, "ip link del PORT"),
    (Where::Network, "ip link set PORT nomaster"),
    (Where::Network, "bridge fdb del 02:42:0a:09:00:0a dev PORT master"),
    (Where::Sandbox, "ip link set eth0 down"),
    (Where::Sandbox, "ip addr flush dev eth0"),
    (Where::Sandbox, "ip route del default"),
    (Where::Sandbox, "ip link del eth1"),
    (Where::Files, "umount -l DIR/s-t0"),
    // Devices are deleted before their namespace is unmounted, else they would be in the way for a while.
    (Where::Network, "sh -c ip${IFS}link${IFS}del${IFS}vx0&&umount${IFS}-l${IFS}DIR/n-red"),
    (Where::Files, "touch DIR/s-stray"),
];

enum Where {
    Network,
    Sandbox,
    Files,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_half_made_state_is_mended() {
    let (mut hosts, _switch, desired) = pair().await;
    let links = succeeded(&hosts[0].in_network("red", "ip -br link"));
    let port = links.lines().find(|line| line.starts_with('v') && !line.starts_with("vx0")).unwrap();
    let port = port.split('@').next().unwrap();
    let dir = hosts[0].dir().to_string_lossy().into_owned();
    for (place, command) in DAMAGES {
        let command = command.replace("PORT", port).replace("DIR", &dir);
        succeeded(&match place {
            Where::Network => hosts[0].in_network("red", &command),
            Where::Sandbox => hosts[0].in_sandbox("t0", &command),
            Where::Files => hosts[0].inside(&command),
        });
        hosts[0].restart().await;
        let changes = ensure_all(&hosts[0], &desired[0]).await;
        assert!(!changes.is_empty(), "nothing was seen of: {command}");
        assert!(works(&hosts[0]), "not mended: {command}; did {changes:#?}");
        assert_eq!(ensure_all(&hosts[0], &desired[0]).await, [""; 0], "not settled: {command}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_network_is_noticed_when_a_sandbox_needs_it() {
    let (hosts, _switch, mut desired) = pair().await;
    succeeded(&hosts[0].in_network("red", "ip link del br0"));
    let late = Sandbox { attachments: vec![attachment("red", 9, 50)], outbound: false, resolver: false };
    desired[0].sandboxes.insert("late".into(), late);
    ensure(&hosts[0], &desired[0], Scope::sandbox("late")).await;
    assert!(hosts[0].ping("late", "10.9.0.1"));
    ensure_all(&hosts[0], &desired[0]).await;
    assert!(works(&hosts[0]), "the others follow with the next pass over the node");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_loses_no_packet() {
    let (mut hosts, _switch, desired) = pair().await;
    let ping = hosts[0].start_in_sandbox("t0", "ping -n -i 0.01 -c 300 10.9.0.11");
    for _ in 0..5 {
        for (host, desired) in hosts.iter_mut().zip(&desired) {
            host.restart().await;
            assert_eq!(ensure_all(host, desired).await, [""; 0]);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let output = ping.wait_with_output().unwrap();
    let output = String::from_utf8_lossy(&output.stdout);
    // For the answer to the very last one ping waits 10 ms only, and a busy machine takes longer.
    let lost: Vec<_> = (1..300).filter(|seq| !output.contains(&format!("icmp_seq={seq} "))).collect();
    assert!(lost.is_empty(), "{lost:?} were lost: {output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_sandboxes_at_once() {
    let (hosts, _switch) = hosts(1).await;
    let host = &hosts[0];
    let before = host.traces();
    let mut desired = joined(&hosts, "red", 9).remove(0);
    desired.networks.insert("blue".into(), overlay(10, host.vtep));
    desired.sandboxes = (0..20)
        .map(|n| {
            // Both orders, so that locks taken in either would wait in a circle.
            let mut attachments = vec![attachment("red", 9, 100 + n), attachment("blue", 10, 100 + n)];
            attachments.rotate_left(usize::from(n) % 2);
            (SandboxKey::new(format!("t{n}")), Sandbox { attachments, outbound: true, resolver: false })
        })
        .collect();

    // Each by a call of its own, as tasks start; nothing was made beforehand.
    let start = Instant::now();
    let calls = desired.sandboxes.keys().map(|key| ensure(host, &desired, Scope::sandbox(key.clone())));
    futures_util::future::join_all(calls).await;
    eprintln!("20 sandboxes with 3 interfaces each: {:?}", start.elapsed());
    assert_eq!(ensure_all(host, &desired).await, [""; 0]);
    for n in 1..20 {
        assert!(host.ping("t0", &format!("10.9.0.{}", 100 + n)), "t{n}");
    }

    let calls = desired.sandboxes.keys().map(|key| {
        let rest = Desired { networks: desired.networks.clone(), ..Desired::default() };
        async move { ensure(host, &rest, Scope::sandbox(key.clone())).await }
    });
    futures_util::future::join_all(calls).await;
    ensure_all(host, &Desired::default()).await;
    assert_eq!(host.traces(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_is_wanted_stays() {
    let (hosts, _switch, desired) = pair().await;
    let mut less = desired[0].clone();
    less.networks.insert(NetworkKey::new("blue"), overlay(10, hosts[0].vtep));
    less.sandboxes.insert(
        "t9".into(),
        Sandbox { attachments: vec![attachment("blue", 10, 9)], outbound: false, resolver: false },
    );
    ensure_all(&hosts[0], &less).await;
    ensure_all(&hosts[0], &desired[0]).await;
    assert!(works(&hosts[0]));
    assert!(!hosts[0].dir().join("n-blue").exists() && !hosts[0].dir().join("s-t9").exists());
}
