//! The node's network on the real kernel, over a restart. Needs root and `ip`.

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use netdriver::{Config, Netdriver, Place};
use proto::network::network_update::Kind;
use proto::network::{Endpoint, NetworkDirectory, NetworkUpdate, WatchResponse};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use worker::network::{Keeper, Networks, Underlay, Wish};

use super::lab::{endpoint, task};
use super::question::{Found, ask_on, ask_tcp};

/// Where a task finds its name server.
const RESOLVER: &str = "127.0.0.11:53";

/// A host of its own: a namespace with one device.
struct Host(String);

impl Host {
    fn new() -> Self {
        let host = Self(format!("ag-{}", std::process::id()));
        host.ip(&["netns", "add", &host.0]);
        host.ip(&["-n", &host.0, "link", "add", "up0", "type", "bridge"]);
        host.ip(&["-n", &host.0, "addr", "add", "192.0.2.1/24", "dev", "up0"]);
        host.ip(&["-n", &host.0, "link", "set", "up0", "up"]);
        host
    }

    fn ip(&self, arguments: &[&str]) {
        let output = Command::new("ip").args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    async fn driver(&self, dir: &Path) -> Arc<Netdriver> {
        let host_netns = Some(format!("/run/netns/{}", self.0).into());
        Arc::new(Netdriver::open(Config { host_netns, ..Config::new(dir.join("netns")) }).await.unwrap())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.ip(&["netns", "del", &self.0]);
    }
}

struct Actor {
    networks: Networks,
    running: JoinSet<()>,
}

fn actor(driver: Arc<Netdriver>, underlay: Option<Underlay>) -> Actor {
    let (networks, run) =
        Networks::new(driver, "n1".into(), underlay, Keeper::none(), CancellationToken::new());
    let mut running = JoinSet::new();
    running.spawn(run);
    Actor { networks, running }
}

fn directory() -> WatchResponse {
    let other = Endpoint { ready: true, ..endpoint("t9", "n2", "192.0.2.2", 9) };
    let endpoints = vec![endpoint("t1", "n1", "192.0.2.1", 3), other];
    let directory = NetworkDirectory { endpoints, ..Default::default() };
    let kind = Some(Kind::Complete(directory));
    let update = NetworkUpdate { network_id: "net1".into(), index: 1, kind, confirm: false };
    WatchResponse { updates: vec![update], moment: None }
}

fn wish(id: &str, host: u8) -> Wish {
    Wish::read(&task(id, host)).unwrap()
}

/// Asks at port 53 from inside a sandbox.
async fn ask_within(driver: &Netdriver, sandbox: &str) -> Found {
    let client = driver.udp_towards(&sandbox.into(), RESOLVER.parse().unwrap()).await.unwrap();
    ask_on(&client, "t9.").await
}

async fn dial_within(driver: &Netdriver, sandbox: &str) -> TcpStream {
    let socket = driver.tcp_towards(&sandbox.into(), RESOLVER.parse().unwrap()).await.unwrap();
    socket.connect(RESOLVER.parse().unwrap()).await.unwrap()
}

/// What an application that serves names itself does.
async fn taken_port(driver: &Netdriver, sandbox: &str) -> TcpListener {
    let socket = driver.tcp_towards(&sandbox.into(), RESOLVER.parse().unwrap()).await.unwrap();
    socket.bind("0.0.0.0:53".parse().unwrap()).unwrap();
    socket.listen(1).unwrap()
}

/// Whether the network has an entry for the endpoint on the other node.
async fn knows_peer(driver: &Netdriver) -> bool {
    let world = driver.observe().await.unwrap();
    format!("{:?}", world.get(&Place::Network("net1".into()))).contains("10.0.9.9")
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_keep_their_network_over_a_restart_and_take_it_with_them() {
    let (host, dir) = (Host::new(), tempfile::Builder::new().prefix("ag-").tempdir().unwrap());
    let driver = host.driver(dir.path()).await;
    let underlay = Underlay { local: IpAddr::from([192, 0, 2, 1]), port: 4789 };
    let mut before = actor(driver.clone(), None);
    before.networks.begin(underlay);
    before.networks.update(directory()).await.unwrap();
    before.networks.attach("t1".into(), wish("t1", 3)).await.unwrap();
    before.networks.attach("t2".into(), wish("t2", 4)).await.unwrap();
    assert!(before.networks.sandbox_path(&"t1".into()).exists());
    assert!(knows_peer(&driver).await);
    assert_eq!(ask_within(&driver, "t1").await, Found::addresses(&["10.0.9.9"]));
    let (web, mut stream) = (taken_port(&driver, "t1").await, dial_within(&driver, "t1").await);
    assert_eq!(ask_tcp(&mut stream, "t9.").await, Found::addresses(&["10.0.9.9"]));
    before.running.shutdown().await;
    drop((before, driver));

    let driver = host.driver(dir.path()).await;
    let mut after = actor(driver.clone(), Some(underlay));
    after.networks.keep("t1".into(), wish("t1", 3));
    after.networks.settle();
    // `t2` ended meanwhile, and no manager is there yet: the network that `t1` needs stays as it is.
    after.networks.detach("t2".into(), wish("t2", 4)).await.unwrap();
    assert!(after.networks.sandbox_path(&"t1".into()).exists());
    assert!(!after.networks.sandbox_path(&"t2".into()).exists());
    assert!(knows_peer(&driver).await);
    after.networks.begin(underlay);
    after.networks.update(directory()).await.unwrap();
    // With the rules of before.
    assert_eq!(ask_within(&driver, "t1").await, Found::addresses(&["10.0.9.9"]));
    drop((web, stream));
    after.networks.attach("t3".into(), wish("t3", 5)).await.unwrap();
    assert!(knows_peer(&driver).await);
    for (id, host) in [("t1", 3), ("t3", 5)] {
        after.networks.detach(id.into(), wish(id, host)).await.unwrap();
    }
    after.networks.clear().await.unwrap();
    let left: Vec<_> = driver.observe().await.unwrap().into_keys().filter(|p| *p != Place::Host).collect();
    assert!(left.is_empty(), "{left:?}");
    after.running.shutdown().await;
    drop(after);
    Arc::into_inner(driver).unwrap().retire().unwrap();
}
