//! The main job: a swarm of three machines, an overlay network, and replicas that reach each other.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

use std::collections::BTreeSet;

use e2e::{Host, Lab, PATIENCE, TaskRow, wait};

const NETWORK: &str = "my-multi-host-network";
const PREFIX: &str = "10.0.9.";

fn nodes_of(tasks: &[TaskRow]) -> BTreeSet<&str> {
    tasks.iter().map(|task| task.node.as_str()).collect()
}

/// The one host without a task.
fn idle<'a>(lab: &'a Lab, tasks: &[TaskRow]) -> &'a Host {
    let used = nodes_of(tasks);
    lab.hosts().iter().find(|host| !used.contains(host.name())).unwrap()
}

/// Waits until what is on the host is what was there `before`.
fn wait_no_trace(host: &Host, before: &BTreeSet<String>) {
    wait(&format!("{} to have no trace", host.name()), PATIENCE, || {
        let now = host.footprint();
        let (more, less): (Vec<_>, Vec<_>) =
            (now.difference(before).collect(), before.difference(&now).collect());
        if now == *before { Ok(()) } else { Err(format!("left over: {more:#?}, missing: {less:#?}")) }
    });
}

#[test]
fn the_commands_of_the_readme_make_replicas_that_reach_each_other() {
    let lab = Lab::new("the commands of the readme", 3);
    lab.hosts().iter().for_each(Host::launch);
    lab.hosts().iter().for_each(Host::wait_ready);
    let h1 = lab.host(1);

    let told = h1.ctl(&["swarm", "init", "--advertise-addr", "192.168.77.11"]).ok();
    let join =
        told.lines().map(str::trim).find(|line| line.starts_with("swarmctl swarm join --token SWMTKN-1-"));
    let join: Vec<&str> =
        join.unwrap_or_else(|| panic!("init prints no join command: {told}")).split(' ').collect();
    assert_eq!(join.last(), Some(&"192.168.77.11:2377"), "{told}");
    for host in [lab.host(2), lab.host(3)] {
        host.ctl(&join[1..]).ok();
    }
    h1.wait_nodes(3);
    assert_eq!(h1.node("h1").manager_status, "Leader");
    assert_eq!(h1.node("h2").manager_status, "");

    let network = h1.create_network(NETWORK, "10.0.9.0/24");
    assert!(network.len() == 25 && network.chars().all(|c| c.is_ascii_alphanumeric()), "no id: {network:?}");
    let image = lab.web();
    h1.ctl(&["service", "create", "--replicas", "2", "--network", NETWORK, "--name", "my-web", &image]).ok();

    // The command returns when the service has converged.
    let tasks = h1.running("my-web");
    assert_eq!(tasks.len(), 2, "{tasks:#?}");
    assert_eq!(nodes_of(&tasks).len(), 2, "two tasks, two nodes: {tasks:#?}");

    let [one, two] = [&tasks[0], &tasks[1]];
    assert_ne!(one.address(PREFIX), two.address(PREFIX));
    assert!(lab.enter(one).reaches(two.address(PREFIX)));
    assert!(lab.enter(two).reaches(one.address(PREFIX)));
    let page = lab.enter(one).get(two.address(PREFIX)).ok();
    assert!(
        page.contains("version=1") && page.contains(&format!("client={}", one.address(PREFIX))),
        "{page}"
    );
}

#[test]
fn a_network_exists_only_where_it_has_tasks() {
    let lab = Lab::swarm("a network exists only where it has tasks", 1, 2);
    let h1 = lab.host(1);
    let before: Vec<_> = lab.hosts().iter().map(Host::footprint).collect();
    let nothing_anywhere =
        || lab.hosts().iter().zip(&before).for_each(|(host, before)| wait_no_trace(host, before));

    let network = h1.create_network(NETWORK, "10.0.9.0/24");
    nothing_anywhere();

    let two = h1.create_web(&lab, "my-web", NETWORK, 2);
    let idle = idle(&lab, &two);
    let position = lab.hosts().iter().position(|host| host.name() == idle.name()).unwrap();
    wait_no_trace(idle, &before[position]);
    assert_eq!(idle.files_with(&network), Vec::<String>::new(), "{} knows of the network", idle.name());

    h1.ctl(&["service", "scale", "my-web=3"]).ok();
    let three = h1.wait_running("my-web", 3);
    assert_eq!(nodes_of(&three).len(), 3, "{three:#?}");
    for (from, to) in three.iter().flat_map(|from| three.iter().map(move |to| (from, to))) {
        assert!(lab.enter(from).reaches(to.address(PREFIX)), "{} does not reach {}", from.name, to.name);
    }

    h1.ctl(&["service", "scale", "my-web=0"]).ok();
    h1.wait_running("my-web", 0);
    nothing_anywhere();
    h1.ctl(&["service", "rm", "my-web"]).ok();
    h1.ctl(&["network", "rm", NETWORK]).ok();
    nothing_anywhere();
}

/// Six addresses less the gateway's and the service's leave room for three tasks, so a second and third round
/// only work when the addresses of the round before are free again.
#[test]
fn addresses_are_free_again_when_their_tasks_are_gone() {
    let lab = Lab::swarm("addresses are free again", 1, 1);
    let h1 = lab.host(1);
    h1.create_network("small", "10.0.9.0/29");
    h1.create_web(&lab, "web", "small", 3);
    for _ in 0..2 {
        h1.ctl(&["service", "scale", "web=0"]).ok();
        h1.wait_running("web", 0);
        h1.ctl(&["service", "scale", "web=3"]).ok();
        let tasks = h1.wait_running("web", 3);
        let addresses: BTreeSet<_> = tasks.iter().map(|task| task.address(PREFIX)).collect();
        assert_eq!(addresses.len(), 3, "{tasks:#?}");
    }
}

#[test]
fn tasks_reach_the_outside_except_on_an_internal_network() {
    let lab = Lab::swarm("tasks reach the outside", 1, 1);
    let h1 = lab.host(1);
    h1.create_network("open", "10.0.9.0/24");
    h1.ctl(&["network", "create", "--driver", "overlay", "--subnet", "10.0.10.0/24", "--internal", "closed"])
        .ok();

    let open = h1.create_web(&lab, "open-web", "open", 2);
    for task in &open {
        assert!(
            lab.enter(task).get("192.168.77.1:5000").succeeded(),
            "{} does not reach the outside",
            task.name
        );
    }
    let closed = h1.create_web(&lab, "closed-web", "closed", 2);
    for task in &closed {
        assert!(!lab.enter(task).reaches("192.168.77.1"), "{} reaches the outside", task.name);
    }
    assert!(lab.enter(&closed[0]).reaches(closed[1].address("10.0.10.")));
    assert!(!lab.enter(&open[0]).reaches(closed[0].address("10.0.10.")), "networks reach each other");
}

#[test]
fn large_packets_pass_between_hosts() {
    let lab = Lab::swarm("large packets pass", 1, 1);
    let h1 = lab.host(1);
    h1.create_network(NETWORK, "10.0.9.0/24");
    let tasks = h1.create_web(&lab, "web", NETWORK, 2);
    let (inside, to) = (lab.enter(&tasks[0]), tasks[1].address(PREFIX).to_string());

    // 1500 less 50 for VXLAN; a ping adds 28 bytes of headers (RFC 7348, RFC 791, RFC 792).
    let device = inside.net("ip", &["-o", "link"]).ok();
    assert!(device.contains("mtu 1450"), "{device}");
    inside.net("ping", &["-n", "-c1", "-W2", "-M", "do", "-s", "1422", &to]).ok();
    assert!(!inside.net("ping", &["-n", "-c1", "-W2", "-M", "do", "-s", "1423", &to]).succeeded());
}

#[test]
fn network_inspect_has_the_shape_of_dockers() {
    let lab = Lab::swarm("network inspect has the shape of dockers", 1, 1);
    let h1 = lab.host(1);
    let id = h1.create_network(NETWORK, "10.0.9.0/24");
    let tasks = h1.create_web(&lab, "my-web", NETWORK, 2);

    let shown = h1.inspect("network", &id[..10]);
    for (pointer, value) in [
        ("/Name", serde_json::json!(NETWORK)),
        ("/Id", serde_json::json!(id)),
        ("/Scope", serde_json::json!("swarm")),
        ("/Driver", serde_json::json!("overlay")),
        ("/IPAM/Config/0/Subnet", serde_json::json!("10.0.9.0/24")),
        ("/IPAM/Config/0/Gateway", serde_json::json!("10.0.9.1")),
        ("/Internal", serde_json::json!(false)),
        ("/Attachable", serde_json::json!(false)),
    ] {
        assert_eq!(shown.pointer(pointer), Some(&value), "{pointer} of {shown:#}");
    }
    assert!(
        shown["Created"].is_string() && shown["Options"].is_object() && shown["Labels"].is_object(),
        "{shown:#}"
    );

    let peers: BTreeSet<_> =
        shown["Peers"].as_array().unwrap().iter().map(|peer| peer["IP"].as_str().unwrap()).collect();
    assert_eq!(peers, BTreeSet::from(["192.168.77.11", "192.168.77.12"]));
    let containers = shown["Containers"].as_object().unwrap();
    assert!(!containers.is_empty(), "{shown:#}");
    for container in containers.values() {
        assert!(container["EndpointID"].is_string() && container["MacAddress"].is_string(), "{container:#}");
        let address = container["IPv4Address"].as_str().unwrap();
        let known = tasks.iter().any(|task| address == format!("{}/24", task.address(PREFIX)));
        assert!(known, "{address} is of no task: {tasks:#?}");
    }
}
