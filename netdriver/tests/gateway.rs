//! The way out of a node: NAT, isolation between tasks, addresses.

#![allow(clippy::unwrap_used, reason = "tests")]

mod lab;

use std::collections::BTreeSet;

use lab::*;
use netdriver::{Desired, Sandbox, Scope};

fn outbound(count: usize) -> Desired {
    let sandbox = Sandbox { attachments: Vec::new(), outbound: true, resolver: false };
    Desired {
        sandboxes: (0..count).map(|n| (format!("t{n}").into(), sandbox.clone())).collect(),
        ..Desired::default()
    }
}

fn address(host: &Host, sandbox: &str) -> String {
    let line = succeeded(&host.in_sandbox(sandbox, "ip -4 -br addr show eth0"));
    line.split_whitespace().nth(2).unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_leave_by_nat_and_do_not_meet() {
    let (hosts, switch) = hosts(1).await;
    let host = &hosts[0];
    ensure_all(host, &outbound(2)).await;
    assert_eq!([address(host, "t0"), address(host, "t1")], ["172.18.0.2/16", "172.18.0.3/16"]);
    // The underlay has no route to 172.18.0.0/16: an answer proves the translation.
    assert!(host.ping("t0", "192.168.77.254"), "out");
    assert!(host.ping("t0", "172.18.0.1"), "the host itself");
    assert!(!host.ping("t0", "172.18.0.3"), "another task");
    // Nor by way of the host.
    succeeded(&host.in_sandbox("t0", "ip route add 172.18.0.3/32 via 172.18.0.1"));
    assert!(!host.ping("t0", "172.18.0.3"), "another task, routed");
    // Nor from outside.
    succeeded(&switch.inside("ip route add 172.18.0.0/16 via 192.168.77.1"));
    assert!(!switch.inside("ping -c 1 -W 1 172.18.0.2").status.success(), "inwards");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unprivileged_task_may_ping_and_bind_low_ports() {
    let (hosts, _switch) = hosts(1).await;
    ensure_all(&hosts[0], &outbound(1)).await;
    let sysctl = |name: &str| succeeded(&hosts[0].in_sandbox("t0", &format!("sysctl -n {name}")));
    assert_eq!(sysctl("net.ipv4.ip_unprivileged_port_start").trim(), "0");
    assert_eq!(sysctl("net.ipv4.ping_group_range").split_whitespace().last(), Some("2147483647"));
    assert_eq!(sysctl("net.ipv4.ip_forward").trim(), "0", "a task on two networks joins them not");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_survive_a_restart_and_are_never_given_twice() {
    let (mut hosts, _switch) = hosts(1).await;
    let mut desired = outbound(3);
    ensure_all(&hosts[0], &desired).await;
    let before: Vec<String> = (0..3).map(|n| address(&hosts[0], &format!("t{n}"))).collect();

    desired.sandboxes.remove(&"t0".into());
    hosts[0].restart().await;
    desired.sandboxes.extend(outbound(6).sandboxes.into_iter().skip(3));
    ensure_all(&hosts[0], &desired).await;
    let after: Vec<String> = (1..6).map(|n| address(&hosts[0], &format!("t{n}"))).collect();
    assert_eq!(before[1..], after[..2]);
    assert_eq!(after.iter().collect::<BTreeSet<_>>().len(), after.len(), "{after:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_comes_with_the_first_and_goes_with_the_last() {
    let (hosts, _switch) = hosts(1).await;
    let host = &hosts[0];
    let before = host.traces();
    let mut desired = outbound(2);
    for name in ["t0", "t1"] {
        ensure(host, &desired, Scope::sandbox(name)).await;
    }
    desired.sandboxes.remove(&"t0".into());
    ensure(host, &desired, Scope::sandbox("t0")).await;
    assert!(host.ping("t1", "192.168.77.254"));
    // A sandbox may stay without its way out.
    desired.sandboxes.values_mut().for_each(|sandbox| sandbox.outbound = false);
    ensure(host, &desired, Scope::sandbox("t1")).await;
    assert!(host.inside("ip link show swarm_gwbridge").status.code() == Some(1), "gone with its last leg");
    desired.sandboxes.clear();
    ensure(host, &desired, Scope::sandbox("t1")).await;
    assert_eq!(host.traces(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_rules_and_a_lost_bridge_are_mended() {
    let (hosts, _switch) = hosts(1).await;
    let host = &hosts[0];
    let desired = outbound(1);
    ensure_all(host, &desired).await;
    for damage in [
        "nft flush ruleset",
        "nft flush table ip swarmd_gateway",
        "sysctl -qw net.ipv4.ip_forward=0",
        "ip addr flush dev swarm_gwbridge",
        "ip link del swarm_gwbridge",
    ] {
        succeeded(&host.inside(damage));
        assert!(!host.ping("t0", "192.168.77.254"), "{damage}");
        ensure_all(host, &desired).await;
        assert!(host.ping("t0", "192.168.77.254"), "not mended: {damage}");
        assert_eq!(ensure_all(host, &desired).await, [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_of_somebody_else_is_left_alone_and_named() {
    let (hosts, _switch) = hosts(1).await;
    let host = &hosts[0];
    succeeded(&host.inside("ip link add swarm_gwbridge type bridge"));
    let report = host.driver.ensure(&Desired::default(), Scope::All).await;
    assert!(report.errors.is_empty(), "it is in nobody's way: {:?}", report.errors);
    let mut desired = joined(&hosts, "red", 9).remove(0);
    desired.sandboxes.values_mut().for_each(|sandbox| sandbox.outbound = true);
    for scope in [Scope::sandbox("t0"), Scope::All] {
        let report = host.driver.ensure(&desired, scope).await;
        let error = report.sandbox_error(&"t0".into()).unwrap().to_string();
        let expected = "the device name swarm_gwbridge is in use by a device of this host that is not swarmd's; \
                        rename or delete it";
        assert_eq!(error, expected);
    }
    assert!(succeeded(&host.inside("ip -d link show swarm_gwbridge")).contains("bridge"));
    succeeded(&host.inside("ip link del swarm_gwbridge"));
    ensure_all(host, &desired).await;
    assert!(host.ping("t0", "192.168.77.254"));
}
