//! Encrypted networks: with kernels that have ESP, in a guest, and with this machine's, which may have none.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

use std::collections::BTreeSet;
use std::time::Duration;

use e2e::{Capture, Host, Lab, PATIENCE, Ping, TaskRow, wait};

const PREFIX: &str = "10.0.9.";
/// A guest is emulated, and its machine may have more to do.
const IN_GUEST: Duration = Duration::from_secs(180);
/// Pings that have to be sent while something changes, for their count to prove anything.
const MANY: u64 = 300;

#[test]
fn in_a_guest() {
    e2e::guest::run_ignored();
}

fn create_network(host: &Host) {
    host.ctl(&[
        "network",
        "create",
        "--driver",
        "overlay",
        "--subnet",
        "10.0.9.0/24",
        "--opt",
        "encrypted=true",
        "sealed",
    ])
    .ok();
}

/// The SPIs of the host's associations.
fn associations(host: &Host) -> BTreeSet<String> {
    let state = host.sh("ip xfrm state").ok();
    let spis = state.lines().filter_map(|line| line.trim().strip_prefix("proto esp spi "));
    spis.map(|rest| rest.split(' ').next().unwrap().to_owned()).collect()
}

/// Waits until a host has nothing but these many associations, of which none is `old`. Which they are.
fn wait_associations(host: &Host, count: usize, old: &BTreeSet<String>) -> BTreeSet<String> {
    wait(&format!("{count} new associations on {}", host.name()), IN_GUEST, || {
        let now = associations(host);
        if now.len() == count && now.is_disjoint(old) { Ok(now) } else { Err(format!("{now:?}")) }
    })
}

/// Packets that the host has dropped because they arrived in cleartext.
fn dropped(host: &Host) -> u64 {
    let rules = host.sh("nft list table inet swarmd_encryption").ok();
    let chain = rules.split_once("chain arrive_").unwrap().1;
    chain.split_once("packets ").unwrap().1.split(' ').next().unwrap().parse().unwrap()
}

/// Sends the task five packets of the network, built by hand in cleartext by a host that is no part of the swarm.
fn inject(intruder: &Host, target: &Host, task: &TaskRow) {
    let vni = target.sh("nft list table inet swarmd_encryption").ok();
    let vni = vni.split_once("chain arrive_").unwrap().1.split('_').next().unwrap().to_owned();
    let address = task.address(PREFIX);
    let mac: Vec<String> = address.octets().iter().map(|octet| format!("{octet:02x}")).collect();
    let (own, other, mac) = (intruder.addr(), target.addr(), format!("02:42:{}", mac.join(":")));
    let script = format!(
        "ip link add intruder type vxlan id {vni} local {own} dstport 4789 nolearning
         ip link set intruder up
         ip addr add {PREFIX}66/24 dev intruder
         ip neigh add {address} lladdr {mac} dev intruder nud permanent
         bridge fdb add {mac} dev intruder dst {other}
         ping -n -c 5 -i 0.05 -W 1 {address} || true"
    );
    intruder.sh(&script).ok();
}

fn assert_none_lost(ping: Ping) {
    let report = ping.finish_unhurried();
    assert!(report.sent >= MANY, "only {} pings were sent", report.sent);
    assert_eq!(report.lost, Vec::<u64>::new(), "of {} sent", report.sent);
}

#[test]
#[ignore = "needs a kernel with ESP: see in_a_guest"]
fn an_encrypted_network_from_its_first_packet_to_its_last() {
    // A guest can be slow beyond the usual patience of managers.
    let mut lab = Lab::swarm_with("an encrypted network", 1, 1, &["--dispatcher-heartbeat", "60s"]);
    let nothing = BTreeSet::new();
    let before = lab.host(2).footprint();
    create_network(lab.host(1));
    lab.add_host();
    let (h1, h2, intruder) = (lab.host(1), lab.host(2), lab.host(3));
    let capture = Capture::start(&lab);
    let service =
        ["service", "create", "--detach", "--replicas", "2", "--network", "sealed", "--name", "web"];
    h1.ctl(&[&service[..], &[&lab.web()]].concat()).ok();
    let tasks = h1.wait_running_within(IN_GUEST, "web", 2);
    let [one, two] = ["h1", "h2"].map(|name| tasks.iter().find(|task| task.node == name).unwrap());

    // ESP alone, also with full packets.
    let inside = lab.enter(one);
    wait("one replica to see the other's page", IN_GUEST, || {
        let page = inside.get(two.address(PREFIX));
        let seen = page.stdout.contains(&format!("client={}", one.address(PREFIX)));
        if seen { Ok(()) } else { Err(page) }
    });
    let full = ["-n", "-c1", "-W5", "-Mdo", "-s", "1388", &two.address(PREFIX).to_string()];
    inside.net("ping", &full).ok();
    assert!(capture.count("ip proto 50") >= 2 && capture.count("ip proto 50 and ip[2:2] = 1500") >= 2);
    assert_eq!((capture.count("udp port 4789"), capture.count("ip[6:2] & 0x3fff != 0")), (0, 0));

    // What arrives in cleartext does not arrive.
    let (reached, refused) = (inside.sh("cat /sys/class/net/eth0/statistics/rx_packets").ok(), dropped(h1));
    inject(intruder, h1, one);
    assert_eq!(inside.sh("cat /sys/class/net/eth0/statistics/rx_packets").ok(), reached);
    assert_eq!(dropped(h1), refused + 5);

    // Three rotations lose nothing, and leave no old key behind.
    let ping = Ping::start(inside, two.address(PREFIX));
    for _ in 0..3 {
        let old = associations(h1);
        assert_eq!(h1.ctl_within(IN_GUEST, &["network", "rotate-key", "sealed"]).ok(), "sealed");
        [h1, h2].iter().for_each(|host| _ = wait_associations(host, 2, &old));
    }
    assert_none_lost(ping);

    // A daemon that starts again draws new keys, and nobody misses a packet.
    let ping = Ping::start(lab.enter(two), one.address(PREFIX));
    let old = associations(h1);
    assert!(h2.terminate().success());
    h2.start();
    [h1, h2].iter().for_each(|host| _ = wait_associations(host, 2, &old));
    assert_none_lost(ping);
    assert_eq!(capture.count("udp port 4789 and not host 192.168.77.13"), 0);

    // A node without a task has no key, and nobody hears it.
    h1.ctl(&["node", "update", "--availability", "drain", "h2"]).ok();
    h1.wait_running_within(IN_GUEST, "web", 2);
    [h1, h2].iter().for_each(|host| _ = wait_associations(host, 0, &nothing));
    wait("h2 to have no trace", IN_GUEST, || {
        let now = h2.footprint();
        let more: Vec<_> = now.difference(&before).collect();
        if more.is_empty() { Ok(()) } else { Err(format!("{more:#?}")) }
    });
    let rules = h2.sh("nft list tables").ok();
    assert!(!rules.contains("swarmd_encryption"), "{rules}");
}

/// Of this machine's own kernel: what it lacks is named, or the network works.
#[test]
fn a_kernel_that_cannot_encrypt_is_avoided_and_says_why() {
    let lab = Lab::swarm("a kernel that cannot encrypt", 1, 1);
    let h1 = lab.host(1);
    let shown = h1.inspect("node", "self");
    let lacks = shown.pointer("/Description/Engine/Labels/swarm.encryption-lacks").unwrap().as_str().unwrap();
    create_network(h1);
    if lacks.is_empty() {
        h1.create_web(&lab, "web", "sealed", 2);
        return;
    }
    h1.ctl(&["service", "create", "--detach", "--network", "sealed", "--name", "web", &lab.web()]).ok();
    let told = h1.wait_tasks("a task that says why it waits", PATIENCE, "web", |tasks| {
        tasks.iter().find(|task| !task.error.is_empty()).map(|task| task.error.clone())
    });
    assert_eq!(
        told,
        format!("no suitable node (the kernel lacks {lacks} for encrypted networks on 2 nodes)")
    );
    let refused = h1.ctl(&["network", "rotate-key", "nowhere"]).refused();
    assert!(refused.contains("no such network: nowhere"), "{refused}");
    h1.create_network("open", "10.0.8.0/24");
    let refused = h1.ctl(&["network", "rotate-key", "open"]).refused();
    assert!(refused.contains("network \"open\" is not encrypted"), "{refused}");
    h1.create_web(&lab, "plain", "open", 2);
}
