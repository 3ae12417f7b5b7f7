//! Hosts as network namespaces joined by a cable, each with a driver of its own. Needs root, `ip`, `nft` and `ping`.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::fs::File;
use std::net::{IpAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use netdriver::{
    Attachment, Config, Desired, Netdriver, NetworkKey, Overlay, Peer, PeerKey, Sandbox, SandboxKey, Scope,
    Subnet, mac_for,
};
use nix::sched::{CloneFlags, setns};

static NEXT: AtomicU32 = AtomicU32::new(0);

pub struct Host {
    pub netns: String,
    pub vtep: IpAddr,
    pub driver: Arc<Netdriver>,
    dir: tempfile::TempDir,
}

/// Runs a program and returns its output; it must succeed.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = try_run(program, arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

pub fn try_run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"))
}

pub fn ip(arguments: &str) -> String {
    run("ip", &arguments.split_whitespace().collect::<Vec<_>>())
}

/// `count` hosts on one underlay, a bridge in a namespace of its own; IPv4 and IPv6.
pub async fn hosts(count: u8) -> (Vec<Host>, Switch) {
    let switch = Switch::new();
    let mut hosts = Vec::new();
    for number in 1..=count {
        hosts.push(switch.host(number).await);
    }
    (hosts, switch)
}

/// The underlay.
pub struct Switch {
    pub netns: String,
}

impl Switch {
    fn new() -> Self {
        let netns = format!("nd-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        ip(&format!("netns add {netns}"));
        ip(&format!("-n {netns} link add sw type bridge mcast_snooping 0"));
        ip(&format!("-n {netns} addr add 192.168.77.254/24 dev sw"));
        ip(&format!("-n {netns} link set sw up"));
        Self { netns }
    }

    async fn host(&self, number: u8) -> Host {
        let netns = format!("{}-h{number}", self.netns);
        let switch = &self.netns;
        ip(&format!("netns add {netns}"));
        ip(&format!("-n {netns} link set lo up"));
        ip(&format!("-n {netns} link add up0 type veth peer name h{number} netns {switch}"));
        ip(&format!("-n {switch} link set h{number} master sw up"));
        ip(&format!("-n {netns} addr add 192.168.77.{number}/24 dev up0"));
        ip(&format!("-n {netns} addr add fd77::{number}/64 dev up0 nodad"));
        ip(&format!("-n {netns} link set up0 up"));
        // A moment later, which is not to be taken for a change of ours.
        eventually("a carrier", || ip(&format!("-n {netns} -br link show up0")).contains("LOWER_UP")).await;
        let dir = tempfile::Builder::new().prefix("nd-").tempdir().unwrap();
        let driver = Arc::new(open(&netns, dir.path().join("netns")).await);
        Host { netns, vtep: format!("192.168.77.{number}").parse().unwrap(), driver, dir }
    }

    /// Runs `program` on the underlay, outside of any host.
    pub fn inside(&self, line: &str) -> Output {
        nsenter(&format!("/run/netns/{}", self.netns), line)
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        try_run("ip", &["netns", "del", &self.netns]);
    }
}

async fn open(netns: &str, dir: PathBuf) -> Netdriver {
    let config = Config { host_netns: Some(format!("/run/netns/{netns}").into()), ..Config::new(dir) };
    Netdriver::open(config).await.unwrap()
}

fn nsenter(path: &str, line: &str) -> Output {
    let mut arguments = vec![format!("--net={path}")];
    arguments.extend(line.split_whitespace().map(str::to_owned));
    try_run("nsenter", &arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

pub fn succeeded(output: &Output) -> String {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    stdout.into_owned()
}

impl Host {
    pub fn dir(&self) -> PathBuf {
        self.dir.path().join("netns")
    }

    /// Another driver over the same state, as after a restart of the process.
    pub async fn restart(&mut self) {
        self.driver = Arc::new(open(&self.netns, self.dir()).await);
    }

    /// Runs a program in the host's namespace.
    pub fn inside(&self, line: &str) -> Output {
        nsenter(&format!("/run/netns/{}", self.netns), line)
    }

    /// Takes an address of the host for a socket of our own.
    pub fn bind_udp(&self, address: &'static str) -> UdpSocket {
        let namespace = File::open(format!("/run/netns/{}", self.netns)).unwrap();
        // A thread that ends takes the namespace that it entered with it; the socket stays.
        let bound = std::thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            UdpSocket::bind(address).unwrap()
        });
        bound.join().unwrap()
    }

    pub fn in_sandbox(&self, key: &str, line: &str) -> Output {
        nsenter(&self.driver.sandbox_path(&key.into()).to_string_lossy(), line)
    }

    pub fn in_network(&self, key: &str, line: &str) -> Output {
        nsenter(&self.dir().join(format!("n-{key}")).to_string_lossy(), line)
    }

    pub fn ping(&self, sandbox: &str, target: &str) -> bool {
        self.in_sandbox(sandbox, &format!("ping -c 2 -i 0.1 -W 1 {target}")).status.success()
    }

    pub fn start_in_sandbox(&self, key: &str, line: &str) -> Child {
        let path = self.driver.sandbox_path(&key.into());
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", path.display())).args(line.split_whitespace());
        command.stdout(Stdio::piped()).spawn().unwrap()
    }

    /// Everything of the host that a driver may leave a trace in.
    pub fn traces(&self) -> String {
        let mut files: Vec<_> =
            std::fs::read_dir(self.dir()).unwrap().map(|f| f.unwrap().file_name()).collect();
        files.sort();
        let links = succeeded(&self.inside("ip -br link"));
        let rules = succeeded(&self.inside("nft list ruleset"));
        let sockets = succeeded(&self.inside("ss -Huan"));
        format!("{links}{rules}{sockets}{files:?}")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Deepest first: the namespaces in the directory, then the directory.
        let dir = self.dir();
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            while try_run("umount", &["-l", &entry.path().to_string_lossy()]).status.success() {}
        }
        try_run("umount", &["-l", &dir.to_string_lossy()]);
        try_run("ip", &["netns", "del", &self.netns]);
    }
}

/// One network on one host; `vni` also makes its subnets: 10.<vni>.0.0/16 and fd00:<vni>::/64.
pub fn overlay(vni: u8, local: IpAddr) -> Overlay {
    Overlay {
        vni: u32::from(vni),
        port: 4789,
        local,
        subnets: vec![
            Subnet {
                net: net(&format!("10.{vni}.0.0/16")),
                gateway: format!("10.{vni}.0.1").parse().unwrap(),
            },
            Subnet {
                net: net(&format!("fd00:{vni}::/64")),
                gateway: format!("fd00:{vni}::1").parse().unwrap(),
            },
        ],
        mtu: None,
        internal: false,
        encryption: None,
        peers: Default::default(),
        services: Default::default(),
    }
}

pub fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// Addresses of endpoint `number` of network `vni`.
pub fn addresses(vni: u8, number: u16) -> Vec<IpNet> {
    let [high, low] = number.to_be_bytes();
    vec![net(&format!("10.{vni}.{high}.{low}/16")), net(&format!("fd00:{vni}::{number}/64"))]
}

pub fn attachment(network: &str, vni: u8, number: u16) -> Attachment {
    let addresses = addresses(vni, number);
    Attachment { network: network.into(), mac: mac_for(addresses[0].addr()), addresses, subnets: Vec::new() }
}

pub fn peer(vni: u8, number: u16, vtep: IpAddr) -> (PeerKey, Arc<Peer>) {
    let addresses: Vec<IpAddr> = addresses(vni, number).iter().map(|net| net.addr()).collect();
    (PeerKey::new(format!("e{number}")), Arc::new(Peer { mac: mac_for(addresses[0]), addresses, vtep }))
}

/// One network with one sandbox on each host; the sandbox of host `i` is endpoint `10 + i`.
pub fn joined(hosts: &[Host], network: &str, vni: u8) -> Vec<Desired> {
    let endpoint = |i: usize| 10 + u16::try_from(i).unwrap();
    let mut all = Vec::new();
    for (i, host) in hosts.iter().enumerate() {
        let mut overlay = overlay(vni, host.vtep);
        overlay.peers =
            hosts.iter().enumerate().map(|(j, peer_host)| peer(vni, endpoint(j), peer_host.vtep)).collect();
        let sandbox = Sandbox {
            attachments: vec![attachment(network, vni, endpoint(i))],
            outbound: false,
            resolver: false,
        };
        all.push(Desired {
            networks: [(NetworkKey::new(network), overlay)].into(),
            sandboxes: [(SandboxKey::new(format!("t{i}")), sandbox)].into(),
        });
    }
    all
}

/// Ensures all of `desired`; nothing may fail. Returns what was changed.
pub async fn ensure_all(host: &Host, desired: &Desired) -> Vec<String> {
    ensure(host, desired, Scope::All).await
}

pub async fn ensure(host: &Host, desired: &Desired, scope: Scope) -> Vec<String> {
    let report = host.driver.ensure(desired, scope).await;
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    report.changes.iter().map(ToString::to_string).collect()
}

/// Waits until `condition` holds, for at most ten seconds.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "after ten seconds still not: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Runs the tests of this program that need another kernel, in a guest that has it. Within the guest it does nothing.
pub fn run_in_a_guest(memory: &str, bound_seconds: u32) {
    if std::env::var_os("IN_GUEST").is_some() {
        return;
    }
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/guest/run");
    let own = std::env::current_exe().unwrap();
    let status = std::process::Command::new(script)
        .args(["-m", memory, "-t", &bound_seconds.to_string(), "--"])
        .arg(own)
        .args(["--ignored", "--test-threads=1"])
        .status()
        .unwrap();
    assert!(status.success(), "in the guest: {status}");
}
