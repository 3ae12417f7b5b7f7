//! Subnets of several families and pools, addresses that users choose, and that whatever happens no address or
//! identifier is in use twice or leaked.

use manager::allocator::Allocator;
use manager::orchestrator::{Orchestrator, Reaper};
use proptest::prelude::*;
use proto::model::*;

use crate::support::*;

fn subnets(world: &World, network: &str) -> Vec<String> {
    let view = world.store.view();
    let state = view.network(&network.into()).unwrap().state.clone().expect("the network has its state");
    state.subnets.iter().map(|subnet| subnet.net.to_string()).collect()
}

fn ipv6(name: &str, subnets: &[&str]) -> Network {
    let mut network = network(name, subnets);
    network.spec.ipv6 = true;
    network
}

fn routed(node: &mut Node, routes: &str) {
    let engine = &mut node.description.as_mut().unwrap().engine;
    engine.labels.insert(ROUTES_LABEL.into(), routes.into());
}

/// A service without a virtual address, on the network, that asks for these addresses.
fn asking(name: &str, network: &str, addresses: &[&str]) -> Service {
    let mut service = service(name, 1);
    spec_of(&mut service).endpoint = EndpointMode::DnsRoundRobin;
    attach(&mut service, network);
    task_spec_of(&mut service).networks[0].addresses = addresses.iter().map(ToString::to_string).collect();
    service
}

async fn allocated(world: &World, service: Service) {
    world.put(service).await;
    world.settle(&Orchestrator).await;
    world.settle(&Allocator).await;
}

#[tokio::test(start_paused = true)]
async fn ipv6_comes_from_a_block_of_the_swarms_own_unless_there_is_a_pool() {
    let world = World::with_nodes(0).await;
    for name in ["a", "b"] {
        world.put(ipv6(name, &[])).await;
    }
    world.put(ipv6("named", &["fd00:9::/64"])).await;
    world.settle(&Allocator).await;
    let (a, b) = (subnets(&world, "a"), subnets(&world, "b"));
    assert_eq!((a[0].as_str(), b[0].as_str()), ("10.0.0.0/24", "10.0.1.0/24"));
    let block = a[1].strip_suffix("::/64").expect("the first of its block");
    assert!(block.starts_with("fd") && b[1] == format!("{block}:1::/64"), "{a:?} {b:?}");
    assert_eq!(subnets(&world, "named"), ["10.0.2.0/24", "fd00:9::/64"]);

    let world = World::new();
    let pools = ["fd00:1::/48", "10.8.0.0/16"].map(|pool| pool.parse().unwrap());
    world.put(Cluster { default_address_pools: pools.to_vec(), ..cluster() }).await;
    world.put(ipv6("a", &[])).await;
    world.settle(&Allocator).await;
    assert_eq!(subnets(&world, "a"), ["10.8.0.0/24", "fd00:1::/64"]);
}

#[tokio::test(start_paused = true)]
async fn pools_avoid_what_the_nodes_route_themselves() {
    let world = World::with_nodes(2).await;
    world.change_node("n1", |node| routed(node, "10.0.0.0/23,192.168.77.0/24")).await;
    // A route to the whole pool says nothing of where in it something is; nonsense says nothing at all.
    world.change_node("n2", |node| routed(node, "10.0.2.7/32,10.0.0.0/8,nonsense,fd00::/8")).await;
    world.put(ipv6("a", &[])).await;
    world.put(network("named", &["10.0.0.0/24"])).await;
    world.settle(&Allocator).await;
    assert_eq!(subnets(&world, "a")[0], "10.0.3.0/24");
    assert_eq!(subnets(&world, "named"), ["10.0.0.0/24"], "who names a subnet knows");
}

#[tokio::test(start_paused = true)]
async fn a_pool_used_up_by_routes_says_so_and_serves_again_when_they_go() {
    let world = World::new();
    let pools = vec!["10.0.0.0/24".parse().unwrap()];
    world.put(Cluster { default_address_pools: pools, subnet_size: 25, ..cluster() }).await;
    world.put(node("n1")).await;
    world.change_node("n1", |node| routed(node, "10.0.0.0/25,10.0.0.128/26")).await;
    world.put(network("a", &[])).await;
    allocated(&world, asking("web", "a", &[])).await;
    let err = "network a: no free subnet of size /25 in 10.0.0.0/24, beside what networks and the nodes' own routes use";
    assert_eq!(world.live("web")[0].status.err, err);
    world.change_node("n1", |node| routed(node, "10.0.0.0/25")).await;
    world.settle(&Allocator).await;
    assert_eq!(subnets(&world, "a"), ["10.0.0.128/25"]);
    assert_eq!(addresses_of(&world.live("web")[0]), ["10.0.0.130/25"]);
}

#[tokio::test(start_paused = true)]
async fn tasks_get_one_address_a_family_of_whichever_subnet_has_one_left() {
    let world = World::with_nodes(0).await;
    world.put(ipv6("net", &["10.0.1.0/30", "10.0.2.0/29", "fd00:1::/126", "fd00:2::/64"])).await;
    let mut web = asking("web", "net", &[]);
    spec_of(&mut web).mode = Mode::Replicated { replicas: 3 };
    allocated(&world, web).await;
    let given: Vec<_> = world.live("web").iter().map(|task| addresses_of(task)).collect();
    assert_eq!(
        given,
        [["10.0.1.2/30", "fd00:1::2/126"], ["10.0.2.2/29", "fd00:1::3/126"], ["10.0.2.3/29", "fd00:2::2/64"]]
    );
    world.scale("web", 7).await;
    world.settle(&Orchestrator).await;
    world.settle(&Allocator).await;
    let waiting = world.live("web").last().unwrap().status.err.clone();
    assert_eq!(
        waiting,
        "network net: no free address in 10.0.1.0/30 (2 of 2 in use), 10.0.2.0/29 (6 of 6 in use)"
    );
}

#[tokio::test(start_paused = true)]
async fn a_chosen_address_is_kept_for_its_service_and_is_no_step_of_the_round() {
    let world = World::with_nodes(0).await;
    world.put(network("net", &["10.0.9.0/29"])).await;
    // It has a virtual address, which must not be the one that its own task is to have.
    let mut fixed = asking("fixed", "net", &["10.0.9.2"]);
    spec_of(&mut fixed).endpoint = EndpointMode::Vip;
    allocated(&world, fixed).await;
    assert_eq!(addresses_of(&world.live("fixed")[0]), ["10.0.9.2/29"]);
    // Its task has ended and the next one is still to come: nobody else gets the address.
    world.observe(&world.live("fixed")[0].id, TaskState::Failed).await;
    let mut others = asking("others", "net", &[]);
    spec_of(&mut others).mode = Mode::Replicated { replicas: 4 };
    world.put(others).await;
    world.settle(&Orchestrator).await;
    world.settle(&Allocator).await;
    assert_eq!(addresses_of(&world.live("fixed")[0]), ["10.0.9.2/29"]);
    let given: Vec<_> = world.live("others").iter().flat_map(|task| addresses_of(task)).collect();
    // The service has .3; after it come .4 to .6.
    assert_eq!(given, ["10.0.9.4/29", "10.0.9.5/29", "10.0.9.6/29"]);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_chosen_address_says_who_has_it() {
    let world = World::with_nodes(1).await;
    world.put(network("net", &["10.0.9.0/24"])).await;
    allocated(&world, asking("a", "net", &["10.0.9.7"])).await;
    world.put(asking("b", "net", &["10.0.9.7"])).await;
    world.settle(&Orchestrator).await;
    world.settle(&Allocator).await;
    let holder = world.live("a")[0].annotations.name.clone();
    let told = |world: &World| world.live("b")[0].status.err.clone();
    assert_eq!(told(&world), format!("network net: address 10.0.9.7 is in use by task {holder}"));
    let id = world.live("a")[0].id.clone();
    world
        .change_task(&id, |task| (task.node, task.status.state) = (Some("n1".into()), TaskState::Running))
        .await;
    world.change_node("n1", |node| node.status.state = NodeState::Down).await;
    world.settle(&Allocator).await;
    assert!(told(&world).ends_with("on node n1, which is down"), "{}", told(&world));
}

#[tokio::test(start_paused = true)]
async fn settings_for_other_networks_are_given_nothing() {
    let world = World::with_nodes(0).await;
    let mut base = network("base", &["10.0.9.0/24"]);
    base.spec.driver.name = CONFIG_ONLY_DRIVER.into();
    world.put(base).await;
    let mut net = network("net", &["10.0.9.0/24"]);
    net.spec.config_from = Some("base".into());
    world.put(net).await;
    world.settle(&Allocator).await;
    assert!(world.store.view().network(&"base".into()).unwrap().state.is_none());
    assert_eq!(subnets(&world, "net"), ["10.0.9.0/24"]);
}

/// What happens to a swarm.
#[derive(Clone, Debug)]
enum Event {
    Network { name: u8, named: bool, ipv6: bool },
    Service { name: u8, network: u8, replicas: u64, vip: bool, chosen: Option<u8> },
    Scale { name: u8, replicas: u64 },
    End { task: prop::sample::Index, state: TaskState },
    RemoveService(u8),
    RemoveNetwork(u8),
}

fn event() -> impl Strategy<Value = Event> {
    let network = (0..3u8, any::<bool>(), any::<bool>()).prop_map(|(name, named, ipv6)| Event::Network {
        name,
        named,
        ipv6,
    });
    let service = (0..4u8, 0..3u8, 0..6u64, any::<bool>(), prop::option::weighted(0.3, 1..8u8)).prop_map(
        |(name, network, replicas, vip, chosen)| Event::Service { name, network, replicas, vip, chosen },
    );
    let scale = (0..4u8, 0..9u64).prop_map(|(name, replicas)| Event::Scale { name, replicas });
    let state = prop::sample::select(vec![TaskState::Failed, TaskState::Complete, TaskState::Shutdown]);
    let end = (any::<prop::sample::Index>(), state).prop_map(|(task, state)| Event::End { task, state });
    prop_oneof![
        2 => network, 3 => service, 2 => scale, 4 => end,
        1 => (0..4u8).prop_map(Event::RemoveService),
        1 => (0..3u8).prop_map(Event::RemoveNetwork),
    ]
}

async fn happen(world: &World, event: &Event) {
    let view = world.store.view();
    match event {
        Event::Network { name, named, ipv6: v6 } if view.network(&format!("net{name}").into()).is_none() => {
            let subnets = if *named { vec![format!("10.9.{name}.0/29")] } else { vec![] };
            let subnets: Vec<&str> = subnets.iter().map(String::as_str).collect();
            let id = format!("net{name}");
            world.put(if *v6 { ipv6(&id, &subnets) } else { network(&id, &subnets) }).await;
        }
        Event::Service { name, network, replicas, vip, chosen } => {
            let (name, network) = (format!("svc{name}"), format!("net{network}"));
            if view.service_by_name(&name).is_some() || view.network(&network.as_str().into()).is_none() {
                return;
            }
            let chosen: Vec<String> = chosen.iter().map(|host| format!("10.9.0.{host}")).collect();
            let mut service = asking(&name, &network, &chosen.iter().map(String::as_str).collect::<Vec<_>>());
            let replicas = if chosen.is_empty() { *replicas } else { 1 };
            spec_of(&mut service).mode = Mode::Replicated { replicas };
            if *vip {
                spec_of(&mut service).endpoint = EndpointMode::Vip;
            }
            world.put(service).await;
        }
        Event::Scale { name, replicas } => {
            let name = format!("svc{name}");
            if view.service_by_name(&name).is_some() {
                world.scale(&name, *replicas).await;
            }
        }
        Event::End { task, state } => {
            let live: Vec<_> = view.tasks().filter(|task| !task.status.state.is_terminal()).collect();
            if !live.is_empty() {
                world.observe(&task.get(&live).id, *state).await;
            }
        }
        Event::RemoveService(name) => {
            let id = ServiceId::from(format!("svc{name}"));
            world.write(|tx| tx.remove(&id)).await;
        }
        Event::RemoveNetwork(name) => {
            let id = NetworkId::from(format!("net{name}"));
            let held = |task: &&std::sync::Arc<Task>| !task.status.state.is_terminal();
            let used = view.services_by_network(&id).next().is_some()
                || view.tasks_by_network(&id).any(|t| held(&t));
            if !used {
                world.write(|tx| tx.remove(&id)).await;
            }
        }
        Event::Network { .. } => {}
    }
}

/// Each pass is another leader's: nothing is remembered between them but what the store has.
async fn check(history: Vec<Event>) {
    let world = World::with_nodes(0).await;
    for event in &history {
        happen(&world, event).await;
        world.settle(&Orchestrator).await;
        world.settle(&Allocator).await;
        world.settle(&Reaper).await;
        let flaws = world.store.view().flaws();
        assert!(flaws.is_empty(), "after {event:?}: {flaws:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_in_use_twice_or_leaked(history in prop::collection::vec(event(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(check(history));
    }
}
