//! Small valid objects.

#![allow(dead_code, reason = "each test uses some of them")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::SystemTime;

use proto::model::{
    Annotations, Attachment, AttachmentConfig, Certificate, Cluster, ClusterSpec, Driver, Endpoint,
    EndpointMode, IpamConfig, Meta, Mode, Network, NetworkSpec, NetworkState, Node, NodeSpec, NodeStatus,
    RaftConfig, Role, RootCa, Service, ServiceSpec, Slot, Subnet, Task, TaskSpec, TaskState, TaskStatus,
    UpdateConfig, VirtualIp,
};

fn named(name: &str) -> Annotations {
    Annotations { name: name.into(), ..Annotations::default() }
}

pub fn cluster() -> Cluster {
    Cluster {
        id: "cluster".into(),
        meta: Meta::default(),
        spec: ClusterSpec { annotations: named("default"), ..ClusterSpec::default() },
        root_ca: RootCa::default(),
        default_address_pools: vec!["10.0.0.0/8".parse().unwrap()],
        unlock_key: None,
        subnet_size: 24,
        vxlan_port: 4789,
    }
}

/// Takes snapshots far more often, and keeps less.
pub fn cluster_with_snapshots(interval: u64, older: u64, for_slow_followers: u64) -> Cluster {
    let raft = RaftConfig {
        snapshot_interval: interval,
        keep_old_snapshots: older,
        log_entries_for_slow_followers: for_slow_followers,
        ..RaftConfig::default()
    };
    let cluster = cluster();
    Cluster { spec: ClusterSpec { raft, ..cluster.spec }, ..cluster }
}

pub fn node(id: &str) -> Node {
    Node {
        id: id.into(),
        meta: Meta::default(),
        spec: NodeSpec::default(),
        description: None,
        status: NodeStatus::default(),
        manager: None,
        certificate: Certificate::default(),
        role: Role::Worker,
    }
}

pub fn service(id: &str, networks: &[&str]) -> Service {
    let attach = |network: &&str| AttachmentConfig {
        network: (*network).into(),
        aliases: Vec::new(),
        addresses: Vec::new(),
        options: Default::default(),
    };
    let task = TaskSpec { networks: networks.iter().map(attach).collect(), ..TaskSpec::default() };
    Service {
        id: id.into(),
        meta: Meta::default(),
        spec: Arc::new(ServiceSpec {
            annotations: named(id),
            task: Arc::new(task),
            mode: Mode::Replicated { replicas: 1 },
            update: UpdateConfig::default(),
            rollback: None,
            endpoint: EndpointMode::Vip,
        }),
        spec_version: 1,
        previous_spec: None,
        endpoint: Endpoint::default(),
        update_status: None,
        pending_delete: false,
    }
}

pub fn vip(network: &str, address: &str) -> VirtualIp {
    VirtualIp { network: network.into(), addr: address.parse().unwrap() }
}

/// Asks for `subnet` and has been given nothing yet.
pub fn network(id: &str, subnet: &str) -> Network {
    let ipam = IpamConfig {
        subnet: subnet.parse().unwrap(),
        range: None,
        gateway: None,
        reserved: Default::default(),
    };
    Network {
        id: id.into(),
        meta: Meta::default(),
        spec: NetworkSpec {
            annotations: named(id),
            driver: Driver { name: "overlay".into(), ..Driver::default() },
            ipam: vec![ipam],
            ..NetworkSpec::default()
        },
        state: None,
        pending_delete: false,
    }
}

/// Has its subnet, with the first address as gateway, and its VNI.
pub fn allocated(id: &str, subnet: &str, vni: u32) -> Network {
    let net: ipnet::IpNet = subnet.parse().unwrap();
    let gateway = net.hosts().next().unwrap();
    let subnet = Subnet { net, range: None, gateway, reserved: Default::default() };
    let state = NetworkState { vni, subnets: vec![subnet], options: Default::default() };
    Network { state: Some(state), ..network(id, &net.to_string()) }
}

pub fn task(id: &str, service: &str, slot: u64) -> Task {
    Task {
        id: id.into(),
        meta: Meta::default(),
        spec: Arc::new(TaskSpec::default()),
        spec_version: 1,
        service: service.into(),
        slot: Slot(slot),
        node: None,
        annotations: Annotations::default(),
        service_annotations: named(service),
        status: TaskStatus::new(TaskState::New, "created", SystemTime::UNIX_EPOCH),
        desired: TaskState::Running,
        attachments: Vec::new(),
        endpoint: None,
        log_driver: None,
    }
}

pub fn attached(task: Task, network: &str, address: &str) -> Task {
    let attachment = Attachment {
        network: network.into(),
        addresses: vec![address.parse().unwrap()],
        aliases: Vec::new(),
        options: Default::default(),
    };
    Task { attachments: vec![attachment], ..task }
}

pub fn in_state(task: Task, state: TaskState) -> Task {
    Task { status: TaskStatus::new(state, "", SystemTime::UNIX_EPOCH), ..task }
}
