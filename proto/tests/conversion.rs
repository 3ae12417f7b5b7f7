//! What the model writes, it reads back; what is wrong is refused by the name of the field.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proto::convert::Error;
use proto::model::*;
use proto::wire;

fn annotations(name: &str) -> Annotations {
    Annotations { name: name.into(), labels: BTreeMap::from([("tier".into(), "front".into())]) }
}

fn meta() -> Meta {
    let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 250);
    Meta { version: 42, created_at: at(1_700_000_000), updated_at: at(1_700_000_007) }
}

fn task_spec() -> TaskSpec {
    TaskSpec {
        container: wire::ContainerSpec {
            image: "nginx:1".into(),
            args: vec!["-g".into()],
            ..Default::default()
        },
        limits: Resources { nano_cpus: 500_000_000, memory_bytes: 64 << 20 },
        reservations: Resources { nano_cpus: 0, memory_bytes: 32 << 20 },
        restart: RestartPolicy {
            condition: RestartCondition::OnFailure,
            max_attempts: 3,
            ..Default::default()
        },
        placement: Placement {
            constraints: vec!["node.role==worker".into()],
            preferences: vec![Preference::Spread("node.labels.zone".into())],
            platforms: vec![Platform { architecture: "amd64".into(), os: "linux".into() }],
            max_replicas: 2,
        },
        networks: vec![AttachmentConfig {
            network: "net1".into(),
            aliases: vec!["web".into()],
            addresses: vec![],
            options: BTreeMap::new(),
        }],
        log_driver: Some(Driver { name: "json-file".into(), options: BTreeMap::new() }),
        force_update: 7,
    }
}

fn service() -> Service {
    let spec = ServiceSpec {
        annotations: annotations("web"),
        task: Arc::new(task_spec()),
        mode: Mode::Replicated { replicas: 3 },
        update: UpdateConfig { order: UpdateOrder::StartFirst, parallelism: 2, ..Default::default() },
        rollback: Some(UpdateConfig::default()),
        endpoint: EndpointMode::Vip,
    };
    Service {
        id: "service1".into(),
        meta: meta(),
        spec: Arc::new(spec.clone()),
        spec_version: 9,
        previous_spec: Some(Arc::new(ServiceSpec { mode: Mode::Global, ..spec })),
        endpoint: Endpoint {
            mode: EndpointMode::Vip,
            virtual_ips: vec![VirtualIp { network: "net1".into(), addr: "10.0.9.2/24".parse().unwrap() }],
        },
        update_status: Some(UpdateStatus {
            state: UpdateState::Updating,
            started_at: Some(meta().created_at),
            completed_at: None,
            message: "update in progress".into(),
        }),
        pending_delete: false,
    }
}

#[test]
fn services_and_specs_come_back_as_they_were() {
    let service = service();
    assert_eq!(Service::try_from(wire::Service::from(&service)).unwrap(), service);
}

#[test]
fn tasks_come_back_as_they_were() {
    let mut status = TaskStatus::new(TaskState::Failed, "started", meta().updated_at);
    status.err = "task: non-zero exit (1)".into();
    status.container = Some(ContainerStatus { container_id: "c1".into(), pid: 12, exit_code: 1 });
    let task = Task {
        id: "task1".into(),
        meta: meta(),
        spec: Arc::new(task_spec()),
        spec_version: 9,
        service: "service1".into(),
        slot: Slot(2),
        node: Some("node1".into()),
        annotations: annotations("web.2.task1"),
        service_annotations: annotations("web"),
        status,
        desired: TaskState::Shutdown,
        attachments: vec![Attachment {
            network: "net1".into(),
            addresses: vec!["10.0.9.3/24".parse().unwrap(), "fd00::3/64".parse().unwrap()],
            aliases: vec!["web".into()],
            options: BTreeMap::new(),
        }],
        endpoint: Some(service().endpoint),
        log_driver: None,
    };
    assert_eq!(Task::try_from(wire::Task::from(&task)).unwrap(), task);
}

#[test]
fn networks_come_back_as_they_were() {
    let gateway = "10.0.9.1".parse().unwrap();
    let reserved = BTreeMap::from([("router".to_owned(), "10.0.9.9".parse().unwrap())]);
    let network = Network {
        id: "net1".into(),
        meta: meta(),
        spec: NetworkSpec {
            annotations: annotations("front"),
            driver: Driver { name: OVERLAY_DRIVER.into(), options: BTreeMap::new() },
            internal: true,
            attachable: true,
            ipv6: false,
            ipam: vec![IpamConfig {
                subnet: "10.0.9.0/24".parse().unwrap(),
                range: Some("10.0.9.128/25".parse().unwrap()),
                gateway: Some(gateway),
                reserved: reserved.clone(),
            }],
        },
        state: Some(NetworkState {
            vni: 4097,
            subnets: vec![Subnet { net: "10.0.9.0/24".parse().unwrap(), range: None, gateway, reserved }],
            options: BTreeMap::from([("mtu".into(), "1400".into())]),
        }),
        pending_delete: false,
    };
    assert_eq!(Network::try_from(wire::Network::from(&network)).unwrap(), network);
}

#[test]
fn clusters_come_back_as_they_were_and_hide_their_secrets() {
    let cluster = Cluster {
        id: "cluster1".into(),
        meta: meta(),
        spec: ClusterSpec { annotations: annotations("default"), ..Default::default() },
        root_ca: RootCa {
            key: Sensitive::new(b"very private".to_vec()),
            cert: b"PEM".to_vec(),
            cert_digest: "digest".into(),
            join_tokens: JoinTokens {
                worker: Sensitive::new("SWMTKN-1-w".into()),
                manager: Sensitive::new("SWMTKN-1-m".into()),
            },
        },
        default_address_pools: vec!["10.0.0.0/8".parse().unwrap()],
        subnet_size: 24,
        vxlan_port: 4789,
    };
    assert_eq!(Cluster::try_from(wire::Cluster::from(&cluster)).unwrap(), cluster);
    let shown = format!("{cluster:?}");
    assert!(!shown.contains("SWMTKN") && !shown.contains("very"), "{shown}");
}

#[test]
fn a_wrong_field_is_named_by_its_path() {
    let mut task = wire::Task::default();
    assert_eq!(Task::try_from(task.clone()).unwrap_err(), Error::missing("id"));

    task.id = "task1".into();
    task.spec = Some(wire::TaskSpec::default());
    assert_eq!(Task::try_from(task).unwrap_err(), Error::missing("spec.container"));

    let mut spec = wire::ServiceSpec::from(service().spec.as_ref());
    spec.task.as_mut().unwrap().resources.as_mut().unwrap().limits.as_mut().unwrap().nano_cpus = -1;
    let error = ServiceSpec::try_from(spec).unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"task.resources.limits.nano_cpus has the value "-1", expected 0 or more"#
    );
}

#[test]
fn what_is_not_supported_is_refused_and_not_dropped() {
    let mut spec = wire::ServiceSpec::from(service().spec.as_ref());
    spec.endpoint.as_mut().unwrap().ports.push(wire::PortConfig::default());
    let error = ServiceSpec::try_from(spec).unwrap_err();
    assert_eq!(error.to_string(), "endpoint.ports: published ports are not supported by this version");
}

#[test]
fn an_unknown_enum_value_is_refused() {
    let mut node = wire::NodeSpec { availability: 17, ..Default::default() };
    let error = NodeSpec::try_from(node.clone()).unwrap_err();
    assert_eq!(error.field(), "availability");
    node.availability = 2;
    assert_eq!(NodeSpec::try_from(node).unwrap().availability, Availability::Drain);
}

#[test]
fn a_network_identifier_beyond_24_bits_is_refused() {
    let options = BTreeMap::from([(VXLAN_ID_LIST.to_owned(), "16777216".to_owned())]);
    let network = wire::Network {
        id: "net1".into(),
        spec: Some(wire::NetworkSpec::default()),
        driver_state: Some(wire::Driver { name: "overlay".into(), options }),
        ..Default::default()
    };
    assert_eq!(Network::try_from(network).unwrap_err().field(), "driver_state.options.vxlanid_list");
}
