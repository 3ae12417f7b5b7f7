//! Objects for tests, as managers and nodes would have made them.
#![allow(dead_code, reason = "each test uses its own part")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::SystemTime;

use identity::{JoinToken, RootCa};
use proto::model::*;
use proto::wire;
use raft_store::{Object, ObjectId, Store};

pub const CLUSTER: &str = "cluster1";

/// A store that holds the cluster.
pub async fn store() -> Store {
    let store = Store::in_memory();
    put(&store, [cluster()]).await;
    store
}

/// Creates the objects, or replaces those that there are.
pub async fn put<O: Into<Object>>(store: &Store, objects: impl IntoIterator<Item = O>) {
    let objects: Vec<Object> = objects.into_iter().map(Into::into).collect();
    let written = store.update(|tx| {
        for object in &objects {
            match tx.get(&object.id()) {
                None => tx.create(object.clone()),
                Some(known) => tx.update(with_meta(object.clone(), *known.meta())),
            }
        }
        Ok::<_, ()>(())
    });
    written.await.unwrap();
}

pub async fn remove(store: &Store, id: impl Into<ObjectId>) {
    let id = id.into();
    let removed = store.update(|tx| {
        tx.remove(&id);
        Ok::<_, ()>(())
    });
    removed.await.unwrap();
}

fn with_meta(object: Object, meta: Meta) -> Object {
    match object {
        Object::Node(node) => Node { meta, ..Node::clone(&node) }.into(),
        Object::Service(service) => Service { meta, ..Service::clone(&service) }.into(),
        Object::Task(task) => Task { meta, ..Task::clone(&task) }.into(),
        Object::Network(network) => Network { meta, ..Network::clone(&network) }.into(),
        Object::Cluster(cluster) => Cluster { meta, ..Cluster::clone(&cluster) }.into(),
        Object::Keyring(keyring) => Keyring { meta, ..Keyring::clone(&keyring) }.into(),
    }
}

pub fn cluster() -> Cluster {
    let root = RootCa::generate(SystemTime::now()).unwrap();
    let token = || Sensitive::new(JoinToken::generate(root.certificate().digest()).unwrap().to_string());
    Cluster {
        id: CLUSTER.into(),
        meta: Meta::default(),
        spec: ClusterSpec {
            annotations: Annotations { name: "default".into(), ..Annotations::default() },
            ..ClusterSpec::default()
        },
        root_ca: proto::model::RootCa {
            key: Sensitive::new(root.key().expose_pem().as_bytes().to_vec()),
            cert: root.certificate().pem().as_bytes().to_vec(),
            cert_digest: root.certificate().digest().to_string(),
            join_tokens: JoinTokens { worker: token(), manager: token() },
            rotation: None,
            last_forced_rotation: 0,
        },
        default_address_pools: vec!["10.0.0.0/8".parse().unwrap()],
        unlock_key: None,
        subnet_size: 24,
        vxlan_port: 4790,
    }
}

/// A worker that is ready, at 192.0.2.`number`.
pub fn node(number: u8) -> Node {
    Node {
        id: node_id(number),
        meta: Meta::default(),
        spec: NodeSpec::default(),
        description: Some(NodeDescription {
            hostname: format!("host{number}"),
            ..NodeDescription::default()
        }),
        status: NodeStatus {
            state: NodeState::Ready,
            message: String::new(),
            addr: Ipv4Addr::new(192, 0, 2, number).to_string(),
        },
        manager: None,
        certificate: Certificate::default(),
        role: Role::Worker,
    }
}

pub fn manager(number: u8, addr: &str) -> Node {
    let mut node = node(number);
    node.role = Role::Manager;
    node.spec.desired_role = Role::Manager;
    node.manager = Some(ManagerStatus {
        raft_id: number.into(),
        addr: addr.into(),
        leader: false,
        reachability: Reachability::Unknown,
        lag: None,
    });
    node
}

pub fn node_id(number: u8) -> NodeId {
    format!("node{number}").into()
}

pub fn network_id(number: u8) -> NetworkId {
    format!("network{number}").into()
}

pub fn service_id(number: u8) -> ServiceId {
    format!("service{number}").into()
}

pub fn task_id(number: u8) -> TaskId {
    format!("task{number}").into()
}

/// An allocated network with the subnet 10.0.`number`.0/24.
pub fn network(number: u8) -> Network {
    Network {
        id: network_id(number),
        meta: Meta::default(),
        spec: NetworkSpec {
            annotations: Annotations { name: format!("net{number}"), ..Annotations::default() },
            driver: Driver { name: OVERLAY_DRIVER.into(), ..Driver::default() },
            ..NetworkSpec::default()
        },
        state: Some(NetworkState {
            vni: 4096 + u32::from(number),
            subnets: vec![Subnet {
                net: format!("10.0.{number}.0/24").parse().unwrap(),
                range: None,
                gateway: Ipv4Addr::new(10, 0, number, 1).into(),
                reserved: Default::default(),
            }],
            options: Default::default(),
        }),
        pending_delete: false,
    }
}

/// A service on the networks, with a virtual address on each.
pub fn service(number: u8, networks: &[u8]) -> Service {
    let attachments = networks.iter().map(|network| AttachmentConfig {
        network: network_id(*network),
        aliases: vec![format!("alias{number}")],
        addresses: vec![],
        options: Default::default(),
    });
    let virtual_ips = networks.iter().map(|network| VirtualIp {
        network: network_id(*network),
        addr: format!("10.0.{network}.{}/24", 200 + number).parse().unwrap(),
    });
    let task = TaskSpec {
        container: wire::ContainerSpec { image: "nginx".into(), ..Default::default() },
        networks: attachments.collect(),
        ..TaskSpec::default()
    };
    Service {
        id: service_id(number),
        meta: Meta::default(),
        spec: Arc::new(ServiceSpec {
            annotations: Annotations { name: format!("svc{number}"), ..Annotations::default() },
            task: Arc::new(task),
            mode: Mode::Replicated { replicas: 2 },
            update: UpdateConfig::default(),
            rollback: None,
            endpoint: EndpointMode::Vip,
        }),
        spec_version: 1,
        previous_spec: None,
        endpoint: Endpoint { mode: EndpointMode::Vip, virtual_ips: virtual_ips.collect() },
        update_status: None,
        pending_delete: false,
    }
}

/// A task of the service that is assigned to the node, with an address on each of the networks.
pub fn task(number: u8, of: &Service, node: u8, networks: &[u8]) -> Task {
    let attachments = networks.iter().map(|network| Attachment {
        network: network_id(*network),
        addresses: vec![format!("10.0.{network}.{}/24", 2 + number).parse().unwrap()],
        aliases: vec![],
        options: Default::default(),
    });
    Task {
        id: task_id(number),
        meta: Meta::default(),
        spec: Arc::clone(&of.spec.task),
        spec_version: of.spec_version,
        service: of.id.clone(),
        slot: Slot(number.into()),
        node: Some(node_id(node)),
        annotations: Annotations { name: format!("{}.{number}", of.name()), ..Annotations::default() },
        service_annotations: of.spec.annotations.clone(),
        status: TaskStatus::new(TaskState::Assigned, "assigned", SystemTime::UNIX_EPOCH),
        desired: TaskState::Running,
        attachments: attachments.collect(),
        endpoint: None,
        log_driver: None,
    }
}

pub fn in_state(mut task: Task, state: TaskState) -> Task {
    task.status.state = state;
    task
}
