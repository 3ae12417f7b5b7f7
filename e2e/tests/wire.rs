//! Messages that no client of ours would send: refused with an error that names the field, nothing changed.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

use e2e::{Host, Lab};
use proto::wire::control_client::ControlClient;
use proto::wire::{
    Annotations, ContainerSpec, CreateNetworkRequest, CreateServiceRequest, Driver, EndpointSpec, IpamConfig,
    IpamOptions, NetworkAttachmentConfig, NetworkSpec, PortConfig, ReplicatedService, SecretReference,
    ServiceSpec, TaskSpec, UpdateServiceRequest, service_spec, task_spec,
};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

async fn client(host: &Host) -> ControlClient<Channel> {
    let endpoint = Endpoint::try_from(host.socket()).unwrap();
    ControlClient::new(endpoint.connect().await.unwrap())
}

fn named(name: &str) -> Option<Annotations> {
    Some(Annotations { name: name.to_owned(), ..Default::default() })
}

fn container(image: &str) -> ContainerSpec {
    ContainerSpec { image: image.to_owned(), ..Default::default() }
}

fn service(container: ContainerSpec) -> ServiceSpec {
    ServiceSpec {
        annotations: named("web"),
        task: Some(TaskSpec {
            runtime: Some(task_spec::Runtime::Container(container)),
            ..Default::default()
        }),
        mode: Some(service_spec::Mode::Replicated(ReplicatedService { replicas: 1 })),
        ..Default::default()
    }
}

fn network(subnet: &str) -> NetworkSpec {
    NetworkSpec {
        annotations: named("net"),
        driver_config: Some(Driver { name: "overlay".to_owned(), ..Default::default() }),
        ipam: Some(IpamOptions {
            configs: vec![IpamConfig { subnet: subnet.to_owned(), ..Default::default() }],
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(what: &str, answer: Result<T, Status>, field: &str) {
    let status = answer.err().unwrap_or_else(|| panic!("{what} was accepted"));
    let refusal = [Code::InvalidArgument, Code::NotFound, Code::Unimplemented].contains(&status.code());
    assert!(refusal, "{what}: {status:?}");
    assert!(status.message().contains(field), "{what} does not name {field}: {status:?}");
}

#[test]
fn messages_with_missing_or_foreign_fields_are_refused() {
    let lab = Lab::swarm("messages with missing or foreign fields", 1, 0);
    let (h1, image) = (lab.host(1), lab.web());
    let before = h1.wishes();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = client(h1).await;
        for (what, spec, field) in services(&image) {
            refused(what, client.create_service(CreateServiceRequest { spec }).await, field);
        }
        for (what, spec, field) in networks() {
            refused(what, client.create_network(CreateNetworkRequest { spec }).await, field);
        }
        let nobody = UpdateServiceRequest { service_id: "nobody".to_owned(), ..Default::default() };
        refused("an update of nothing", client.update_service(nobody).await, "spec");
    });
    assert_eq!(h1.wishes(), before);
    h1.ctl(&["service", "create", "--name", "web", &image]).ok();
}

type Case<T> = (&'static str, Option<T>, &'static str);

fn services(image: &str) -> Vec<Case<ServiceSpec>> {
    let good = || service(container(image));
    let with = |change: fn(&mut ServiceSpec)| {
        let mut spec = good();
        change(&mut spec);
        Some(spec)
    };
    vec![
        ("no spec", None, "spec"),
        ("no annotations", with(|spec| spec.annotations = None), "name"),
        ("an empty name", with(|spec| spec.annotations = named("")), "name"),
        ("no task", with(|spec| spec.task = None), "task"),
        ("no runtime", with(|spec| spec.task = Some(TaskSpec::default())), "container"),
        ("no image", Some(service(container(""))), "image"),
        ("published ports", with(|spec| spec.endpoint = Some(published())), "ports"),
        (
            "a mode that does not exist",
            with(|spec| spec.endpoint = Some(EndpointSpec { mode: 77, ports: vec![] })),
            "mode",
        ),
        ("a network that does not exist", with(|spec| attach(spec, "nowhere")), "nowhere"),
        (
            "secrets",
            Some(service(ContainerSpec { secrets: vec![SecretReference::default()], ..container(image) })),
            "secrets",
        ),
    ]
}

fn published() -> EndpointSpec {
    EndpointSpec { ports: vec![PortConfig { target_port: 80, ..Default::default() }], ..Default::default() }
}

fn attach(spec: &mut ServiceSpec, target: &str) {
    if let Some(task) = &mut spec.task {
        task.networks = vec![NetworkAttachmentConfig { target: target.to_owned(), ..Default::default() }];
    }
}

fn networks() -> Vec<Case<NetworkSpec>> {
    let family = |family: i32| {
        let mut spec = network("10.0.9.0/24");
        spec.ipam.iter_mut().flat_map(|ipam| &mut ipam.configs).for_each(|config| config.family = family);
        Some(spec)
    };
    vec![
        ("no spec", None, "spec"),
        ("no annotations", Some(NetworkSpec { annotations: None, ..network("10.0.9.0/24") }), "name"),
        ("no subnet in a configuration", Some(network("")), "subnet"),
        ("a family that does not exist", family(77), "family"),
        ("a family that is not the subnet's", family(6), "family"),
    ]
}
