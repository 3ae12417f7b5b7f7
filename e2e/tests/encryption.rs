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

/// What a host has of the association with which it sends to another, in the words of `ip xfrm state add`.
fn keys_towards(from: &Host, to: &Host) -> String {
    let state = from.sh("ip xfrm state").ok();
    let ends = format!("src {} dst {}", from.addr(), to.addr());
    let (_, rest) = state.split_once(&format!("{ends}\n")).unwrap();
    let after = |word: &str| rest.split_once(word).unwrap().1.split_whitespace().next().unwrap().to_owned();
    let (spi, key) = (after("spi "), after("aead rfc4106(gcm(aes)) "));
    format!(
        "{ends} proto esp spi {spi} reqid 1 mode transport aead 'rfc4106(gcm(aes))' {key} 128 \
         replay-window 1024 flag esn"
    )
}

/// A host that has left the network uses the keys that it had, and sends the task five packets.
fn inject_with(kept: &str, from: &Host, to: &Host, task: &TaskRow) {
    let ends = format!("src {} dst {}", from.addr(), to.addr());
    let script = format!(
        "ip xfrm state add {kept}
         ip xfrm policy add dir out {ends} proto udp dport 4789 tmpl {ends} proto esp reqid 1 mode transport"
    );
    from.sh(&script).ok();
    inject(from, to, task);
    from.sh("ip link delete intruder; ip xfrm policy flush; ip xfrm state flush").ok();
}

/// Gives h2 another key than that with which h1 sends, and has it found.
fn assert_a_wrong_key_is_named(h1: &Host, h2: &Host, one: &TaskRow, two: &TaskRow) {
    let trace = ["network", "trace", "--format", "json", &one.name, &two.name];
    wait("the trace to find nothing wrong", IN_GUEST, || {
        let output = h1.ctl_within(IN_GUEST, &trace);
        if output.succeeded() { Ok(()) } else { Err(output) }
    });
    let (from, to) = (h1.addr(), h2.addr());
    let script = format!(
        "set -- $(ip xfrm state | awk '/^src {from} dst {to}/ {{ getline; print $4, $6 }}')
         ip xfrm state delete src {from} dst {to} proto esp spi $1
         ip xfrm state add src {from} dst {to} proto esp spi $1 reqid $2 mode transport replay-window 32 flag esn \
             aead 'rfc4106(gcm(aes))' 0x{} 128 sel src {from}/32 dst {to}/32 proto udp dport 4789",
        "ab".repeat(20)
    );
    h2.sh(&script).ok();
    let output = h1.ctl_within(IN_GUEST, &trace);
    assert!(output.code == 1 && output.stdout.contains("\"Wrong\":\"key\""), "{output}");
    assert!(output.stderr.contains("key: h1 and h2 have different keys for 0x"), "{output}");
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

    // A daemon that starts again draws new keys, and nobody misses a packet, though it does so twice.
    let ping = Ping::start(lab.enter(two), one.address(PREFIX));
    let old = associations(h1);
    for _ in 0..2 {
        assert!(h2.terminate().success());
        h2.start();
    }
    [h1, h2].iter().for_each(|host| _ = wait_associations(host, 2, &old));
    assert_none_lost(ping);
    assert_eq!(capture.count("udp port 4789 and not host 192.168.77.13"), 0);

    // The last thing before all keys go: a key that differs is found.
    lab.damage();
    assert_a_wrong_key_is_named(h1, h2, one, two);

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

/// The manager dies while a phase of a rotation waits for a node; the one after it goes on where it stopped. Then that node
/// leaves.
#[test]
#[ignore = "needs a kernel with ESP: see in_a_guest"]
fn a_rotation_outlives_its_manager() {
    let lab = Lab::swarm_with("a rotation cut short", 1, 2, &["--dispatcher-heartbeat", "60s"]);
    let [h1, h2, h3] = [1, 2, 3].map(|number| lab.host(number));
    create_network(h1);
    let service =
        ["service", "create", "--detach", "--replicas", "3", "--network", "sealed", "--name", "web"];
    h1.ctl(&[&service[..], &[&lab.web()]].concat()).ok();
    let tasks = h1.wait_running_within(IN_GUEST, "web", 3);
    let [two, three] = ["h2", "h3"].map(|name| tasks.iter().find(|task| task.node == name).unwrap());
    let old = [h1, h2, h3].map(|host| wait_associations(host, 4, &BTreeSet::new()));
    let inside = lab.enter(two);
    wait("a packet from h2 to h3", IN_GUEST, || {
        inside.reaches(three.address(PREFIX)).then_some(()).ok_or("no answer")
    });

    let ping = Ping::start(inside, three.address(PREFIX));
    // The first phase cannot end without this one.
    h3.freeze();
    std::thread::scope(|scope| {
        // Cut off with the manager that it asks.
        scope.spawn(|| h1.ctl_within(IN_GUEST, &["network", "rotate-key", "sealed"]));
        wait("h2 to receive under the new key", IN_GUEST, || {
            let now = associations(h2).len();
            if now > 4 { Ok(()) } else { Err(format!("{now} associations")) }
        });
        h1.kill();
    });
    h1.start();
    assert!(!associations(h2).is_disjoint(&old[1]), "nothing was left to do");
    h3.resume();
    [h1, h2, h3].iter().zip(&old).for_each(|(host, old)| _ = wait_associations(host, 4, old));
    assert_none_lost(ping);

    // A node that has left reaches nobody, not even with the keys that it had; and it is told nothing that it could read.
    let kept = keys_towards(h3, h2);
    h1.ctl(&["node", "update", "--availability", "drain", "h3"]).ok();
    h1.wait_running_within(IN_GUEST, "web", 3);
    for (host, count) in [(h1, 2), (h2, 2), (h3, 0)] {
        wait_associations(host, count, &BTreeSet::new());
    }
    let capture = Capture::start(&lab);
    let received = || inside.sh("cat /sys/class/net/eth0/statistics/rx_packets").ok();
    let reached = received();
    assert!(!inside.reaches(three.address(PREFIX)), "a task that is gone answers");
    inject_with(&kept, h3, h2, two);
    assert_eq!(received(), reached);
    let [to, from] = ["dst", "src"].map(|end| format!("{end} host {} and ip proto 50", h3.addr()));
    assert_eq!((capture.count(&to), capture.count(&from)), (0, 5));
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
