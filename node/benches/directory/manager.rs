//! A manager, and what scheduler and nodes would write into its store.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use identity::{Clock, Connection, Peer, Signers};
use proto::model::{Endpoint as ServiceEndpoint, *};
use proto::raft::liveness_server::{Liveness, LivenessServer};
use proto::raft::{BeatRequest, BeatResponse};
use proto::wire;
use raft_store::{Leadership, Object, Store};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};
use tower::util::MapRequestLayer;

use crate::parts::{host, serve};

const SERVICES: usize = 100;
const NODES: usize = 100;

/// The other manager, which leads, as far as this one sees: it hears of heartbeats.
struct Leader {
    channel: Channel,
}

impl manager::Connect for Leader {
    fn connect(&self, _: &str) -> Result<Channel, Status> {
        Ok(self.channel.clone())
    }
}

struct Ear;

#[tonic::async_trait]
impl Liveness for Ear {
    async fn beat(&self, _: Request<BeatRequest>) -> Result<Response<BeatResponse>, Status> {
        Ok(Response::new(BeatResponse {}))
    }
}

async fn leader() -> Leader {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = Server::builder().add_service(LivenessServer::new(Ear));
    tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
    Leader { channel: Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy() }
}

pub fn run() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = Store::in_memory();
    // Another one leads, so no loop runs: nothing happens but what is written here.
    let leader = store.leadership().borrow().leader;
    store.set_leadership(Leadership { leading: None, leader });
    let address = runtime.block_on(begin(&store));
    let mut tasks = 0;
    serve(|words| match words {
        ["address"] => address.to_string(),
        ["fill", count] => {
            let count: usize = count.parse().unwrap();
            runtime.block_on(fill(&store, count));
            tasks = count;
            "filled".into()
        }
        ["change", rate, seconds] => {
            let (rate, seconds) = (rate.parse().unwrap(), seconds.parse().unwrap());
            runtime.block_on(change(&store, &mut tasks, rate, seconds));
            "changed".into()
        }
        _ => panic!("{words:?}"),
    });
}

async fn begin(store: &Store) -> SocketAddr {
    let nodes = (0..=NODES).map(|number| Object::from(node(number)));
    write(store, nodes.chain([network().into()]).collect()).await;
    write(store, (0..SERVICES).map(|number| service(number).into()).collect()).await;
    // That which makes the measured node need the network.
    let own = task("own", 60_000, 0, 0);
    write(store, vec![own.into()]).await;
    let manager = manager::Manager::start(manager::Config {
        store: store.clone(),
        cluster: "cluster1".into(),
        node: "manager1".into(),
        connect: Arc::new(leader().await),
        signers: Arc::new(Signers::anonymous(Clock::system())),
        clock: Clock::system(),
    });
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = Server::builder()
        .layer(MapRequestLayer::new(identify))
        .add_routes(manager.routes_tcp())
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(async move {
        let _manager = manager;
        serving.await.unwrap();
    });
    address
}

/// Whoever calls is the measured node.
fn identify<B>(mut request: http::Request<B>) -> http::Request<B> {
    let peer = Peer::Node { id: "node0".into(), role: Role::Worker, cluster: "cluster1".into() };
    request.extensions_mut().insert(Connection { peer, remote: Some(([192, 0, 2, 1], 4444).into()) });
    request
}

async fn write(store: &Store, objects: Vec<Object>) {
    let written = store.update(|tx| {
        objects.iter().for_each(|object| tx.create(object.clone()));
        Ok::<_, ()>(())
    });
    written.await.unwrap();
}

async fn fill(store: &Store, count: usize) {
    let numbers: Vec<usize> = (0..count).collect();
    for chunk in numbers.chunks(250) {
        let tasks = chunk.iter().map(|number| running(*number, *number).into());
        write(store, tasks.collect()).await;
    }
}

/// Each replacement is a change set of its own: a task goes, one with another address comes.
async fn change(store: &Store, tasks: &mut usize, rate: u64, seconds: u64) {
    let begun = Instant::now();
    for done in 0..rate * seconds {
        let due =
            begun + Duration::from_secs(1) * u32::try_from(done).unwrap() / u32::try_from(rate).unwrap();
        tokio::time::sleep_until(due.into()).await;
        let (oldest, newest) = (TaskId::from(format!("task{done}")), running(*tasks, *tasks));
        *tasks += 1;
        let replaced = store.update(|tx| {
            tx.remove(oldest.clone());
            tx.create(newest.clone());
            Ok::<_, ()>(())
        });
        replaced.await.unwrap();
    }
}

fn running(number: usize, address: usize) -> Task {
    let mut task = task(&format!("task{number}"), address, 1 + number % NODES, number % SERVICES);
    task.status.state = TaskState::Running;
    task
}

fn node(number: usize) -> Node {
    Node {
        id: format!("node{number}").into(),
        meta: Meta::default(),
        spec: NodeSpec::default(),
        description: Some(NodeDescription {
            hostname: format!("host{number}"),
            ..NodeDescription::default()
        }),
        status: NodeStatus {
            state: NodeState::Ready,
            message: String::new(),
            addr: if number == 0 { "192.0.2.1".into() } else { format!("192.0.3.{number}") },
        },
        manager: None,
        certificate: Certificate::default(),
        role: Role::Worker,
    }
}

fn network() -> Network {
    Network {
        id: "net1".into(),
        meta: Meta::default(),
        spec: NetworkSpec {
            annotations: Annotations { name: "net".into(), ..Annotations::default() },
            driver: Driver { name: OVERLAY_DRIVER.into(), ..Driver::default() },
            ..NetworkSpec::default()
        },
        state: Some(NetworkState {
            vni: 4097,
            subnets: vec![Subnet {
                net: "10.0.0.0/16".parse().unwrap(),
                range: None,
                gateway: Ipv4Addr::new(10, 0, 0, 1).into(),
                reserved: Default::default(),
            }],
            options: Default::default(),
        }),
        pending_delete: false,
    }
}

fn service(number: usize) -> Service {
    let attachment = AttachmentConfig {
        network: "net1".into(),
        aliases: vec![],
        addresses: vec![],
        options: Default::default(),
    };
    let virtual_ip =
        VirtualIp { network: "net1".into(), addr: format!("10.0.1.{}/16", 1 + number).parse().unwrap() };
    let task = TaskSpec {
        container: wire::ContainerSpec { image: "nginx".into(), ..Default::default() },
        networks: vec![attachment],
        ..TaskSpec::default()
    };
    Service {
        id: format!("service{number}").into(),
        meta: Meta::default(),
        spec: Arc::new(ServiceSpec {
            annotations: Annotations { name: format!("svc{number}"), ..Annotations::default() },
            task: Arc::new(task),
            mode: Mode::Replicated { replicas: 100 },
            update: UpdateConfig::default(),
            rollback: None,
            endpoint: EndpointMode::Vip,
        }),
        spec_version: 1,
        previous_spec: None,
        endpoint: ServiceEndpoint { mode: EndpointMode::Vip, virtual_ips: vec![virtual_ip] },
        update_status: None,
        pending_delete: false,
    }
}

fn task(id: &str, address: usize, node: usize, of: usize) -> Task {
    let service = service(of);
    let [a, b] = host(address);
    let attachment = Attachment {
        network: "net1".into(),
        addresses: vec![format!("10.0.{a}.{b}/16").parse().unwrap()],
        aliases: vec![],
        options: Default::default(),
    };
    Task {
        id: id.into(),
        meta: Meta::default(),
        spec: Arc::clone(&service.spec.task),
        spec_version: 1,
        service: service.id.clone(),
        slot: Slot(address as u64),
        node: Some(format!("node{node}").into()),
        annotations: Annotations { name: format!("svc{of}.{address}.{id}"), ..Annotations::default() },
        service_annotations: service.spec.annotations.clone(),
        status: TaskStatus::new(TaskState::Assigned, "assigned", SystemTime::UNIX_EPOCH),
        desired: TaskState::Running,
        attachments: vec![attachment],
        endpoint: None,
        log_driver: None,
    }
}
