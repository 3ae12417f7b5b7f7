//! Subnets, addresses and tunnels of one's own choice.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

use std::net::IpAddr;

use e2e::{Host, Inside, Lab, PATIENCE, TaskRow, wait};
use serde_json::{Value, json};

/// The addresses of a task, of both families.
fn addresses(manager: &Host, task: &TaskRow) -> Vec<IpAddr> {
    let shown = manager.inspect("task", &task.id);
    let attachments = shown["NetworksAttachments"].as_array().unwrap().clone();
    let all = attachments.iter().flat_map(|attachment| attachment["Addresses"].as_array().unwrap().clone());
    all.map(|address| address.as_str().unwrap().split('/').next().unwrap().parse().unwrap()).collect()
}

fn of(addresses: &[IpAddr], v4: bool) -> IpAddr {
    *addresses.iter().find(|address| address.is_ipv4() == v4).unwrap_or_else(|| panic!("{addresses:?}"))
}

fn create_network(manager: &Host, arguments: &[&str]) {
    manager.ctl(&[&["network", "create", "--driver", "overlay"], arguments].concat()).ok();
}

/// Creates a service without a virtual address, so that its tasks have the first addresses.
fn create(lab: &Lab, name: &str, replicas: usize, more: &[&str]) -> Vec<TaskRow> {
    let (image, count) = (lab.web(), replicas.to_string());
    let plain = ["service", "create", "--endpoint-mode", "dnsrr", "--replicas", &count, "--name", name];
    lab.host(1).ctl(&[&plain[..], more, &[&image]].concat()).ok();
    lab.host(1).wait_running(name, replicas)
}

fn usage(manager: &Host, network: &str, subnet: &str) -> (u64, u64) {
    let shown = &manager.inspect("network", network)["Status"]["IPAM"]["Subnets"][subnet];
    let number =
        |member: &str| shown[member].as_u64().unwrap_or_else(|| panic!("no {member} of {subnet}: {shown}"));
    (number("IPsInUse"), number("DynamicIPsAvailable"))
}

fn mtu(task: Inside) -> String {
    let link = task.net("ip", &["-o", "link", "show", "eth0"]).ok();
    link.split("mtu ").nth(1).unwrap().split(' ').next().unwrap().to_owned()
}

/// What the node's VXLAN device of its one network is told of tunnels.
fn tunnel(host: &Host) -> String {
    let netns = host
        .namespaces()
        .into_iter()
        .find(|path| path.file_name().unwrap().to_string_lossy().starts_with("n-"));
    let netns = netns.unwrap_or_else(|| panic!("{} has no network", host.name()));
    host.sh(&format!("nsenter --net={} ip -d link show vx0", netns.display())).ok()
}

#[test]
fn tasks_on_two_hosts_reach_each_other_by_ipv4_and_ipv6() {
    let lab = Lab::swarm("ipv4 and ipv6", 1, 1);
    let h1 = lab.host(1);
    create_network(h1, &["--ipv6", "net"]);
    let tasks = h1.create_web(&lab, "web", "net", 2);
    let shown = h1.inspect("network", "net");
    let subnet = shown["IPAM"]["Config"][1]["Subnet"].as_str().unwrap().to_owned();
    assert!(subnet.starts_with("fd") && subnet.ends_with("/64"), "{shown:#}");
    assert_eq!(shown["EnableIPv6"], true);

    let [one, two] = [0, 1].map(|n| addresses(h1, &tasks[n]));
    let (from, back) = (lab.enter(&tasks[0]), lab.enter(&tasks[1]));
    for v4 in [true, false] {
        assert!(from.reaches(of(&two, v4)) && back.reaches(of(&one, v4)), "{two:?} from {one:?}");
    }
    // Its network, broadcast, gateway and service addresses, and two tasks.
    let v4 = shown["IPAM"]["Config"][0]["Subnet"].as_str().unwrap();
    assert_eq!(usage(h1, "net", v4), (6, 250));
    assert_eq!(usage(h1, "net", &subnet).0, 5);

    // Another network, another subnet of the swarm's own block.
    create_network(h1, &["--ipv6", "other"]);
    wait("the other network to have its subnets", PATIENCE, || {
        let other = h1.inspect("network", "other")["IPAM"]["Config"][1]["Subnet"].clone();
        let block = subnet.strip_suffix("::/64").unwrap_or_default();
        if other == json!(format!("{block}:1::/64")) { Ok(()) } else { Err(other) }
    });
}

#[test]
fn a_swarm_runs_over_ipv6_alone() {
    let lab = Lab::new("a swarm over ipv6", 3);
    for (number, host) in (11..).zip(lab.hosts()) {
        // Between the hosts nothing passes over IPv4; the registry is no host.
        host.sh(&format!(
            "ip address add fd77::{number}/64 dev eth0 nodad
             nft add table inet only6
             nft add chain inet only6 in '{{ type filter hook input priority 0; policy accept; }}'
             nft add rule inet only6 in iifname eth0 ip saddr 192.168.77.10-192.168.77.99 drop"
        ))
        .ok();
        host.launch();
    }
    lab.hosts().iter().for_each(Host::wait_ready);
    let [h1, h2, h3] = [1, 2, 3].map(|number| lab.host(number));
    let told = h1.ctl(&["swarm", "init", "--advertise-addr", "fd77::11"]).ok();
    let join =
        told.lines().map(str::trim).find(|line| line.starts_with("swarmctl swarm join")).unwrap().to_owned();
    let join: Vec<&str> = join.split(' ').skip(1).collect();
    assert_eq!(join.last(), Some(&"[fd77::11]:2377"), "{told}");
    h2.ctl(&join).ok();
    h3.ctl(&["swarm", "join", "--token", &h1.token("manager"), "fd77::11"]).ok();
    h1.wait_nodes(3);
    assert_eq!(h1.ctl_json(&["info"])[0]["Swarm"]["NodeAddr"], json!("fd77::11"));
    assert_eq!(h1.inspect("node", "h2")["Status"]["Addr"], json!("fd77::12"));
    // A command at the other manager goes to the leader over IPv6 too.
    create_network(h3, &["--subnet", "10.0.9.0/24", "--subnet", "fd00:9::/64", "net"]);
    let tasks = h1.create_web(&lab, "web", "net", 3);

    let from = lab.enter(&tasks[0]);
    for other in &tasks[1..] {
        for address in addresses(h1, other) {
            assert!(from.reaches(address), "{address} of {other:?}");
        }
    }
    assert_eq!(mtu(from), "1430", "70 bytes less than the underlay");
    let device = tunnel(h2);
    assert!(device.contains("local fd77::12"), "{device}");
    let peers = h1.inspect("network", "net")["Peers"].clone();
    let mut peers: Vec<&str> =
        peers.as_array().unwrap().iter().map(|peer| peer["IP"].as_str().unwrap()).collect();
    peers.sort_unstable();
    assert_eq!(peers, ["fd77::11", "fd77::12", "fd77::13"]);
}

#[test]
fn tunnels_take_the_address_and_the_port_that_they_are_told() {
    let lab = Lab::new("tunnels take another way", 2);
    lab.second_network();
    for host in lab.hosts() {
        host.sh("nft add table inet way
             nft add chain inet way in '{ type filter hook input priority 0; policy accept; }'
             nft add rule inet way in iifname eth0 meta l4proto udp drop")
            .ok();
        host.launch();
    }
    lab.hosts().iter().for_each(Host::wait_ready);
    let (h1, h2) = (lab.host(1), lab.host(2));
    h1.init(&["--data-path-addr", "eth1", "--data-path-port", "7789"]);
    let (token, addr) = (h1.token("worker"), "192.168.77.11:2377");
    h2.ctl(&["swarm", "join", "--token", &token, "--data-path-addr", "192.168.88.12", addr]).ok();
    h1.wait_nodes(2);

    h1.create_network("net", "10.0.9.0/24");
    let tasks = h1.create_web(&lab, "web", "net", 2);
    assert!(lab.enter(&tasks[0]).reaches(tasks[1].address("10.0.9.")));
    let device = tunnel(h2);
    assert!(device.contains("local 192.168.88.12") && device.contains("dstport 7789"), "{device}");
    // The restart of a daemon changes nothing of that.
    h2.kill();
    h2.start();
    h1.wait_status("h2", "Ready", PATIENCE);
    assert!(lab.enter(&tasks[0]).reaches(tasks[1].address("10.0.9.")));
    let labels = h1.inspect("node", "h2")["Description"]["Engine"]["Labels"].clone();
    assert_eq!(labels["swarm.data-path-addr"], json!("192.168.88.12"), "{labels}");
}

#[test]
fn settings_of_a_network_are_taken_over_and_hold() {
    let lab = Lab::swarm("settings of a network", 1, 1);
    let h1 = lab.host(1);
    let base = [
        ["--subnet", "10.0.9.0/24"],
        ["--gateway", "10.0.9.254"],
        ["--ip-range", "10.0.9.0/29"],
        ["--aux-address", "router=10.0.9.3"],
        ["--opt", "com.docker.network.driver.mtu=1300"],
        ["--label", "tier=back"],
    ]
    .concat();
    create_network(h1, &[&["--config-only"], &base[..], &["base"]].concat());
    create_network(h1, &["--config-from", "base", "--internal", "--attachable", "--scope", "swarm", "net"]);
    let tasks = create(&lab, "web", 5, &["--network", "net"]);

    let mut given: Vec<_> = tasks.iter().map(|task| task.address("10.0.9.")).collect();
    given.sort_unstable();
    // Neither the network's own, nor the reserved one, nor any outside of the range.
    assert_eq!(given.iter().map(|address| address.octets()[3]).collect::<Vec<_>>(), [1, 2, 4, 5, 6]);
    assert_eq!(usage(h1, "net", "10.0.9.0/24"), (9, 1));
    let task = lab.enter(&tasks[0]);
    assert_eq!(mtu(task), "1300");
    assert!(tasks[1..].iter().all(|other| task.reaches(other.address("10.0.9."))));
    assert!(
        task.net("ip", &["route", "show", "default"]).ok().is_empty(),
        "an internal network has no way out"
    );

    let shown = h1.inspect("network", "net");
    for (pointer, expected) in [
        ("/ConfigFrom/Network", json!("base")),
        ("/ConfigOnly", json!(false)),
        ("/Internal", json!(true)),
        ("/Attachable", json!(true)),
        ("/Labels/tier", json!("back")),
        ("/IPAM/Config/0/Gateway", json!("10.0.9.254")),
        ("/IPAM/Config/0/IPRange", json!("10.0.9.0/29")),
        ("/IPAM/Config/0/AuxiliaryAddresses/router", json!("10.0.9.3")),
    ] {
        assert_eq!(shown.pointer(pointer), Some(&expected), "{pointer} of {shown:#}");
    }
    let source = h1.inspect("network", "base");
    assert_eq!((&source["ConfigOnly"], &source["Driver"]), (&json!(true), &json!("null")));
    let refused = h1.ctl(&["network", "rm", "base"]).refused();
    assert!(refused.contains("base") && refused.contains("net"), "{refused}");
}

#[test]
fn the_subnets_of_a_network_are_one_network() {
    let lab = Lab::swarm("several subnets", 1, 1);
    let h1 = lab.host(1);
    let subnets = ["--subnet", "10.0.1.0/30", "--subnet", "10.0.2.0/24", "--gateway", "10.0.2.9", "--opt"];
    let vni = "com.docker.network.driver.overlay.vxlanid_list=5001";
    create_network(h1, &[&subnets[..], &[vni, "net"]].concat());
    let tasks = create(&lab, "web", 3, &["--network", "net"]);
    let mut given: Vec<String> = tasks.iter().map(|task| task.addresses[0].to_string()).collect();
    given.sort_unstable();
    assert_eq!(given, ["10.0.1.2", "10.0.2.1", "10.0.2.2"], "the second when the first is full");
    for (from, to) in tasks.iter().flat_map(|from| tasks.iter().map(move |to| (from, to))) {
        assert!(lab.enter(from).reaches(to.addresses[0]), "{from:?} to {to:?}");
    }
    for gateway in ["10.0.1.1", "10.0.2.9"] {
        assert!(lab.enter(&tasks[0]).reaches(gateway), "{gateway}");
    }
    assert!(tunnel(lab.host(2)).contains("vxlan id 5001"));
    assert_eq!(usage(h1, "net", "10.0.1.0/30"), (4, 0));
}

#[test]
fn a_service_of_one_replica_has_the_addresses_that_it_asks_for() {
    let lab = Lab::swarm("a chosen address", 1, 1);
    let h1 = lab.host(1);
    create_network(h1, &["--subnet", "10.0.9.0/24", "--subnet", "fd00:9::/64", "net"]);
    let network = "name=net,ip=10.0.9.2,ip6=fd00:9::77,alias=db";
    let create =
        ["service", "create", "--restart-delay", "0s", "--network", network, "--name", "db", &lab.web()];
    // Its virtual address comes first and must not be the one that its task is to have.
    h1.ctl(&create).ok();
    let expected: Vec<IpAddr> = vec!["10.0.9.2".parse().unwrap(), "fd00:9::77".parse().unwrap()];
    let first = h1.wait_running("db", 1).remove(0);
    assert_eq!(addresses(h1, &first), expected);
    let shown = lab.enter(&first).net("ip", &["-o", "address", "show", "eth0"]).ok();
    assert!(shown.contains("10.0.9.2/24") && shown.contains("fd00:9::77/64"), "{shown}");
    let config = h1.inspect("service", "db")["Spec"]["TaskTemplate"]["Networks"][0].clone();
    assert_eq!(config["Aliases"][0], json!("db"));

    // An update, and a program that ends by itself: the next task has the same addresses.
    h1.ctl(&["service", "update", "--env-add", "A=1", "db"]).ok();
    let second = h1.wait_running("db", 1).remove(0);
    assert_ne!(second.id, first.id);
    assert_eq!(addresses(h1, &second), expected);
    h1.sh(&format!("kill -KILL {}", lab.enter(&second).pid)).ok();
    let third = h1.wait_tasks("another task", PATIENCE, "db", |tasks| {
        tasks.iter().find(|task| task.running() && task.id != second.id).cloned()
    });
    assert_eq!(addresses(h1, &third), expected);

    // Others reach it there, and get neither.
    let others = h1.create_web(&lab, "web", "net", 2);
    let task = lab.enter(&others[0]);
    assert!(expected.iter().all(|address| task.reaches(*address)));
    for (arguments, says) in [
        (&["service", "scale", "db=2"][..], "10.0.9.2"),
        (&["service", "update", "--update-order", "start-first", "db"], "start-first"),
        (&["service", "create", "--name", "x", "--network", "name=net,ip=10.0.9.2", "nginx"], "db"),
        (&["service", "create", "--name", "x", "--network", "name=net,ip=10.0.8.2", "nginx"], "10.0.8.2"),
    ] {
        let refused = h1.ctl(arguments).refused();
        assert!(refused.contains(says), "{refused}");
    }
}

#[test]
fn pools_are_the_swarms_own_and_avoid_the_nodes_routes() {
    let lab = Lab::new("pools of the swarm", 2);
    lab.host(2).sh("ip route add 192.168.78.0/24 via 192.168.77.1").ok();
    lab.hosts().iter().for_each(Host::start);
    let (h1, h2) = (lab.host(1), lab.host(2));
    h1.init(&["--default-addr-pool", "192.168.76.0/22", "--default-addr-pool-mask-length", "24"]);
    h2.join(&h1.token("worker"), h1).ok();
    h1.wait_nodes(2);
    let labels = h1.inspect("node", "h2")["Description"]["Engine"]["Labels"].clone();
    let routes = labels["swarm.routes"].as_str().unwrap_or_default();
    assert!(routes.contains("192.168.78.0/24") && routes.contains("192.168.77.0/24"), "{labels}");

    let subnet = |name: &str| -> Value {
        create_network(h1, &[name]);
        let task = h1.create_web(&lab, &format!("on-{name}"), name, 1);
        assert!(task[0].running());
        h1.inspect("network", name)["IPAM"]["Config"][0]["Subnet"].clone()
    };
    assert_eq!([subnet("a"), subnet("b")], [json!("192.168.76.0/24"), json!("192.168.79.0/24")]);
    // The pool is used up: the tasks say so.
    create_network(h1, &["c"]);
    let image = lab.web();
    h1.ctl(&["service", "create", "--detach", "--network", "c", "--name", "waits", &image]).ok();
    let error = h1.wait_tasks("a task that says why it waits", PATIENCE, "waits", |tasks| {
        tasks.iter().map(|task| task.error.clone()).find(|error| !error.is_empty())
    });
    assert!(error.contains("192.168.76.0/22") && error.contains("network c"), "{error}");
}

#[test]
fn another_leader_goes_on_where_the_last_one_was() {
    let lab = Lab::swarm("another leader goes on", 3, 0);
    let h1 = lab.host(1);
    h1.create_network("net", "10.0.9.0/28");
    // On h1, which dies, a task would wait, and be given up for another one when that is noticed.
    let brief = ["--network", "net", "--update-monitor", "0s", "--stop-grace-period", "1s"];
    let brief = [&brief[..], &["--constraint", "node.hostname!=h1"]].concat();
    let mut seen = vec![create(&lab, "web", 1, &brief)[0].address("10.0.9.")];
    let mut next = |asked: &Host| {
        asked.ctl(&["service", "update", "--force", "web"]).ok();
        seen.push(asked.wait_running("web", 1)[0].address("10.0.9."));
    };
    next(h1);
    next(h1);
    h1.kill();
    let h2 = lab.host(2);
    wait("another leader", PATIENCE, || {
        let nodes = h2.ctl(&["node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}"]);
        let led = nodes.stdout.lines().any(|line| line.ends_with("Leader") && !line.starts_with("h1 "));
        if led { Ok(()) } else { Err(nodes) }
    });
    next(h2);
    h1.start();
    h2.wait_nodes(3);
    next(h2);
    // Each released address is followed by the one behind the last, whoever leads.
    assert_eq!(seen.iter().map(|address| address.octets()[3]).collect::<Vec<_>>(), [2, 3, 4, 5, 6]);
}
