//! Addresses that users choose for a service.

use proto::model::TaskState;
use proto::wire::{self, service_spec};
use tonic::Code;

use super::*;
use crate::fixtures::{in_state, network, node, put, task};

/// One replica on network net1 (10.0.1.0/24).
fn asking(name: &str, addresses: &[&str]) -> wire::ServiceSpec {
    let mut spec = service_spec(name, &["net1"]);
    spec.mode = Some(service_spec::Mode::Replicated(wire::ReplicatedService { replicas: 1 }));
    let config = &mut spec.task.as_mut().unwrap().networks[0];
    config.addresses = addresses.iter().map(ToString::to_string).collect();
    spec
}

#[tokio::test]
async fn addresses_that_cannot_be_had_are_refused() {
    let swarm = Swarm::start().await;
    let mut control = control(&swarm);
    let mut net = network(1);
    let state = net.state.as_mut().unwrap();
    state.subnets[0].reserved.insert("router".into(), "10.0.1.9".parse().unwrap());
    put(&swarm.store, [net]).await;
    put(&swarm.store, [node(1)]).await;
    let web = fixtures::service(1, &[1]);
    put(&swarm.store, [web.clone()]).await;
    put(&swarm.store, [in_state(task(1, &web, 1, &[1]), TaskState::Running)]).await;
    create_service(&mut control, asking("first", &["10.0.1.77"])).await.unwrap();

    let with = |address: &str, change: &dyn Fn(&mut wire::ServiceSpec)| {
        let mut spec = asking("other", &[address]);
        change(&mut spec);
        spec
    };
    let start_first = wire::update_config::UpdateOrder::StartFirst.into();
    let start_first = wire::UpdateConfig { order: start_first, ..Default::default() };
    let index = swarm.store.view().index();
    for (spec, says) in [
        (asking("other", &["here"]), "has the value \"here\": an IP address is needed"),
        (asking("other", &["10.0.1.5", "10.0.1.6"]), "\"10.0.1.6\": a task has one address of each family"),
        (asking("other", &["10.0.2.5"]), "in no subnet of network \"net1\", which has 10.0.1.0/24"),
        (asking("other", &["fd00::5"]), "\"fd00::5\": it is in no subnet of network"),
        (asking("other", &["10.0.1.255"]), "it belongs to the subnet 10.0.1.0/24 itself"),
        (asking("other", &["10.0.1.1"]), "in use by the gateway"),
        (asking("other", &["10.0.1.9"]), "in use by the reservation router"),
        (asking("other", &["10.0.1.3"]), "in use by service \"svc1\""),
        (asking("other", &["10.0.1.201"]), "in use by service \"svc1\" as its virtual address"),
        (asking("other", &["10.0.1.77"]), "in use by service \"first\""),
        (
            with("10.0.1.5", &|s| {
                s.mode = Some(service_spec::Mode::Replicated(wire::ReplicatedService { replicas: 2 }));
            }),
            "spec.task.networks[0].addresses has the value \"10.0.1.5\": it can be the address of one task, not of 2",
        ),
        (
            with("10.0.1.5", &|s| s.mode = Some(service_spec::Mode::Global(wire::GlobalService {}))),
            "a global service has one a node",
        ),
        (
            with("10.0.1.5", &|s| s.update = Some(start_first)),
            "spec.update.order has the value \"start-first\"",
        ),
        (with("10.0.1.5", &|s| s.rollback = Some(start_first)), "spec.rollback.order"),
    ] {
        let result = create_service(&mut control, spec).await;
        refused(&swarm, index, result, Code::InvalidArgument, says);
    }
    swarm.stop().await;
}

#[tokio::test]
async fn a_service_keeps_its_address_through_updates() {
    let swarm = Swarm::start().await;
    let mut control = control(&swarm);
    put(&swarm.store, [network(1)]).await;
    put(&swarm.store, [node(1)]).await;
    let web = create_service(&mut control, asking("web", &["10.0.1.77"])).await.unwrap();
    let mut running = fixtures::service(1, &[1]);
    running.id = web.id.as_str().into();
    let mut held = in_state(task(1, &running, 1, &[1]), TaskState::Running);
    held.attachments[0].addresses = vec!["10.0.1.77/24".parse().unwrap()];
    put(&swarm.store, [held]).await;
    let mut changed = asking("web", &["10.0.1.77"]);
    container(&mut changed).image = "nginx:2".into();
    let web = update_service(&mut control, &web, changed).await.unwrap();

    let index = swarm.store.view().index();
    let mut scaled = asking("web", &["10.0.1.77"]);
    scaled.mode = Some(service_spec::Mode::Replicated(wire::ReplicatedService { replicas: 3 }));
    let result = update_service(&mut control, &web, scaled).await;
    refused(&swarm, index, result, Code::InvalidArgument, "use --replicas 1");
    swarm.stop().await;
}
