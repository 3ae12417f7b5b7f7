//! A service's own address: who answers there, what a rolling update costs, and what becomes of a node that is lost.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use e2e::{Host, Inside, Lab, Load, PATIENCE, TaskRow, wait};

const PREFIX: &str = "10.0.9.";
/// Short, so that the stories are; what they show are multiples of it.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// The virtual address of a service.
fn vip(host: &Host, service: &str) -> IpAddr {
    let shown = host.inspect("service", service);
    let address = shown.pointer("/Endpoint/VirtualIPs/0/Addr").and_then(|address| address.as_str());
    let address = address.unwrap_or_else(|| panic!("{service} has no virtual address: {shown:#}"));
    address.split('/').next().unwrap().parse().unwrap()
}

/// The host name with which a task's web server answers: the beginning of its id.
fn hostname(task: &TaskRow) -> String {
    task.id[..12].to_owned()
}

/// Who answers at `to`, asked so many times from inside a task.
fn answering(from: Inside, to: IpAddr, times: usize) -> BTreeSet<String> {
    let answers = (0..times).map(|_| from.get(to).ok());
    answers.map(|answer| answer.split(['=', ' ']).nth(1).unwrap().to_owned()).collect()
}

fn wait_answering(from: Inside, to: IpAddr, tasks: &[TaskRow]) {
    let wanted: BTreeSet<_> = tasks.iter().map(hostname).collect();
    wait("exactly the tasks to answer at the service's address", PATIENCE, || {
        let seen = answering(from, to, 10 * wanted.len());
        if seen == wanted { Ok(()) } else { Err(format!("{seen:?}, not {wanted:?}")) }
    });
}

/// One client on each host.
fn clients(lab: &Lab) -> Vec<Inside> {
    let h1 = lab.host(1);
    let image = lab.web();
    h1.ctl(&["service", "create", "--mode", "global", "--network", "net", "--name", "client", &image]).ok();
    h1.wait_running("client", 3).iter().map(|task| lab.enter(task)).collect()
}

fn create_steady(lab: &Lab, replicas: usize) -> (String, IpAddr) {
    let (h1, image, count) = (lab.host(1), lab.steady_image(), replicas.to_string());
    let first = format!("{image}:1");
    let create = ["service", "create", "--replicas", &count, "--network", "net", "--name", "steady"];
    h1.ctl(&[&create[..], &[&first, "/bin/steady"]].concat()).ok();
    h1.wait_running("steady", replicas);
    (image, vip(h1, "steady"))
}

fn wait_updated(host: &Host) {
    wait("the update to be completed", PATIENCE * 2, || {
        let shown = host.inspect("service", "steady");
        match shown.pointer("/UpdateStatus/State").and_then(|state| state.as_str()) {
            Some("completed") => Ok(()),
            _ => Err(format!("{:#}", shown["UpdateStatus"])),
        }
    });
}

#[test]
fn a_services_address_leads_to_each_of_its_tasks_and_follows_them() {
    let lab = Lab::swarm("a services address", 1, 1);
    let h1 = lab.host(1);
    h1.create_network("net", "10.0.9.0/24");
    let web = h1.create_web(&lab, "web", "net", 3);
    let other = h1.create_web(&lab, "other", "net", 1);
    let (from, address) = (lab.enter(&other[0]), vip(h1, "web"));
    wait_answering(from, address, &web);
    wait_answering(lab.enter(&web[0]), address, &web);
    assert!(from.reaches(address), "the address answers to ping");
    let page = from.get(address).ok();
    assert!(page.contains(&format!("client={}", other[0].address(PREFIX))), "the client is hidden: {page}");

    h1.ctl(&["service", "scale", "web=4"]).ok();
    wait_answering(from, address, &h1.wait_running("web", 4));
    h1.ctl(&["service", "scale", "web=1"]).ok();
    wait_answering(from, address, &h1.wait_running("web", 1));
    h1.ctl(&["service", "scale", "web=0"]).ok();
    h1.wait_running("web", 0);
    let start = Instant::now();
    assert!(!from.get(address).succeeded(), "nobody is there");
    assert!(start.elapsed() < Duration::from_secs(2), "refused at once");
}

#[test]
fn a_rolling_update_under_load_loses_no_request() {
    // Nodes confirm to whichever manager they have.
    let lab = Lab::swarm("a rolling update under load", 3, 0);
    let h1 = lab.host(1);
    h1.create_network("net", "10.0.9.0/24");
    let (image, address) = create_steady(&lab, 3);
    let load = Load::start(&clients(&lab), address);
    wait("requests to be answered", PATIENCE, || if load.answered() > 200 { Ok(()) } else { Err("few are") });

    for (version, order) in [("2", "stop-first"), ("1", "start-first")] {
        let image = format!("{image}:{version}");
        let update =
            ["service", "update", "--update-monitor", "1s", "--update-order", order, "--image", &image];
        h1.ctl(&[&update[..], &["--detach", "steady"]].concat()).ok();
        wait_updated(h1);
        let answered = load.answered();
        wait("the new tasks to answer", PATIENCE, || {
            if load.answered() > answered + 200 { Ok(()) } else { Err("few do") }
        });
    }
    h1.ctl(&["service", "scale", "steady=5"]).ok();
    h1.wait_running("steady", 5);
    let start = Instant::now();
    h1.ctl(&["service", "scale", "--detach", "steady=2"]).ok();
    h1.wait_tasks("three tasks to have ended", PATIENCE, "steady", |tasks| {
        (tasks.iter().filter(|task| task.current_state.starts_with("Running")).count() == 2).then_some(())
    });
    let took = start.elapsed();
    assert!(took < Duration::from_secs(4), "nobody kept them from ending, and yet it took {took:?}");
    let tally = load.finish();
    println!("{} requests, {} on open connections: {:#?}", tally.answered, tally.kept, tally.answers);
    assert_eq!(tally.failures, [""; 0], "of {} requests", tally.answered);
    assert!(tally.kept > 100 && tally.answers.len() >= 9, "{tally:#?}");
}

#[test]
fn an_ipv6_address_leads_to_the_tasks_and_a_rolling_update_loses_no_request() {
    let lab = Lab::swarm("an ipv6 address", 1, 1);
    let h1 = lab.host(1);
    let subnets = ["--subnet", "10.0.9.0/24", "--subnet", "fd00:9::/64"];
    h1.ctl(&[&["network", "create", "--driver", "overlay"][..], &subnets, &["net"]].concat()).ok();
    let (image, _) = create_steady(&lab, 3);
    let shown = h1.inspect("service", "steady");
    let address = shown.pointer("/Endpoint/VirtualIPs/1/Addr").and_then(|address| address.as_str());
    let address = address.unwrap().split('/').next().unwrap().to_owned();
    let vip: IpAddr = address.parse().unwrap();
    assert!(vip.is_ipv6(), "{shown:#}");
    let (image_of_client, create) =
        (lab.web(), ["service", "create", "--mode", "global", "--network", "net"]);
    h1.ctl(&[&create[..], &["--name", "client", &image_of_client]].concat()).ok();
    let clients: Vec<_> = h1.wait_running("client", 2).iter().map(|task| lab.enter(task)).collect();

    let tasks = h1.running("steady");
    for client in &clients {
        assert_eq!(client.lookup_v6("steady.").records, [address.as_str()]);
        let of_tasks = client.lookup_v6("tasks.steady.").records;
        assert!(
            of_tasks.len() == 3 && of_tasks.iter().all(|own| own.starts_with("fd00:9::")),
            "{of_tasks:?}"
        );
        assert!(client.reaches(vip), "the address answers to ping");
        let answers: BTreeSet<_> = (0..40).map(|_| client.get(format!("[{address}]")).ok()).collect();
        for task in &tasks {
            assert!(answers.iter().any(|answer| answer.contains(&hostname(task))), "{answers:?}");
        }
    }
    let load = Load::start(&clients, vip);
    wait("requests to be answered", PATIENCE, || if load.answered() > 200 { Ok(()) } else { Err("few are") });
    let update =
        ["service", "update", "--detach", "--update-monitor", "1s", "--image", &format!("{image}:2")];
    h1.ctl(&[&update[..], &["steady"]].concat()).ok();
    wait_updated(h1);
    let updated = h1.wait_running("steady", 3);
    let answered = load.answered();
    wait("the new tasks to answer", PATIENCE, || {
        if load.answered() > answered + 200 { Ok(()) } else { Err("few do") }
    });
    let tally = load.finish();
    assert_eq!(tally.failures, [""; 0], "of {} requests", tally.answered);
    for task in tasks.iter().chain(&updated) {
        assert!(tally.answers.keys().any(|answer| answer.contains(&hostname(task))), "{:#?}", tally.answers);
    }

    h1.ctl(&["service", "scale", "steady=0"]).ok();
    h1.wait_running("steady", 0);
    let start = Instant::now();
    assert!(!clients[0].get(format!("[{address}]")).succeeded(), "nobody is there");
    assert!(start.elapsed() < Duration::from_secs(2), "refused at once");
}

#[test]
fn a_node_that_is_cut_off_leaves_load_balancing_and_comes_back_with_its_tasks() {
    let lab = Lab::swarm_with("a node leaves load balancing", 1, 2, &["--dispatcher-heartbeat", "2s"]);
    let (h1, h3) = (lab.host(1), lab.host(3));
    h1.create_network("net", "10.0.9.0/24");
    let image = lab.web();
    h1.ctl(&["service", "create", "--mode", "global", "--network", "net", "--name", "web", &image]).ok();
    let web = h1.wait_running("web", 3);
    let here = web.iter().find(|task| task.node == "h1").unwrap();
    let (from, address) = (lab.enter(here), vip(h1, "web"));
    wait_answering(from, address, &web);

    h3.cut();
    h1.wait_status("h3", "Down", HEARTBEAT * 6);
    let left: Vec<_> = web.iter().filter(|task| task.node != "h3").cloned().collect();
    wait_answering(from, address, &left);

    h3.heal();
    h1.wait_status("h3", "Ready", PATIENCE);
    wait_answering(from, address, &h1.wait_running("web", 3));
}

#[test]
fn a_node_that_hangs_holds_up_no_stop_for_long() {
    let lab = Lab::swarm("a node that hangs", 1, 2);
    let (h1, h3) = (lab.host(1), lab.host(3));
    h1.create_network("net", "10.0.9.0/24");
    let create = ["service", "create", "--network", "net", "--stop-grace-period", "1s"];
    let (image, on_h2, on_h3) = (lab.web(), "node.hostname==h2", "node.hostname==h3");
    for (name, place) in [("stays", on_h3), ("goes", on_h2)] {
        h1.ctl(&[&create[..], &["--constraint", place, "--name", name, &image]].concat()).ok();
        h1.wait_running(name, 1);
    }
    let gone = |bound| {
        let start = Instant::now();
        h1.ctl(&["service", "scale", "--detach", "goes=0"]).ok();
        h1.wait_tasks("the task to have ended", bound, "goes", |tasks| {
            tasks.iter().all(|task| !task.current_state.starts_with("Running")).then_some(())
        });
        start.elapsed()
    };
    let usual = gone(PATIENCE);
    h1.ctl(&["service", "scale", "goes=1"]).ok();
    h1.wait_running("goes", 1);
    h3.freeze();
    let held_up = gone(PATIENCE);
    h3.resume();
    println!("a stop took {usual:?}, and {held_up:?} with a node that hangs");
    assert!(usual < Duration::from_secs(3), "{usual:?}");
    assert!((Duration::from_secs(4)..Duration::from_secs(9)).contains(&held_up), "{held_up:?}");
}

#[test]
fn a_restart_of_swarmd_disturbs_no_connection() {
    let lab = Lab::swarm("a restart and load balancing", 1, 2);
    let h1 = lab.host(1);
    h1.create_network("net", "10.0.9.0/24");
    let (_, address) = create_steady(&lab, 3);
    let load = Load::start(&clients(&lab), address);
    for host in lab.hosts() {
        host.kill();
        let answered = load.answered();
        wait("requests to be answered", PATIENCE, || {
            if load.answered() > answered + 100 { Ok(()) } else { Err("few are") }
        });
        host.start();
    }
    h1.wait_nodes(3);
    let answered = load.answered();
    wait("requests to be answered", PATIENCE, || {
        if load.answered() > answered + 200 { Ok(()) } else { Err("few are") }
    });
    let tally = load.finish();
    assert_eq!(tally.failures, [""; 0], "of {} requests", tally.answered);
}
