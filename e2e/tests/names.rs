//! Names inside tasks: who finds whom, from when and until when.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use e2e::{Host, Inside, Lab, NameServer, PATIENCE, TaskRow, wait};

const FRONT: &str = "10.0.9.";
/// RFC 1035 section 4.1.1.
const NO_SUCH_NAME: u16 = 3;

fn on<'a>(tasks: &'a [TaskRow], host: &str) -> &'a TaskRow {
    tasks.iter().find(|task| task.node == host).unwrap_or_else(|| panic!("no task on {host}: {tasks:#?}"))
}

fn addresses(tasks: &[TaskRow]) -> Vec<String> {
    let mut addresses: Vec<_> = tasks.iter().map(|task| task.address(FRONT).to_string()).collect();
    addresses.sort();
    addresses
}

/// A service that does nothing, with one task on each host.
fn create(host: &Host, image: &str, name: &str, arguments: &[&str]) -> Vec<TaskRow> {
    let create = ["service", "create", "--mode", "global", "--name", name];
    host.ctl(&[&create[..], arguments, &[image, "sleep", "100000"]].concat()).ok();
    host.running(name)
}

/// Waits until `tasks.web` is exactly the addresses of these tasks, as seen by the client.
#[track_caller]
fn wait_web(client: Inside, tasks: &[TaskRow]) {
    let expected = addresses(tasks);
    let seen = client.wait_lookup("tasks.web", PATIENCE, "tasks.web.", |answer| answer.records == expected);
    assert_eq!(seen.code, 0);
}

#[test]
fn tasks_find_each_other_by_every_name_across_hosts() {
    let lab = Lab::swarm("tasks find each other by every name", 1, 2);
    let (h1, image) = (lab.host(1), lab.web());
    for (network, subnet) in [("front", "10.0.9.0/24"), ("back", "10.0.10.0/24")] {
        let create = ["network", "create", "--driver", "overlay", "--internal", "--subnet", subnet, network];
        h1.ctl(&create).ok();
    }
    let more =
        ["--network", "name=front,alias=shop", "--hostname", "{{.Service.Name}}-on-{{.Node.Hostname}}"];
    let create = ["service", "create", "--replicas", "3", "--name", "web"];
    h1.ctl(&[&create[..], &more, &[&image]].concat()).ok();
    let web = h1.running("web");
    let clients = create_client(h1, &image);
    create_hidden(h1, &image);

    let virtual_ip = h1.inspect("service", "web");
    let virtual_ip = virtual_ip.pointer("/Endpoint/VirtualIPs/0/Addr").unwrap().as_str().unwrap();
    let virtual_ip = virtual_ip.split('/').next().unwrap();
    for host in ["h1", "h2", "h3"] {
        let client = lab.enter(on(&clients, host));
        wait_web(client, &web);
        for name in ["web.", "WEB.", "shop.", "web.front."] {
            assert_eq!(client.lookup(name).records, [virtual_ip], "{name} on {host}");
        }
        assert_eq!(client.lookup("tasks.shop.").records, addresses(&web));
        for task in &web {
            let address = task.address(FRONT);
            let full = client.name_of(address).records[0].clone();
            assert!(full.ends_with(&format!("{}.front.", task.id)), "{full}");
            let hostname = format!("web-on-{}.", task.node);
            for name in [&full, &full.replace(".front.", "."), &format!("{}.", &task.id[..12]), &hostname] {
                assert_eq!(client.lookup(name).records, [address.to_string()], "{name} on {host}");
            }
        }
        // Known to the swarm, but not on a network of this task; and nobody outside is asked.
        for name in ["hidden.", "tasks.hidden.", "nobody.", "example.com."] {
            assert_eq!(client.lookup(name).code, NO_SUCH_NAME, "{name} on {host}");
        }
        // With the image's own resolver, from its own files.
        assert!(client.get("tasks.web").ok().contains("version=1"));
    }

    let client = lab.enter(on(&clients, "h2"));
    for replicas in [5, 2] {
        h1.ctl(&["service", "scale", &format!("web={replicas}")]).ok();
        wait_web(client, &h1.wait_running("web", replicas));
    }
    h1.ctl(&["service", "rm", "web"]).ok();
    client.wait_lookup("web to be unknown", PATIENCE, "web.", |answer| answer.code == NO_SUCH_NAME);
}

fn create_client(host: &Host, image: &str) -> Vec<TaskRow> {
    create(host, image, "client", &["--network", "front"])
}

fn create_hidden(host: &Host, image: &str) {
    create(host, image, "hidden", &["--network", "back"]);
}

#[test]
fn what_is_gone_is_told_no_more() {
    let lab = Lab::swarm("what is gone is told no more", 1, 2);
    let (h1, image) = (lab.host(1), lab.web());
    h1.create_network("front", "10.0.9.0/24");
    let web = h1.create_web(&lab, "web", "front", 3);
    let clients = create_client(h1, &image);
    let client = lab.enter(on(&clients, "h1"));
    wait_web(client, &web);

    // A task that dies: its address is gone long before there is another.
    let victim = on(&web, "h2");
    let address = victim.address(FRONT).to_string();
    let pid = lab.enter(victim).pid.to_string();
    lab.host(2).sh(&format!("kill -9 {pid}")).ok();
    let died = Instant::now();
    let gone = |answer: &e2e::Answer| !answer.records.contains(&address);
    client.wait_lookup("the address of a dead task to go", PATIENCE, "tasks.web.", gone);
    assert!(died.elapsed() < Duration::from_secs(5), "told for {:?}", died.elapsed());
    let again = h1.wait_running_without(victim, "web", 3);
    wait_web(client, &again);

    // A node that dies takes its tasks out of the answers as soon as the managers know.
    let address = on(&again, "h3").address(FRONT).to_string();
    lab.host(3).power_off();
    h1.wait_status("h3", "Down", PATIENCE);
    let gone = |answer: &e2e::Answer| !answer.records.contains(&address);
    client.wait_lookup("the address on a dead node to go", Duration::from_secs(3), "tasks.web.", gone);
}

#[test]
fn a_restart_of_swarmd_costs_no_answer_and_port_53_is_the_applications() {
    let lab = Lab::swarm("a restart of swarmd costs no answer", 1, 1);
    let (h1, image) = (lab.host(1), lab.web());
    h1.create_network("front", "10.0.9.0/24");
    let web = h1.create_web(&lab, "web", "front", 2);
    let client = lab.enter(on(&create_client(h1, &image), "h2"));
    wait_web(client, &web);
    let application = NameServer::start(client, Ipv4Addr::new(192, 0, 2, 1));

    for restart in 0..3 {
        lab.host(2).kill();
        lab.host(2).launch();
        // Asked while nobody listens, or nobody knows yet.
        let answer = client.lookup("tasks.web.");
        assert_eq!((answer.code, answer.records), (0, addresses(&web)), "restart {restart}");
        lab.host(2).wait_ready();
    }
    h1.ctl(&["service", "scale", "web=3"]).ok();
    wait_web(client, &h1.wait_running("web", 3));
    drop(application);
}

#[test]
fn other_names_are_asked_where_the_service_says() {
    let lab = Lab::swarm("other names are asked where the service says", 1, 1);
    let (h1, image) = (lab.host(1), lab.web());
    h1.create_network("front", "10.0.9.0/24");
    // A name server that is a task itself, on the other host.
    let servers = create(h1, &image, "ns", &["--network", "front"]);
    let server = on(&servers, "h2");
    let _serving = NameServer::start(lab.enter(server), Ipv4Addr::new(192, 0, 2, 7));
    let address = server.address(FRONT).to_string();
    let asked = [
        ["--network", "front"],
        ["--dns", &address],
        ["--dns-search", "example.com"],
        ["--dns-option", "timeout:3"],
        ["--hostname", "box"],
        ["--host", "db:192.0.2.9"],
    ];
    let client = lab.enter(on(&create(h1, &image, "client", &asked.concat()), "h1"));
    let conf = "nameserver 127.0.0.11\nsearch example.com\noptions timeout:3 ndots:0";
    assert_eq!(client.sh("cat /etc/resolv.conf").ok(), conf);
    let hosts = client.sh("cat /etc/hosts").ok();
    assert!(hosts.contains("192.0.2.9\tdb") && hosts.contains(FRONT) && hosts.contains("\tbox"), "{hosts}");
    assert_eq!(client.sh("hostname").ok(), "box");
    assert_eq!(client.lookup("example.com.").records, ["192.0.2.7"]);
    assert_eq!(client.lookup("tasks.ns.").records.len(), 2, "names of the swarm are not asked there");

    let change = [
        ["--dns-rm", &address],
        ["--dns-search-rm", "example.com"],
        ["--dns-search-add", "."],
        ["--dns-option-rm", "timeout:3"],
        ["--host-rm", "db:192.0.2.9"],
        ["--host-add", "cache:192.0.2.8"],
    ];
    h1.ctl(&[&["service", "update"], &change.concat()[..], &["client"]].concat()).ok();
    let changed = wait("the tasks to be replaced", PATIENCE, || {
        let tasks = h1.running("client");
        let inside = tasks.iter().find(|task| task.node == "h1").map(|task| lab.enter(task));
        inside.filter(|inside| *inside != client).ok_or_else(|| format!("{tasks:#?}"))
    });
    let conf = changed.sh("cat /etc/resolv.conf").ok();
    assert!(conf.starts_with("nameserver 127.0.0.11\n") && !conf.contains("search"), "{conf}");
    let hosts = changed.sh("cat /etc/hosts").ok();
    assert!(hosts.contains("192.0.2.8\tcache") && !hosts.contains("\tdb"), "{hosts}");
}

#[test]
fn a_service_without_an_address_is_found_at_its_tasks() {
    let lab = Lab::swarm("a service without an address", 1, 2);
    let (h1, image) = (lab.host(1), lab.web());
    h1.create_network("front", "10.0.9.0/24");
    let create = ["service", "create", "--endpoint-mode", "dnsrr", "--replicas", "3", "--network", "front"];
    let restart = ["--restart-delay", "0s", "--name", "web"];
    h1.ctl(&[&create[..], &restart, &[&image]].concat()).ok();
    let web = h1.running("web");
    let shown = h1.inspect("service", "web");
    assert!(shown.pointer("/Endpoint/VirtualIPs/0").is_none(), "{shown:#}");
    let clients = create_client(h1, &image);
    let clients = ["h1", "h2", "h3"].map(|host| lab.enter(on(&clients, host)));

    // Each of them first now and then, so that callers who take the first are spread.
    for client in clients {
        wait_web(client, &web);
        let answers: Vec<_> = (0..60).map(|_| client.lookup("web.")).collect();
        assert!(answers.iter().all(|answer| answer.records == addresses(&web)), "{answers:?}");
        let first: BTreeSet<_> = answers.iter().map(|answer| answer.in_order[0].clone()).collect();
        assert_eq!(first.into_iter().collect::<Vec<_>>(), addresses(&web));
        assert!(client.get("web").ok().contains("version=1"));
    }

    for replicas in [5, 2] {
        h1.ctl(&["service", "scale", &format!("web={replicas}")]).ok();
        let expected = addresses(&h1.wait_running("web", replicas));
        for client in clients {
            client.wait_lookup("the name to follow", PATIENCE, "web.", |answer| answer.records == expected);
        }
    }
    let web = h1.running("web");
    let (victim, gone) = (lab.enter(&web[0]), web[0].address(FRONT).to_string());
    h1.sh(&format!("kill -9 {}", victim.pid)).ok();
    for client in clients {
        client.wait_lookup("a dead task to be told no more", PATIENCE, "web.", |answer| {
            !answer.records.contains(&gone)
        });
    }
    let again = addresses(&h1.wait_running_without(&web[0], "web", 2));
    assert!(!again.contains(&gone), "released addresses are used last");
    for client in clients {
        client.wait_lookup("the task in its place", PATIENCE, "web.", |answer| answer.records == again);
    }
    // An address is what a service may get later.
    h1.ctl(&["service", "update", "--endpoint-mode", "vip", "web"]).ok();
    let shown = h1.inspect("service", "web");
    let address = shown.pointer("/Endpoint/VirtualIPs/0/Addr").and_then(|addr| addr.as_str()).unwrap();
    let address = address.split('/').next().unwrap().to_owned();
    for client in clients {
        client.wait_lookup("its address", PATIENCE, "web.", |answer| answer.records == [address.as_str()]);
        assert!(client.get("web").ok().contains("version=1"));
    }
}

#[test]
fn a_long_answer_is_told_over_tcp() {
    let lab = Lab::swarm("a long answer is told over tcp", 1, 0);
    let (h1, image) = (lab.host(1), lab.web());
    h1.create_network("front", "10.0.9.0/24");
    let create = ["service", "create", "--replicas", "32", "--endpoint-mode", "dnsrr", "--network", "front"];
    h1.ctl(&[&create[..], &["--name", "many", &image, "sleep", "100000"]].concat()).ok();
    let tasks = h1.wait_running("many", 32);
    let client = lab.enter(&tasks[0]);
    let all = addresses(&tasks);
    wait("all to be told", PATIENCE, || {
        let told = client.lookup_tcp("many.");
        if told.records == all { Ok(()) } else { Err(format!("{told:?}")) }
    });
    // 512 bytes hold 29 addresses, RFC 1035 section 4.2.1.
    let short = client.lookup("many.");
    assert!(short.truncated && (20..30).contains(&short.records.len()), "{short:?}");
    // The image's own resolver finds its way.
    assert!(client.sh("nslookup many 127.0.0.11").succeeded());
}
