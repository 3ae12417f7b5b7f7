//! What the allocator gives, and to whom first.

use std::collections::BTreeSet;

use manager::allocator::Allocator;
use manager::orchestrator::Orchestrator;
use proto::model::*;

use crate::support::*;

fn state(world: &World, network: &str) -> NetworkState {
    world.store.view().network(&network.into()).unwrap().state.clone().expect("the network has its state")
}

fn vips(world: &World, service: &str) -> Vec<String> {
    let view = world.store.view();
    let endpoint = &view.service(&service.into()).unwrap().endpoint;
    endpoint.virtual_ips.iter().map(|vip| vip.addr.to_string()).collect()
}

/// A service whose tasks exist and were given what they ask for.
async fn allocated(world: &World, service: Service) {
    world.put(service).await;
    world.settle(&Orchestrator).await;
    world.settle(&Allocator).await;
}

#[tokio::test(start_paused = true)]
async fn networks_get_identifiers_in_turn_and_subnets_that_nobody_has() {
    let world = World::with_nodes(0).await;
    world.put(network("a-given", &["10.0.0.0/23", "fd00:1::/64"])).await;
    world.put(network("b", &[])).await;
    world.settle(&Allocator).await;
    world.put(network("c", &[])).await;
    world.put(network("d", &[])).await;
    world.settle(&Allocator).await;
    let seen = ["a-given", "b", "c", "d"].map(|name| {
        let state = state(&world, name);
        let subnets =
            state.subnets.iter().map(|s| format!("{} via {}", s.net, s.gateway)).collect::<Vec<_>>();
        (state.vni, subnets.join(", "))
    });
    assert_eq!(
        seen,
        [
            (4097, "10.0.0.0/23 via 10.0.0.1, fd00:1::/64 via fd00:1::1".into()),
            (4098, "10.0.2.0/24 via 10.0.2.1".into()),
            (4099, "10.0.3.0/24 via 10.0.3.1".into()),
            (4100, "10.0.4.0/24 via 10.0.4.1".into()),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn an_identifier_can_be_asked_for_and_the_last_one_is_followed_by_the_lowest_free() {
    let world = World::with_nodes(0).await;
    for (name, vni) in [("a", "16777215"), ("b", ""), ("c", "")] {
        let mut network = network(name, &[]);
        if !vni.is_empty() {
            network.spec.driver.options.insert(VXLAN_ID_LIST.into(), vni.into());
        }
        world.put(network).await;
    }
    world.settle(&Allocator).await;
    assert_eq!(["a", "b", "c"].map(|name| state(&world, name).vni), [16_777_215, 4097, 4098]);
}

#[tokio::test(start_paused = true)]
async fn an_identifier_that_is_released_is_given_again_last() {
    let world = World::with_nodes(0).await;
    for (name, vni) in [("a", 4097), ("b", 4098), ("c", 4099)] {
        world.put(network(name, &[])).await;
        world.settle(&Allocator).await;
        assert_eq!(state(&world, name).vni, vni);
        world.write(|tx| tx.remove(proto::model::NetworkId::from(name))).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_used_up_pool_is_told_by_the_tasks_and_goes_on_when_a_network_is_removed() {
    let world = World::new();
    let pools = vec!["10.0.0.0/24".parse().unwrap()];
    world.put(Cluster { default_address_pools: pools, subnet_size: 25, ..cluster() }).await;
    for name in ["a", "b", "c"] {
        world.put(network(name, &[])).await;
    }
    let mut web = service("web", 1);
    attach(&mut web, "c");
    allocated(&world, web).await;
    let err = "network c: no free subnet of size /25 in 10.0.0.0/24, for the virtual address of service web";
    assert_eq!(world.live("web")[0].status.err, err);
    world.write(|tx| tx.remove(NetworkId::from("a"))).await;
    world.settle(&Allocator).await;
    assert_eq!(state(&world, "c").subnets[0].net.to_string(), "10.0.0.0/25");
    assert_eq!(world.live("web")[0].status.state, TaskState::Pending);
}

#[tokio::test(start_paused = true)]
async fn services_and_tasks_get_addresses_of_every_family() {
    let world = World::with_nodes(0).await;
    world.put(network("net", &["10.0.9.0/24", "fd00::/64"])).await;
    let mut web = service("web", 2);
    attach(&mut web, "net");
    allocated(&world, web).await;
    assert_eq!(vips(&world, "web"), ["10.0.9.2/24", "fd00::2/64"]);
    let tasks = world.live("web");
    assert_eq!(addresses_of(&tasks[0]), ["10.0.9.3/24", "fd00::3/64"]);
    assert_eq!(addresses_of(&tasks[1]), ["10.0.9.4/24", "fd00::4/64"]);
    assert_eq!(tasks[0].status.state, TaskState::Pending);
    assert_eq!(tasks[0].endpoint.as_ref().unwrap().virtual_ips.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_plan_hands_out_each_address_once() {
    let world = World::with_nodes(0).await;
    world.put(network("net", &["10.0.0.0/24"])).await;
    let mut web = service("web", 252);
    attach(&mut web, "net");
    allocated(&world, web).await;
    let given: BTreeSet<String> = world.live("web").iter().flat_map(|task| addresses_of(task)).collect();
    assert_eq!(given.len(), 252);
    assert!(!given.contains("10.0.0.1/24") && !given.contains("10.0.0.255/24"));
}

#[tokio::test(start_paused = true)]
async fn a_released_address_is_reused_as_late_as_can_be() {
    let world = World::with_nodes(0).await;
    world.put(network("net", &["10.0.9.0/29"])).await;
    let mut web = service("web", 2);
    spec_of(&mut web).endpoint = EndpointMode::DnsRoundRobin;
    attach(&mut web, "net");
    allocated(&world, web).await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        let task = &world.live("web")[0];
        seen.push(addresses_of(task)[0].clone());
        world.observe(&task.id, TaskState::Failed).await;
        world.settle(&Orchestrator).await;
        world.settle(&Allocator).await;
    }
    assert_eq!(seen, ["10.0.9.2/29", "10.0.9.4/29", "10.0.9.5/29", "10.0.9.6/29"]);
    assert_eq!(addresses_of(&world.live("web")[0]), ["10.0.9.2/29"]);
}

#[tokio::test(start_paused = true)]
async fn range_gateway_and_reserved_addresses_are_respected() {
    let world = World::with_nodes(0).await;
    let mut net = network("net", &["10.0.9.0/24"]);
    net.spec.ipam[0].range = Some("10.0.9.64/30".parse().unwrap());
    net.spec.ipam[0].gateway = Some("10.0.9.65".parse().unwrap());
    net.spec.ipam[0].reserved.insert("router".into(), "10.0.9.66".parse().unwrap());
    world.put(net).await;
    let mut web = service("web", 2);
    spec_of(&mut web).endpoint = EndpointMode::DnsRoundRobin;
    attach(&mut web, "net");
    allocated(&world, web).await;
    let given: Vec<String> = world.live("web").iter().flat_map(|task| addresses_of(task)).collect();
    assert_eq!(given, ["10.0.9.64/24", "10.0.9.67/24"]);
}

#[tokio::test(start_paused = true)]
async fn an_address_can_be_asked_for() {
    let world = World::with_nodes(0).await;
    world.put(network("net", &["10.0.9.0/24"])).await;
    for (name, asked, expected) in [
        ("a", "10.0.9.77", ""),
        ("b", "10.0.8.1", "network net: address 10.0.8.1 is in none of its subnets"),
        ("c", "10.0.9.1", "network net: address 10.0.9.1 is in use by the gateway"),
        ("d", "here", "network net: address here is not an IP address"),
    ] {
        let mut service = service(name, 1);
        spec_of(&mut service).endpoint = EndpointMode::DnsRoundRobin;
        attach(&mut service, "net");
        task_spec_of(&mut service).networks[0].addresses = vec![asked.into()];
        allocated(&world, service).await;
        assert_eq!(world.live(name)[0].status.err, expected);
    }
    assert_eq!(addresses_of(&world.live("a")[0]), ["10.0.9.77/24"]);
}

#[tokio::test(start_paused = true)]
async fn a_full_pool_is_told_and_goes_on_when_an_address_is_free() {
    let world = World::with_nodes(0).await;
    world.put(network("small", &["10.0.9.0/29"])).await;
    let mut web = service("web", 5);
    attach(&mut web, "small");
    allocated(&world, web).await;
    let tasks = world.live("web");
    let waiting = &tasks[4];
    assert_eq!(waiting.status.state, TaskState::New);
    assert_eq!(waiting.status.err, "network small: no free address in 10.0.9.0/29 (6 of 6 in use)");
    world.observe(&tasks[1].id, TaskState::Failed).await;
    assert_eq!(world.settle(&Allocator).await, 1);
    let waiting = world.store.view().task(&waiting.id).unwrap().clone();
    assert_eq!((waiting.status.state, waiting.status.err.as_str()), (TaskState::Pending, ""));
    assert_eq!(addresses_of(&waiting), addresses_of(&tasks[1]));
}

#[tokio::test(start_paused = true)]
async fn tasks_wait_for_the_virtual_address_of_their_service() {
    let world = World::with_nodes(0).await;
    world.put(network("tiny", &["10.0.9.0/30"])).await;
    for name in ["a", "b"] {
        let mut service = service(name, 1);
        attach(&mut service, "tiny");
        allocated(&world, service).await;
    }
    assert_eq!(vips(&world, "a"), ["10.0.9.2/30"]);
    assert_eq!(world.live("a")[0].status.err, "network tiny: no free address in 10.0.9.0/30 (2 of 2 in use)");
    let err =
        "network tiny: no free address in 10.0.9.0/30 (2 of 2 in use), for the virtual address of service b";
    assert_eq!(world.live("b")[0].status.err, err);
    world.write(|tx| tx.remove(ServiceId::from("a"))).await;
    world.settle(&Allocator).await;
    assert_eq!(vips(&world, "b"), ["10.0.9.2/30"]);
}

#[tokio::test(start_paused = true)]
async fn virtual_addresses_follow_the_networks_and_the_mode_of_the_service() {
    let world = World::with_nodes(0).await;
    world.put(network("a", &["10.0.1.0/24"])).await;
    world.put(network("b", &["10.0.2.0/24"])).await;
    let mut web = service("web", 0);
    attach(&mut web, "a");
    allocated(&world, web).await;
    assert_eq!(vips(&world, "web"), ["10.0.1.2/24"]);
    let with = |networks: &'static [&str]| {
        move |spec: &mut ServiceSpec| {
            let mut other = service("web", 0);
            networks.iter().for_each(|network| attach(&mut other, network));
            spec.task = other.spec.task.clone();
        }
    };
    world.change_spec("web", with(&["a", "b"])).await;
    world.settle(&Allocator).await;
    assert_eq!(vips(&world, "web"), ["10.0.1.2/24", "10.0.2.2/24"]);
    world.change_spec("web", with(&["b"])).await;
    world.settle(&Allocator).await;
    assert_eq!(vips(&world, "web"), ["10.0.2.2/24"]);
    world.change_spec("web", |spec| spec.endpoint = EndpointMode::DnsRoundRobin).await;
    world.settle(&Allocator).await;
    assert!(vips(&world, "web").is_empty());
}
