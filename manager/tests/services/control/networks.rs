//! Networks.

use std::time::Duration;

use proto::model::TaskState;
use proto::wire;
use tonic::Code;

use super::*;
use crate::fixtures::{in_state, network, node, put, task};
use crate::swarm::soon;

#[tokio::test]
async fn bad_networks_are_refused() {
    let swarm = Swarm::start().await;
    let mut control = control(&swarm);
    create_network(&mut control, network_spec("front", "10.0.9.0/24")).await.unwrap();
    let index = swarm.store.view().index();
    let driver = |name: &str| wire::NetworkSpec {
        driver_config: Some(wire::Driver { name: name.into(), ..Default::default() }),
        ..network_spec("other", "")
    };
    let ingress = wire::NetworkSpec { ingress: true, ..network_spec("other", "") };
    for (spec, code, says) in [
        (
            network_spec("other", "10.0.9"),
            Code::InvalidArgument,
            "spec.ipam.configs[0].subnet has the value \"10.0.9\"",
        ),
        (network_spec("other", "10.0.9.7/24"), Code::InvalidArgument, "the subnet is 10.0.9.0/24"),
        (
            network_spec("other", "10.0.0.0/16"),
            Code::InvalidArgument,
            "overlaps 10.0.9.0/24 of network \"front\"",
        ),
        (network_spec("other", "10.1.0.0/31"), Code::InvalidArgument, "too small"),
        (network_spec("front", ""), Code::AlreadyExists, "network \"front\" exists already"),
        (network_spec("a b", ""), Code::InvalidArgument, "spec.annotations.name has the value \"a b\""),
        (network_spec("", ""), Code::InvalidArgument, "a name is needed"),
        (driver("weave"), Code::InvalidArgument, "\"weave\": there is no such driver; overlay"),
        (ingress, Code::InvalidArgument, "ingress"),
    ] {
        let result = create_network(&mut control, spec).await;
        refused(&swarm, index, result, code, says);
    }
    swarm.stop().await;
}

#[tokio::test]
async fn a_network_in_use_stays() {
    let swarm = Swarm::start().await;
    let mut control = control(&swarm);
    put(&swarm.store, [node(1)]).await;
    put(&swarm.store, [network(1)]).await;
    let web = fixtures::service(1, &[1]);
    put(&swarm.store, [web.clone()]).await;
    put(&swarm.store, [in_state(task(1, &web, 1, &[1]), TaskState::Running)]).await;
    let remove = || wire::RemoveNetworkRequest { network_id: "network1".into(), name: String::new() };
    let index = swarm.store.view().index();
    let says = "network \"net1\" is in use by service svc1: remove it from the network first";
    refused(&swarm, index, control.remove_network(remove()).await, Code::FailedPrecondition, says);

    // Without its service the task is about to end: that is waited for.
    control.remove_service(wire::RemoveServiceRequest { service_id: "service1".into() }).await.unwrap();
    let mut other = control.clone();
    let mut removing = std::pin::pin!(other.remove_network(remove()));
    let waits = tokio::time::timeout(Duration::from_millis(200), &mut removing).await;
    assert!(waits.is_err(), "{waits:?}");
    assert_eq!(swarm.store.view().networks().len(), 1);
    put(&swarm.store, [in_state(task(1, &web, 1, &[1]), TaskState::Shutdown)]).await;
    soon("the removal", removing).await.unwrap();
    assert_eq!(swarm.store.view().networks().len(), 0);
    let index = swarm.store.view().index();
    refused(
        &swarm,
        index,
        control.remove_network(remove()).await,
        Code::NotFound,
        "network \"network1\" was not found",
    );
    swarm.stop().await;
}

#[tokio::test]
async fn a_network_whose_tasks_do_not_end_stays() {
    let swarm = Swarm::start().await;
    let mut control = control(&swarm);
    put(&swarm.store, [node(1)]).await;
    put(&swarm.store, [network(1), network(2)]).await;
    // The service has left the network, its task runs on there: nothing to wait for.
    let web = fixtures::service(1, &[2]);
    put(&swarm.store, [web.clone()]).await;
    put(&swarm.store, [in_state(task(1, &web, 1, &[1]), TaskState::Running)]).await;
    let remove = || wire::RemoveNetworkRequest { network_id: "network1".into(), name: String::new() };
    let index = swarm.store.view().index();
    let removed = soon("the refusal", control.remove_network(remove())).await;
    let says = "in use by task svc1.1: which is about to end";
    refused(&swarm, index, removed, Code::FailedPrecondition, says);
    swarm.stop().await;
}

#[tokio::test]
async fn networks_are_named_or_given_by_id_and_kept_by_id() {
    let swarm = Swarm::start().await;
    let mut control = control(&swarm);
    let front = create_network(&mut control, network_spec("front", "")).await.unwrap();
    let back = create_network(&mut control, network_spec("back", "")).await.unwrap();
    let service = create_service(&mut control, service_spec("web", &["front", &back.id])).await.unwrap();
    let networks = service.spec.unwrap().task.unwrap().networks;
    let targets: Vec<_> = networks.into_iter().map(|network| network.target).collect();
    assert_eq!(targets, [front.id.clone(), back.id]);
    let index = swarm.store.view().index();
    let twice = create_service(&mut control, service_spec("other", &["front", &front.id])).await;
    refused(&swarm, index, twice, Code::InvalidArgument, "spec.task.networks[1].target");
    swarm.stop().await;
}

fn base(name: &str, subnet: &str) -> wire::NetworkSpec {
    let options = [("com.docker.network.driver.mtu".to_owned(), "1300".to_owned())].into();
    let labels = [("tier".to_owned(), "back".to_owned())].into();
    wire::NetworkSpec {
        annotations: Some(wire::Annotations { name: name.into(), labels }),
        driver_config: Some(wire::Driver { name: "null".into(), options }),
        ..network_spec(name, subnet)
    }
}

fn from(name: &str, base: &str) -> wire::NetworkSpec {
    let config_from = Some(wire::network_spec::ConfigFrom::Network(base.into()));
    wire::NetworkSpec { config_from, ..network_spec(name, "") }
}

#[tokio::test]
async fn a_network_takes_its_settings_over_and_keeps_their_source() {
    let swarm = Swarm::start().await;
    let mut control = control(&swarm);
    let source = create_network(&mut control, base("base", "10.0.9.0/24")).await.unwrap();
    // Settings are no network: the subnet is free.
    let network = create_network(&mut control, from("net", "base")).await.unwrap();
    let spec = network.spec.clone().unwrap();
    assert_eq!(spec.ipam.unwrap().configs[0].subnet, "10.0.9.0/24");
    assert_eq!(spec.driver_config.unwrap().options["com.docker.network.driver.mtu"], "1300");
    assert_eq!(spec.annotations.unwrap().labels["tier"], "back");
    assert_eq!(spec.config_from, Some(wire::network_spec::ConfigFrom::Network("base".into())));

    let index = swarm.store.view().index();
    let overlap = create_network(&mut control, from("other", "base")).await;
    refused(&swarm, index, overlap, Code::InvalidArgument, "overlaps 10.0.9.0/24 of network \"net\"");
    let wrong = create_network(&mut control, from("other", "net")).await;
    refused(&swarm, index, wrong, Code::InvalidArgument, "spec.config_from has the value \"net\"");
    let missing = create_network(&mut control, from("other", "nowhere")).await;
    refused(&swarm, index, missing, Code::NotFound, "network \"nowhere\" was not found");
    let attached = create_service(&mut control, service_spec("web", &["base"])).await;
    refused(&swarm, index, attached, Code::InvalidArgument, "it holds settings only");

    let remove = |id: &str| wire::RemoveNetworkRequest { network_id: id.into(), name: String::new() };
    let removed = control.remove_network(remove(&source.id)).await;
    let says = "network \"base\" is in use by network net, which has its settings";
    refused(&swarm, index, removed, Code::FailedPrecondition, says);
    control.remove_network(remove(&network.id)).await.unwrap();
    control.remove_network(remove(&source.id)).await.unwrap();
    swarm.stop().await;
}
