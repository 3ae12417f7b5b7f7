//! Encrypted networks on a kernel that has ESP: what is on the wire, what is let in, and that no change loses a packet.
//!
//! All but the first test need such a kernel. The first starts a guest that has one, and runs the others in it.

#![allow(clippy::unwrap_used, reason = "tests")]

mod lab;

use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};

use lab::*;
use netdriver::{Counterpart, Desired, Encryption, Handover, Incarnation, Scope, Secret};

const VNI: u8 = 9;

#[test]
fn in_a_guest() {
    run_in_a_guest("2G", 560);
}

fn secret(generation: u64) -> Secret {
    Secret::new([u8::try_from(generation).unwrap(); 32])
}

/// Incarnation `start` of a host.
fn incarnation(vtep: IpAddr, start: u8) -> Incarnation {
    let IpAddr::V4(v4) = vtep else { return Incarnation([start; 16]) };
    Incarnation([v4.octets()[3] ^ (start << 4); 16])
}

/// Keys of the generations, sent with the last but `behind`; all hosts are members, in their first incarnation.
fn encryption(hosts: &[Host], own: IpAddr, generations: &[u64], sending: u64) -> Encryption {
    Encryption {
        keys: generations.iter().map(|generation| (*generation, secret(*generation))).collect(),
        sending,
        incarnation: incarnation(own, 1),
        peers: hosts.iter().map(|host| (host.vtep, settled(incarnation(host.vtep, 1)))).collect(),
    }
}

fn settled(incarnation: Incarnation) -> Counterpart {
    Counterpart { incarnation, handover: Handover::Done }
}

fn encrypt(desired: &mut Desired, encryption: &Encryption) {
    desired.networks.values_mut().for_each(|overlay| overlay.encryption = Some(encryption.clone()));
}

fn encryption_of(desired: &mut Desired) -> &mut Encryption {
    desired.networks.values_mut().next().unwrap().encryption.as_mut().unwrap()
}

/// One encrypted network with one sandbox on each host.
fn encrypted(hosts: &[Host]) -> Vec<Desired> {
    let mut all = joined(hosts, "red", VNI);
    for (host, desired) in hosts.iter().zip(&mut all) {
        encrypt(desired, &encryption(hosts, host.vtep, &[1], 1));
    }
    all
}

async fn ensure_each(hosts: &[Host], desired: &[Desired]) {
    for (host, desired) in hosts.iter().zip(desired) {
        ensure_all(host, desired).await;
    }
}

/// What passes the underlay.
struct Capture {
    tcpdump: Child,
    file: tempfile::NamedTempFile,
}

impl Capture {
    fn start(switch: &Switch) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut tcpdump = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", switch.netns))
            .args(["tcpdump", "-i", "sw", "-nn", "-U", "--immediate-mode", "-Z", "root", "-w"])
            .arg(file.path())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(tcpdump.stderr.as_mut().unwrap()).lines();
        assert!(said.any(|line| line.unwrap().contains("listening on")));
        Self { tcpdump, file }
    }

    /// Packets so far that match.
    fn count(&self, filter: &str) -> usize {
        let path = self.file.path().to_string_lossy().into_owned();
        let output = try_run("tcpdump", &["-nn", "-r", &path, filter]);
        String::from_utf8(output.stdout).unwrap().lines().count()
    }

    /// Nothing of the tunnels but ESP.
    fn assert_esp_alone(&self) {
        assert!(self.count("ip proto 50 or ip6 proto 50") > 0, "no ESP was seen");
        assert_eq!(self.count("udp port 4789"), 0, "cleartext was seen");
        assert_eq!(self.count("ip[6:2] & 0x3fff != 0"), 0, "fragments were seen");
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.tcpdump.kill();
        let _ = self.tcpdump.wait();
    }
}

/// Somebody who builds the network's packets by hand and in cleartext, as endpoint `as_endpoint`.
fn intrude(intruder: &Host, target: &Host, as_endpoint: u16, to_endpoint: u16) {
    let mac = |number: u16| netdriver::mac_for(addresses(VNI, number)[0].addr());
    let (local, remote) = (intruder.vtep, target.vtep);
    let (own, other) = (mac(as_endpoint), mac(to_endpoint));
    let script = format!(
        "ip link add intruder type vxlan id {VNI} local {local} dstport 4789 nolearning
         ip link set intruder address {own} up
         ip addr add 10.{VNI}.0.{as_endpoint}/16 dev intruder
         ip neigh add 10.{VNI}.0.{to_endpoint} lladdr {other} dev intruder nud permanent
         bridge fdb add {other} dev intruder dst {remote}"
    );
    succeeded(&in_shell(intruder, &script));
}

fn in_shell(host: &Host, script: &str) -> std::process::Output {
    let netns = format!("--net=/run/netns/{}", host.netns);
    try_run("nsenter", &[&netns, "sh", "-ec", script])
}

/// Frames that the network's VXLAN device on the host has taken in.
fn taken_in(host: &Host) -> u64 {
    let shown = succeeded(&host.in_network("red", "ip -j -s link show vx0"));
    let rest = shown.split_once(r#""rx":{"bytes":"#).unwrap().1;
    rest.split_once(r#""packets":"#).unwrap().1.split(',').next().unwrap().parse().unwrap()
}

/// What the shield has dropped, in cleartext on arrival, of another network on arrival, in cleartext on leaving.
fn dropped(host: &Host) -> [u64; 3] {
    let rules = succeeded(&host.inside("nft list table inet swarmd_encryption"));
    let chain = |name: &str| rules.split_once(&format!("chain {name}_{VNI}_4789")).unwrap().1.to_owned();
    let count = |chain: &str, reason: &str| {
        let line = chain.lines().find(|line| line.contains(reason)).unwrap().to_owned();
        line.split_once("packets ").unwrap().1.split(' ').next().unwrap().parse().unwrap()
    };
    let (arrive, leave) = (chain("arrive"), chain("leave"));
    [count(&arrive, "in cleartext"), count(&arrive, "of another network"), count(&leave, "in cleartext")]
}

fn inject(intruder: &Host, to_endpoint: u16) {
    intruder.inside(&format!("ping -c 5 -i 0.05 -W 1 10.{VNI}.0.{to_endpoint}"));
}

fn secured(host: &Host) -> String {
    // Counters and times differ, keys and SPIs do not.
    succeeded(&host.inside("ip xfrm state")) + &succeeded(&host.inside("ip xfrm policy"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a kernel with ESP: see in_a_guest"]
async fn the_underlay_sees_esp_alone_and_full_packets_fit() {
    let (mut hosts, switch) = hosts(2).await;
    for v6 in [false, true] {
        if v6 {
            for (number, host) in hosts.iter_mut().enumerate() {
                host.vtep = format!("fd77::{}", number + 1).parse().unwrap();
            }
        }
        let desired = encrypted(&hosts);
        let capture = Capture::start(&switch);
        ensure_each(&hosts, &desired).await;
        assert!(hosts[0].ping("t0", "10.9.0.11") && hosts[1].ping("t1", "fd00:9::10"), "IPv6 underlay: {v6}");
        let most = if v6 { 1396 } else { 1416 };
        let link = succeeded(&hosts[0].in_sandbox("t0", "ip link show eth0"));
        assert!(link.contains(&format!("mtu {most}")), "{link}");
        let whole = format!("ping -c 1 -W 5 -M do -s {} 10.9.0.11", most - 28);
        succeeded(&hosts[0].in_sandbox("t0", &whole));
        capture.assert_esp_alone();
        let largest = if v6 { "ip6[4:2] = 1460" } else { "ip[2:2] = 1500" };
        assert!(capture.count(largest) >= 2, "a full inner packet makes a full outer one");
        assert_eq!([dropped(&hosts[0]), dropped(&hosts[1])], [[0; 3]; 2]);
        for (host, desired) in hosts.iter().zip(&desired) {
            assert_eq!(ensure(host, desired, Scope::All).await, [""; 0], "a second pass changes nothing");
        }
    }
}

/// CVE-2023-28841: packets left in cleartext where there was nothing to encrypt them with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a kernel with ESP: see in_a_guest"]
async fn nothing_leaves_in_cleartext() {
    let (hosts, switch) = hosts(2).await;
    let mut desired = encrypted(&hosts);
    encryption_of(&mut desired[0]).peers.clear();
    let capture = Capture::start(&switch);
    ensure_each(&hosts, &desired).await;
    assert!(!hosts[0].ping("t0", "10.9.0.11"));
    assert!(dropped(&hosts[0])[2] > 0, "there is no policy yet");
    succeeded(&hosts[0].inside("ping -c 1 192.168.77.2"));
    assert!(capture.count("icmp") > 0, "nothing is captured");
    assert_eq!(capture.count("udp port 4789"), 0);

    ensure_each(&hosts, &encrypted(&hosts)).await;
    assert!(hosts[0].ping("t0", "10.9.0.11"));
    succeeded(&hosts[0].inside("ip xfrm state flush"));
    assert!(!hosts[0].ping("t0", "10.9.0.11"), "there is a policy and no association");
    succeeded(&hosts[0].inside("ip xfrm policy flush"));
    assert!(!hosts[0].ping("t0", "10.9.0.11"), "all of IPsec is gone");
    assert_eq!(capture.count("udp port 4789"), 0);
}

/// CVE-2023-28840: packets that arrived in cleartext were taken. CVE-2023-28842: also by a node that was alone on its
/// network.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a kernel with ESP: see in_a_guest"]
async fn nothing_is_taken_in_cleartext() {
    let (hosts, _switch) = hosts(3).await;
    let [one, two, intruder] = [&hosts[0], &hosts[1], &hosts[2]];
    let mut alone = joined(&hosts[..1], "red", VNI).remove(0);
    encrypt(&mut alone, &encryption(&hosts[..1], one.vtep, &[1], 1));
    ensure_all(one, &alone).await;
    intrude(intruder, one, 66, 10);
    inject(intruder, 10);
    assert_eq!((taken_in(one), dropped(one)), (0, [5, 0, 0]), "alone");

    let desired = encrypted(&hosts[..2]);
    ensure_each(&hosts[..2], &desired).await;
    assert!(two.ping("t1", "10.9.0.10"));
    let before = (taken_in(one), dropped(one)[0]);
    inject(intruder, 10);
    assert_eq!((taken_in(one), dropped(one)[0]), (before.0, before.1 + 5), "with a peer");

    // The same packets do arrive where nothing forbids it: the test would notice.
    succeeded(&one.inside("nft delete table inet swarmd_encryption"));
    inject(intruder, 10);
    assert_eq!(taken_in(one), before.0 + 5);
    let mended = ensure_all(one, &desired[0]).await;
    assert_eq!(mended, ["host: let only encrypted packets pass of 1 networks"]);
    inject(intruder, 10);
    assert_eq!(taken_in(one), before.0 + 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a kernel with ESP: see in_a_guest"]
async fn nothing_is_taken_through_another_networks_association() {
    let (hosts, switch) = hosts(3).await;
    let [one, intruder] = [&hosts[0], &hosts[2]];
    let mut desired = encrypted(&hosts[..2]);
    // The third host shares another encrypted network with the first.
    let mut blue = overlay(10, one.vtep);
    blue.encryption = Some(encryption(&hosts, one.vtep, &[5], 5));
    desired[0].networks.insert("blue".into(), blue.clone());
    blue.local = intruder.vtep;
    blue.encryption = Some(encryption(&hosts, intruder.vtep, &[5], 5));
    let theirs = Desired { networks: [("blue".into(), blue)].into(), ..Desired::default() };
    ensure_each(&hosts[..2], &desired).await;
    ensure_all(intruder, &theirs).await;

    intrude(intruder, one, 66, 10);
    let lead_through_blue = format!(
        "nft add table ip intruder
         nft 'add chain ip intruder output {{ type route hook output priority mangle; }}'
         nft 'add rule ip intruder output udp dport 4789 @th,96,24 {VNI} meta mark set 0x5300000a'"
    );
    succeeded(&in_shell(intruder, &lead_through_blue));
    let capture = Capture::start(&switch);
    inject(intruder, 10);
    assert_eq!(capture.count("ip proto 50"), 5, "they were encrypted with blue's key");
    assert_eq!((taken_in(one), dropped(one)), (0, [0, 5, 0]));
}

/// One that has left knows the key that was valid then, and may have recorded what it will.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a kernel with ESP: see in_a_guest"]
async fn a_host_that_left_can_neither_read_nor_inject() {
    let (hosts, _switch) = hosts(3).await;
    let [one, two, left] = [&hosts[0], &hosts[1], &hosts[2]];
    ensure_each(&hosts, &encrypted(&hosts)).await;
    assert!(left.ping("t2", "10.9.0.10"));
    let rest = joined(&hosts[..2], "red", VNI);
    for (host, mut desired) in hosts.iter().zip(rest) {
        encrypt(&mut desired, &encryption(&hosts[..2], host.vtep, &[1], 1));
        ensure_all(host, &desired).await;
    }
    let before = taken_in(one);
    assert!(!left.ping("t2", "10.9.0.10"), "it keeps its keys, and is not heard");
    assert_eq!(taken_in(one), before);
    let keys_of = |host: &Host| -> Vec<String> {
        let state = succeeded(&host.inside("ip xfrm state"));
        let keys = state.lines().filter_map(|line| line.trim().strip_prefix("aead "));
        keys.map(|line| line.split(' ').nth(1).unwrap().to_owned()).collect()
    };
    assert!(two.ping("t1", "10.9.0.10"));
    let theirs = keys_of(left);
    assert!(
        keys_of(one).iter().all(|key| !theirs.contains(key)),
        "no key of those that go on is known to it"
    );
}

/// Each phase is reached by the two hosts one after the other, as they are in a swarm.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a kernel with ESP: see in_a_guest"]
async fn three_rotations_lose_no_packet() {
    let (hosts, switch) = hosts(2).await;
    ensure_each(&hosts, &encrypted(&hosts)).await;
    assert!(hosts[0].ping("t0", "10.9.0.11"));
    let capture = Capture::start(&switch);
    let ping = hosts[0].start_in_sandbox("t0", "ping -q -i 0.01 -c 1200 10.9.0.11");
    for old in 1..=3 {
        for (generations, sending) in
            [(&[old, old + 1][..], old), (&[old, old + 1], old + 1), (&[old + 1], old + 1)]
        {
            for host in &hosts {
                let mut desired = joined(&hosts, "red", VNI).remove(usize::from(host.vtep != hosts[0].vtep));
                encrypt(&mut desired, &encryption(&hosts, host.vtep, generations, sending));
                assert!(!ensure(host, &desired, Scope::network("red")).await.is_empty());
                tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            }
        }
    }
    let output = ping.wait_with_output().unwrap();
    let summary = String::from_utf8_lossy(&output.stdout);
    assert!(summary.contains(" 0% packet loss"), "{summary}");
    capture.assert_esp_alone();
    assert_eq!(secured(&hosts[0]).matches("proto esp spi").count(), 3, "two associations and a template");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a kernel with ESP: see in_a_guest"]
async fn another_incarnation_draws_new_keys_and_loses_no_packet() {
    let (mut hosts, _switch) = hosts(2).await;
    let mut desired = encrypted(&hosts);
    ensure_each(&hosts, &desired).await;
    assert!(hosts[0].ping("t0", "10.9.0.11"));
    let before = secured(&hosts[0]);
    let ping = hosts[1].start_in_sandbox("t1", "ping -q -i 0.01 -c 500 10.9.0.10");

    hosts[0].restart().await;
    assert_eq!(ensure_all(&hosts[0], &desired[0]).await, [""; 0], "the same one changes nothing");
    let vtep = hosts[0].vtep;
    encryption_of(&mut desired[0]).incarnation = incarnation(vtep, 2);
    for handover in [Handover::Receive, Handover::Send, Handover::Done] {
        for (host, desired) in hosts.iter().zip(&mut desired) {
            let encryption = encryption_of(desired);
            encryption.peers.insert(vtep, settled(incarnation(vtep, 2)));
            encryption.peers.values_mut().for_each(|peer| peer.handover = handover);
            assert!(!ensure_all(host, desired).await.is_empty());
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        }
    }
    let output = ping.wait_with_output().unwrap();
    let summary = String::from_utf8_lossy(&output.stdout);
    assert!(summary.contains(" 0% packet loss"), "{summary}");
    let spis = |text: &str| -> Vec<String> {
        text.split("spi ").skip(1).map(|rest| rest.split(' ').next().unwrap().to_owned()).collect()
    };
    let after = spis(&secured(&hosts[0]));
    assert_eq!(after.len(), 3);
    assert!(spis(&before).iter().all(|spi| !after.contains(spi)), "{before:?} {after:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a kernel with ESP: see in_a_guest"]
async fn damage_is_mended_and_removal_leaves_no_trace() {
    let (hosts, _switch) = hosts(2).await;
    let traces = |host: &Host| host.traces() + &secured(host);
    let before = traces(&hosts[0]);
    let mut desired = encrypted(&hosts);
    ensure_each(&hosts, &desired).await;
    let wrong_key = "eval $(ip xfrm state list dst 192.168.77.1 | sed -n 's/.*spi \\(0x[0-9a-f]*\\) reqid \\([0-9]*\\).*/spi=\\1 reqid=\\2/p')
        ip xfrm state delete src 192.168.77.2 dst 192.168.77.1 proto esp spi $spi
        ip xfrm state add src 192.168.77.2 dst 192.168.77.1 proto esp spi $spi reqid $reqid mode transport \
            flag esn replay-window 64 aead 'rfc4106(gcm(aes))' 0x000102030405060708090a0b0c0d0e0f10111213 128";
    assert!(hosts[1].ping("t1", "10.9.0.10"));
    let damages = [
        "ip xfrm state flush",
        "ip xfrm policy flush",
        "nft delete table inet swarmd_encryption",
        "nft flush chain inet swarmd_encryption input",
        wrong_key,
    ];
    for (number, damage) in damages.iter().enumerate() {
        succeeded(&in_shell(&hosts[0], damage));
        let report = hosts[0].driver.ensure(&desired[0], Scope::All).await;
        let needs_incarnation = report.errors.iter().any(|(_, error)| error.needs_incarnation());
        assert_eq!(needs_incarnation, number == 0, "{damage}: {report:?}");
        if needs_incarnation {
            // What was sent with is gone, and its key is not used again.
            let (vtep, next) = (hosts[0].vtep, incarnation(hosts[0].vtep, 2));
            encryption_of(&mut desired[0]).incarnation = next;
            encryption_of(&mut desired[1]).peers.insert(vtep, settled(next));
            ensure_each(&hosts, &desired).await;
        } else {
            assert!(!report.changes.is_empty(), "nothing was seen of: {damage}");
        }
        assert_eq!(ensure_all(&hosts[0], &desired[0]).await, [""; 0], "not settled: {damage}");
        assert!(hosts[1].ping("t1", "10.9.0.10"), "not mended: {damage}; did {:#?}", report.changes);
    }

    ensure_all(&hosts[0], &Desired::default()).await;
    assert_eq!(traces(&hosts[0]), before, "by a pass over the node");
    let vtep = hosts[0].vtep;
    encryption_of(&mut desired[0]).incarnation = incarnation(vtep, 3);
    ensure(&hosts[0], &desired[0], Scope::sandbox("t0")).await;
    ensure(&hosts[0], &Desired::default(), Scope::sandbox("t0")).await;
    ensure(&hosts[0], &Desired::default(), Scope::network("red")).await;
    assert_eq!(traces(&hosts[0]), before, "part by part");
}
