//! The operator's API: what works, and each bad input with its one clear refusal that changes nothing.

mod addresses;
mod cluster;
mod networks;
mod nodes;
mod services;

use proto::wire::control_client::ControlClient;
use proto::wire::update_service_request::Rollback;
use proto::wire::{self, service_spec, task_spec};
use tonic::{Code, Status};

use crate::fixtures;
use crate::swarm::{Client, Swarm};

type Control = ControlClient<Client>;

fn control(swarm: &Swarm) -> Control {
    ControlClient::new(swarm.local())
}

fn named(name: &str) -> Option<wire::Annotations> {
    Some(wire::Annotations { name: name.into(), ..Default::default() })
}

fn network_spec(name: &str, subnet: &str) -> wire::NetworkSpec {
    let config = wire::IpamConfig { subnet: subnet.into(), ..Default::default() };
    let configs = if subnet.is_empty() { vec![] } else { vec![config] };
    let ipam = Some(wire::IpamOptions { configs, ..Default::default() });
    wire::NetworkSpec { annotations: named(name), ipam, ..Default::default() }
}

fn service_spec(name: &str, networks: &[&str]) -> wire::ServiceSpec {
    let attachments = networks
        .iter()
        .map(|target| wire::NetworkAttachmentConfig { target: (*target).into(), ..Default::default() });
    let container = wire::ContainerSpec { image: "nginx".into(), ..Default::default() };
    wire::ServiceSpec {
        annotations: named(name),
        task: Some(wire::TaskSpec {
            runtime: Some(task_spec::Runtime::Container(container)),
            networks: attachments.collect(),
            ..Default::default()
        }),
        mode: Some(service_spec::Mode::Replicated(wire::ReplicatedService { replicas: 2 })),
        ..Default::default()
    }
}

fn container(spec: &mut wire::ServiceSpec) -> &mut wire::ContainerSpec {
    let Some(task_spec::Runtime::Container(container)) = &mut spec.task.as_mut().unwrap().runtime else {
        panic!("a container");
    };
    container
}

fn placement(spec: &mut wire::ServiceSpec) -> &mut wire::Placement {
    spec.task.as_mut().unwrap().placement.get_or_insert_default()
}

async fn create_network(control: &mut Control, spec: wire::NetworkSpec) -> Result<wire::Network, Status> {
    let created = control.create_network(wire::CreateNetworkRequest { spec: Some(spec) }).await?;
    Ok(created.into_inner().network.unwrap())
}

async fn create_service(control: &mut Control, spec: wire::ServiceSpec) -> Result<wire::Service, Status> {
    let created = control.create_service(wire::CreateServiceRequest { spec: Some(spec) }).await?;
    Ok(created.into_inner().service.unwrap())
}

async fn update_service(
    control: &mut Control,
    service: &wire::Service,
    spec: wire::ServiceSpec,
) -> Result<wire::Service, Status> {
    let request = wire::UpdateServiceRequest {
        service_id: service.id.clone(),
        service_version: service.meta.as_ref().unwrap().version,
        spec: Some(spec),
        rollback: Rollback::None.into(),
    };
    Ok(control.update_service(request).await?.into_inner().service.unwrap())
}

/// One line, of this code, that says this, and that nothing was written.
fn refused<T: std::fmt::Debug>(swarm: &Swarm, index: u64, result: Result<T, Status>, code: Code, says: &str) {
    let status = result.unwrap_err();
    assert_eq!(status.code(), code, "{status}");
    assert!(status.message().contains(says), "{:?} does not say {says:?}", status.message());
    assert!(!status.message().contains('\n'), "{status}");
    assert_eq!(swarm.store.view().index(), index, "nothing changes");
}
