//! Names inside tasks: what a task is told follows the directory, from when and until when.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use netdriver::SandboxKey;
use proto::model::TaskId;
use proto::network::network_update::Kind;
use proto::network::{
    Endpoint, NetworkDifference, NetworkDirectory, NetworkUpdate, VirtualIp, WatchResponse,
};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use worker::network::{Keeper, Networks, Underlay, Wish};

use super::kernel::FakeKernel;
use super::lab::{self, task};
use super::question::{Found, ask, ask_on, ask_tcp, question};

/// A node with one task, which nobody has told anything yet.
pub struct Names {
    pub kernel: Arc<FakeKernel>,
    pub networks: Networks,
    _running: JoinSet<()>,
}

impl Names {
    pub fn new() -> Self {
        let kernel = FakeKernel::new();
        let underlay = Underlay::parse("192.0.2.1 4789");
        let (networks, run) =
            Networks::new(kernel.clone(), "n1".into(), underlay, Keeper::none(), CancellationToken::new());
        let mut running = JoinSet::new();
        running.spawn(run);
        Self { kernel, networks, _running: running }
    }

    pub async fn tell(&self, index: u64, kind: Kind) {
        let kind = Some(kind);
        let update = NetworkUpdate { network_id: "net1".into(), index, kind, ..Default::default() };
        self.networks.update(WatchResponse { updates: vec![update], moment: None }).await.unwrap();
    }

    /// Where the task's resolver listens.
    pub async fn resolver(&self, task: &str) -> SocketAddr {
        let key = SandboxKey::new(task);
        lab::seen(&self.kernel.resolvers, "resolver", |resolvers| resolvers.get(&key).copied()).await
    }

    /// With one attached task, told of the network.
    pub async fn with_task(wish: Wish, endpoints: Vec<Endpoint>) -> (Self, SocketAddr) {
        let node = Self::new();
        node.networks.begin(Underlay::parse("192.0.2.1 4789").unwrap());
        node.tell(1, complete(endpoints)).await;
        node.networks.attach("t1".into(), wish).await.unwrap();
        let resolver = node.resolver("t1").await;
        (node, resolver)
    }
}

pub fn wish() -> Wish {
    Wish::read(&task("t1", 3)).unwrap()
}

pub fn web(id: &str, host: u8, ready: bool) -> Endpoint {
    Endpoint {
        service_id: "s1".into(),
        service_name: "web".into(),
        task_name: format!("web.1.{id}"),
        ready,
        ..lab::endpoint(id, "n2", "192.0.2.2", host)
    }
}

fn complete(endpoints: Vec<Endpoint>) -> Kind {
    Kind::Complete(NetworkDirectory { endpoints, ..Default::default() })
}

/// Asks until the answer is `expected`: what is new waits for the kernel.
async fn becomes(resolver: SocketAddr, name: &str, expected: Found) {
    let asking = async {
        while ask(resolver, name).await != expected {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let patience = Duration::from_secs(10);
    tokio::time::timeout(patience, asking)
        .await
        .unwrap_or_else(|_| panic!("{name} never became {expected:?}"));
}

#[tokio::test]
async fn answers_follow_the_directory() {
    let (node, resolver) = Names::with_task(wish(), vec![web("t8", 8, true), web("t9", 9, false)]).await;
    assert_eq!(ask(resolver, "tasks.web.").await, Found::addresses(&["10.0.9.8"]));
    assert_eq!(ask(resolver, "web.front.").await, Found::addresses(&["10.0.9.8"]));

    let set = NetworkDifference { set_endpoints: vec![web("t9", 9, true)], ..Default::default() };
    node.tell(2, Kind::Difference(set)).await;
    assert_eq!(ask(resolver, "tasks.web.").await, Found::addresses(&["10.0.9.8", "10.0.9.9"]));

    let gone = NetworkDifference { removed_endpoints: vec!["t8".into()], ..Default::default() };
    node.tell(3, Kind::Difference(gone)).await;
    assert_eq!(ask(resolver, "tasks.web.").await, Found::addresses(&["10.0.9.9"]), "gone at once");
    assert_eq!(ask(resolver, "web.1.t9.").await, Found::addresses(&["10.0.9.9"]));

    let virtual_ip = VirtualIp {
        service_id: "s1".into(),
        service_name: "web".into(),
        addresses: vec!["10.0.9.2".into()],
        ..Default::default()
    };
    let set = NetworkDifference { set_virtual_ips: vec![virtual_ip], ..Default::default() };
    node.tell(4, Kind::Difference(set)).await;
    becomes(resolver, "web.", Found::addresses(&["10.0.9.2"])).await;

    let mut stream = TcpStream::connect(resolver).await.unwrap();
    assert_eq!(ask_tcp(&mut stream, "web.").await, Found::addresses(&["10.0.9.2"]));
    assert_eq!(
        ask_tcp(&mut stream, "tasks.web.").await,
        Found::addresses(&["10.0.9.9"]),
        "on the same connection"
    );
}

#[tokio::test]
async fn questions_wait_for_what_the_managers_say() {
    let node = Names::new();
    node.networks.keep("t1".into(), wish());
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(node.resolver("t1").await).await.unwrap();
    let mut asking = JoinSet::new();
    asking.spawn(async move { ask_on(&client, "tasks.web.").await });
    // A restart of the whole daemon takes about as long.
    assert!(tokio::time::timeout(Duration::from_millis(300), asking.join_next()).await.is_err());
    node.networks.begin(Underlay::parse("192.0.2.1 4789").unwrap());
    node.tell(1, complete(vec![web("t9", 9, true)])).await;
    assert_eq!(asking.join_next().await.unwrap().unwrap(), Found::addresses(&["10.0.9.9"]));
}

#[tokio::test]
async fn what_no_manager_tells_is_no_missing_name() {
    let node = Names::new();
    node.networks.keep("t1".into(), wish());
    let resolver = node.resolver("t1").await;
    assert_eq!(ask(resolver, "tasks.web.").await, Found::code(ResponseCode::ServFail));
}

#[tokio::test]
async fn nothing_is_held_once_a_task_is_detached() {
    let (node, resolver) = Names::with_task(wish(), vec![]).await;
    // Both with something under way.
    let stream = TcpStream::connect(resolver).await.unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.send_to(&question("waits.example."), resolver).await.unwrap();
    node.networks.detach("t1".into(), wish()).await.unwrap();
    assert!(std::net::UdpSocket::bind(resolver).is_ok(), "the socket is still open");
    drop(stream);

    // Detaching again, or one that was never attached, is no error.
    node.networks.detach("t1".into(), wish()).await.unwrap();
    let other: TaskId = "t2".into();
    node.networks.detach(other, Wish::default()).await.unwrap();
}

#[tokio::test]
async fn nonsense_harms_nobody() {
    let (_node, resolver) = Names::with_task(wish(), vec![web("t9", 9, true)]).await;
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(resolver).await.unwrap();
    for length in [0, 1, 11, 12, 600, 5000] {
        client.send(&vec![0; length]).await.unwrap();
    }
    let mut streams = Vec::new();
    // More connections than are served at once, of which none says anything.
    for _ in 0..40 {
        streams.push(TcpStream::connect(resolver).await.unwrap());
    }
    assert_eq!(ask(resolver, "tasks.web.").await, Found::addresses(&["10.0.9.9"]));
}
