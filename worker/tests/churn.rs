//! Tasks that come and go in numbers, on the real kernel: a process that serves them for months must not grow, and a
//! node must not keep anything. Needs root and `ip`. A program of its own, since it counts what the process has open.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::join_all;
use netdriver::{Config, Netdriver, Place};
use proto::network::network_update::Kind;
use proto::network::{Endpoint, NetworkDirectory, NetworkUpdate, WatchResponse};
use proto::wire;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use worker::network::{Keeper, Networks, Underlay, Wish};

/// What is counted is of the whole process.
static ALONE: Mutex<()> = Mutex::const_new(());

fn ip(line: &str) -> String {
    let output = Command::new("ip").args(line.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Hosts on one bridge, which has a namespace of its own.
struct Wires {
    name: String,
    hosts: Vec<Node>,
}

struct Node {
    netns: String,
    id: String,
    vtep: IpAddr,
    driver: Arc<Netdriver>,
    networks: Networks,
    dir: tempfile::TempDir,
    _running: JoinSet<()>,
}

impl Wires {
    async fn new(hosts: u8) -> Self {
        let name = format!("churn-{}-{hosts}", std::process::id());
        ip(&format!("netns add {name}"));
        ip(&format!("-n {name} link add sw type bridge"));
        ip(&format!("-n {name} link set sw up"));
        let mut wires = Self { name, hosts: Vec::new() };
        for number in 1..=hosts {
            let node = wires.node(number).await;
            wires.hosts.push(node);
        }
        wires
    }

    async fn node(&self, number: u8) -> Node {
        let (switch, netns) = (&self.name, format!("{}-h{number}", self.name));
        ip(&format!("netns add {netns}"));
        ip(&format!("-n {netns} link set lo up"));
        ip(&format!("-n {netns} link add up0 type veth peer name h{number} netns {switch}"));
        ip(&format!("-n {switch} link set h{number} master sw up"));
        ip(&format!("-n {netns} addr add 192.0.2.{number}/24 dev up0"));
        ip(&format!("-n {netns} link set up0 up"));
        let dir = tempfile::Builder::new().prefix("churn-").tempdir().unwrap();
        let host_netns = Some(format!("/run/netns/{netns}").into());
        let config = Config { host_netns, ..Config::new(dir.path().join("netns")) };
        let driver = Arc::new(Netdriver::open(config).await.unwrap());
        let (id, vtep) = (format!("n{number}"), IpAddr::from([192, 0, 2, number]));
        let (networks, run) =
            Networks::new(driver.clone(), id.as_str().into(), None, Keeper::none(), CancellationToken::new());
        let mut running = JoinSet::new();
        running.spawn(run);
        networks.begin(Underlay { local: vtep, port: 4789 });
        networks.settle();
        Node { netns, id, vtep, driver, networks, dir, _running: running }
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        for node in &self.hosts {
            let netns_dir = node.dir.path().join("netns");
            for entry in std::fs::read_dir(&netns_dir).into_iter().flatten().flatten() {
                let _ = Command::new("umount").arg("-l").arg(entry.path()).status();
            }
            let _ = Command::new("umount").arg("-l").arg(&netns_dir).status();
            ip(&format!("netns del {}", node.netns));
        }
        ip(&format!("netns del {}", self.name));
    }
}

impl Node {
    /// What the node has in its kernel and directory; nothing of what the kernel draws by lot.
    async fn traces(&self) -> BTreeSet<String> {
        let world = self.driver.observe().await.unwrap();
        let places = world.iter().map(|(place, namespace)| format!("{place}: {:?}", namespace.links.keys()));
        let netns = &self.netns;
        let links = ip(&format!("-n {netns} -br link"));
        let links = links.lines().map(|line| line.split(['@', ' ']).next().unwrap().to_owned());
        let rules =
            Command::new("ip").args(["netns", "exec", netns, "nft", "list", "ruleset"]).output().unwrap();
        let rules = String::from_utf8(rules.stdout).unwrap();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mounts = mounts.lines().filter(|line| line.contains(&*self.dir.path().to_string_lossy())).count();
        places.chain(links).chain([rules, format!("{mounts} mounts")]).collect()
    }
}

/// A task of network `net<number>`.
struct Member {
    network: u8,
    host: u8,
}

impl Member {
    fn id(&self) -> String {
        format!("net{}t{}", self.network, self.host)
    }

    fn address(&self) -> String {
        format!("10.{}.0.{}", self.network, self.host)
    }

    fn wish(&self) -> Wish {
        let subnet = format!("10.{}.0.0/24", self.network);
        let gateway = format!("10.{}.0.1", self.network);
        let vni = (4096 + u32::from(self.network)).to_string();
        let option = "com.docker.network.driver.overlay.vxlanid_list".to_owned();
        let network = wire::Network {
            id: format!("net{}", self.network),
            spec: Some(wire::NetworkSpec {
                annotations: Some(wire::Annotations { name: "net".into(), ..Default::default() }),
                ..Default::default()
            }),
            driver_state: Some(wire::Driver { name: "overlay".into(), options: [(option, vni)].into() }),
            ipam: Some(wire::IpamOptions {
                driver: None,
                configs: vec![wire::IpamConfig { subnet, gateway, ..Default::default() }],
            }),
            ..Default::default()
        };
        let attachment = wire::NetworkAttachment {
            network: Some(network),
            addresses: vec![format!("{}/24", self.address())],
            ..Default::default()
        };
        Wish::read(&wire::Task { id: self.id(), networks: vec![attachment], ..Default::default() }).unwrap()
    }

    fn endpoint(&self, node: &Node) -> Endpoint {
        Endpoint {
            task_id: self.id(),
            node_id: node.id.clone(),
            vtep: node.vtep.to_string(),
            mac: vec![2, 0x42, 10, self.network, 0, self.host],
            addresses: vec![self.address()],
            ready: true,
            ..Default::default()
        }
    }
}

fn told(network: u8, index: u64, endpoints: Vec<Endpoint>) -> WatchResponse {
    let kind = Some(Kind::Complete(NetworkDirectory { endpoints, ..Default::default() }));
    let update = NetworkUpdate { network_id: format!("net{network}"), index, kind, confirm: false };
    WatchResponse { updates: vec![update], moment: None }
}

/// Descriptors, threads and KiB of memory of this process.
fn held() -> [usize; 3] {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let of = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    [std::fs::read_dir("/proc/self/fd").unwrap().count(), of("Threads:"), of("VmRSS:")]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_crashes_500_times_leaves_nothing() {
    let _alone = ALONE.lock().await;
    let wires = Wires::new(1).await;
    let node = &wires.hosts[0];
    let before = node.traces().await;
    let standing = Member { network: 9, host: 254 };
    let start = Instant::now();
    let (mut early, mut late) = ([0; 3], [0; 3]);
    for round in 0..500_u16 {
        // Of a service in a crash loop: another task each time, with the next address.
        let member = Member { network: 9, host: u8::try_from(2 + round % 250).unwrap() };
        node.networks.update(told(9, u64::from(round) + 1, vec![member.endpoint(node)])).await.unwrap();
        let id = format!("{}-{round}", member.id());
        node.networks.attach(id.as_str().into(), member.wish()).await.unwrap();
        node.networks.detach(id.as_str().into(), member.wish()).await.unwrap();
        match round {
            49 => early = held(),
            // So far the network came and went with the task; another one keeps it from now on.
            50 => node.networks.attach("standing".into(), standing.wish()).await.unwrap(),
            499 => late = held(),
            _ => {}
        }
    }
    node.networks.detach("standing".into(), standing.wish()).await.unwrap();
    eprintln!(
        "500 times: {:?}; descriptors, threads, KiB after 50: {early:?}, after 500: {late:?}",
        start.elapsed()
    );
    assert_eq!(node.traces().await, before);
    assert!(late[0] <= early[0] + 4 && late[1] <= early[1] + 4, "{early:?} then {late:?}");
    assert!(late[2] <= early[2] + 4096, "{} KiB after 50 rounds, {} after 500", early[2], late[2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_networks_of_fifty_tasks_come_and_go_at_once() {
    let _alone = ALONE.lock().await;
    let wires = Wires::new(3).await;
    let nodes = &wires.hosts;
    let mut before = Vec::new();
    for node in nodes {
        before.push(node.traces().await);
    }
    let members: Vec<Member> =
        (1..=10).flat_map(|network| (2..52).map(move |host| Member { network, host })).collect();
    let on = |member: &Member| &nodes[usize::from(member.host) % nodes.len()];
    let mut directory: BTreeMap<u8, Vec<Endpoint>> = BTreeMap::new();
    for member in &members {
        directory.entry(member.network).or_default().push(member.endpoint(on(member)));
    }

    let start = Instant::now();
    for (network, endpoints) in &directory {
        for node in nodes {
            node.networks.update(told(*network, 1, endpoints.clone())).await.unwrap();
        }
    }
    let attaching =
        members.iter().map(|member| on(member).networks.attach(member.id().as_str().into(), member.wish()));
    join_all(attaching).await.into_iter().for_each(|attached| attached.unwrap());
    eprintln!("500 tasks on 10 networks of 3 nodes: {:?}", start.elapsed());
    for node in nodes {
        let world = node.driver.observe().await.unwrap();
        let of = |which: fn(&Place) -> bool| world.keys().filter(|place| which(place)).count();
        assert_eq!(of(|place| matches!(place, Place::Network(_))), 10);
        assert!(of(|place| matches!(place, Place::Sandbox(_))) >= 160);
        assert_eq!(node.networks.audit().await.unwrap(), [""; 0]);
    }
    for network in 1..=10 {
        let from = Member { network, host: 2 };
        let path = on(&from).driver.sandbox_path(&from.id().as_str().into());
        // On each of the three.
        for host in 49..52 {
            assert!(ping(&path, &Member { network, host }.address()), "network {network}, task {host}");
        }
    }

    let start = Instant::now();
    let detaching =
        members.iter().map(|member| on(member).networks.detach(member.id().as_str().into(), member.wish()));
    join_all(detaching).await.into_iter().for_each(|detached| detached.unwrap());
    eprintln!("and gone: {:?}", start.elapsed());
    for (node, before) in nodes.iter().zip(before) {
        assert_eq!(node.traces().await, before);
    }
}

fn ping(netns: &Path, address: &str) -> bool {
    let netns = format!("--net={}", netns.display());
    let pinged =
        Command::new("nsenter").args([&netns, "ping", "-n", "-c1", "-W2", address]).output().unwrap();
    pinged.status.success()
}
