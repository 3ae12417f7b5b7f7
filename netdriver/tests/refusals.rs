//! What cannot be done says so in one line, and leaves the rest of the node alone.

#![allow(clippy::unwrap_used, reason = "tests")]

mod lab;

use lab::*;
use netdriver::{Config, Desired, Netdriver, Sandbox, Scope};

async fn complaints(host: &Host, desired: &Desired) -> Vec<String> {
    let report = host.driver.ensure(desired, Scope::All).await;
    report.errors.iter().map(|(subject, error)| format!("{subject}: {error}")).collect()
}

fn alone(host: &Host, change: impl Fn(&mut netdriver::Overlay)) -> Desired {
    let mut overlay = overlay(9, host.vtep);
    change(&mut overlay);
    Desired { networks: [("red".into(), overlay)].into(), ..Desired::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vni_in_use_is_named() {
    let (hosts, _switch) = hosts(1).await;
    succeeded(&hosts[0].inside("ip link add other type vxlan id 9 dstport 4789 local 192.168.77.1"));
    assert_eq!(
        complaints(&hosts[0], &alone(&hosts[0], |_| {})).await,
        [
            "network red: VXLAN network identifier 9 is in use by another VXLAN device of this host on UDP port 4789"
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_named() {
    let (hosts, _switch) = hosts(1).await;
    let squatter = hosts[0].bind_udp("0.0.0.0:4789");
    let complaints = complaints(&hosts[0], &alone(&hosts[0], |_| {})).await;
    drop(squatter);
    assert_eq!(
        complaints,
        ["network red: UDP port 4789 is in use by another program of this host; VXLAN needs it"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_wishes_are_refused_by_name_and_change_nothing() {
    let (hosts, _switch) = hosts(1).await;
    let host = &hosts[0];
    let before = host.traces();
    let cases: Vec<(Desired, &str)> = vec![
        (
            alone(host, |o| o.local = "192.168.77.200".parse().unwrap()),
            "no device of this host has the address 192.168.77.200",
        ),
        (alone(host, |o| o.vni = 1 << 24), "vni \"16777216\": 1 to 16777215 is allowed"),
        (alone(host, |o| o.mtu = Some(67)), "mtu \"67\""),
        (alone(host, |o| o.subnets[0].gateway = "10.8.0.1".parse().unwrap()), "gateway \"10.8.0.1\""),
        (
            Desired { networks: [("../red".into(), overlay(9, host.vtep))].into(), ..Desired::default() },
            "network \"../red\"",
        ),
    ];
    for (desired, expected) in cases {
        let complaints = complaints(host, &desired).await;
        assert!(complaints.len() == 1 && complaints[0].contains(expected), "{complaints:?}");
        assert_eq!(host.traces(), before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_failure_does_not_keep_others_from_starting() {
    let (hosts, _switch) = hosts(1).await;
    let host = &hosts[0];
    let mut desired = joined(&hosts, "red", 9).remove(0);
    let lost = Sandbox { attachments: vec![attachment("nowhere", 9, 50)], outbound: false, resolver: false };
    desired.sandboxes.insert("lost".into(), lost);
    let report = host.driver.ensure(&desired, Scope::All).await;
    let error = report.sandbox_error(&"lost".into()).unwrap();
    assert_eq!(error.to_string(), "attached to network nowhere, which is not among the desired networks");
    assert!(!error.is_retryable() && report.sandbox_error(&"t0".into()).is_none());
    assert!(host.ping("t0", "10.9.0.1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_with_tunnels_of_another_family_is_left_out_alone() {
    let (hosts, _switch) = hosts(2).await;
    let mut desired = joined(&hosts, "red", 9);
    let red = desired[0].networks.values_mut().next().unwrap();
    red.peers.extend([peer(9, 99, "fd77::9".parse().unwrap())]);
    ensure_all(&hosts[1], &desired[1]).await;
    let report = hosts[0].driver.ensure(&desired[0], Scope::All).await;
    let errors: Vec<String> = report.errors.iter().map(|(_, error)| error.to_string()).collect();
    let expected = "peer e99 is left out: its tunnel end fd77::9 is not of the address family of 192.168.77.1, this host's";
    assert_eq!(errors, [expected]);
    assert!(report.sandbox_error(&"t0".into()).is_none() && hosts[0].ping("t0", "10.9.0.11"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_whose_network_fails_carries_the_reason() {
    let (hosts, _switch) = hosts(1).await;
    let mut desired = joined(&hosts, "red", 9).remove(0);
    desired.networks.values_mut().for_each(|overlay| overlay.local = "192.168.77.200".parse().unwrap());
    let report = hosts[0].driver.ensure(&desired, Scope::sandbox("t0")).await;
    let error = report.sandbox_error(&"t0".into()).unwrap().to_string();
    assert!(error.starts_with("network red: no device of this host has"), "{error}");
}

#[tokio::test]
async fn a_gateway_that_cannot_be_is_refused_at_once() {
    let config =
        Config { gateway_bridge: "much_too_long_a_name".into(), ..Config::new("/nonexistent/nd-netns") };
    let error = Netdriver::open(config).await.unwrap_err().to_string();
    assert_eq!(error, "gateway bridge \"much_too_long_a_name\": a device name of 1 to 15 bytes is allowed");
}

/// On a kernel that can, the network is made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kernel_that_cannot_encrypt_says_what_it_lacks_and_makes_nothing() {
    let (hosts, _switch) = hosts(1).await;
    let host = &hosts[0];
    let lacks = host.driver.lacks_for_encryption().to_string();
    let before = host.traces();
    let encryption = netdriver::Encryption {
        keys: [(1, netdriver::Secret::new([7; 32]))].into(),
        sending: 1,
        ..netdriver::Encryption::without_keys()
    };
    let sealed = alone(host, |overlay| overlay.encryption = Some(encryption.clone()));
    let told = complaints(host, &sealed).await;
    if lacks.is_empty() {
        assert!(told.is_empty(), "{told:?}");
        return;
    }
    let expected = "network red: the network is encrypted, and this node's kernel lacks what that needs:";
    assert_eq!(told, [format!("{expected} {lacks}")]);
    assert_eq!(host.traces(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_encrypted_network_without_keys_is_refused() {
    let (hosts, _switch) = hosts(1).await;
    let sealed = alone(&hosts[0], |o| o.encryption = Some(netdriver::Encryption::without_keys()));
    let told = complaints(&hosts[0], &sealed).await;
    assert_eq!(told, ["network red: sending \"0\": it must be one of the keys"]);
}
