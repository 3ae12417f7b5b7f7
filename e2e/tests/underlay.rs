//! What happens to the network below the overlays, and what of it tasks and users notice.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use e2e::{Host, Inside, Lab, PATIENCE, TaskRow, wait};

const PREFIX: &str = "10.0.9.";
/// Past three heartbeats, in which nothing may happen.
const LONG: Duration = Duration::from_secs(8);

/// A swarm with short heartbeats and a task on each of three hosts.
fn web(story: &str) -> (Lab, Vec<TaskRow>) {
    let lab = Lab::swarm_with(story, 1, 2, &["--dispatcher-heartbeat", "2s"]);
    lab.host(1).create_network("net", "10.0.9.0/24");
    let mut tasks = lab.host(1).create_web(&lab, "web", "net", 3);
    tasks.sort_by(|one, other| one.node.cmp(&other.node));
    let nodes: Vec<&str> = tasks.iter().map(|task| task.node.as_str()).collect();
    assert_eq!(nodes, ["h1", "h2", "h3"], "one on each");
    (lab, tasks)
}

fn pids(lab: &Lab, tasks: &[TaskRow]) -> BTreeMap<String, i32> {
    tasks.iter().map(|task| (task.id.clone(), lab.enter(task).pid)).collect()
}

/// Waits until all tasks reach each other.
#[track_caller]
fn wait_joined(lab: &Lab, tasks: &[TaskRow]) {
    let inside: Vec<Inside> = tasks.iter().map(|task| lab.enter(task)).collect();
    wait("all tasks to reach each other", PATIENCE, || {
        for (from, task) in inside.iter().zip(tasks) {
            if let Some(other) = tasks.iter().find(|other| !from.reaches(other.address(PREFIX))) {
                return Err(format!("{} does not reach {}", task.name, other.name));
            }
        }
        Ok(())
    });
}

fn joined(one: Inside, other: &TaskRow) -> bool {
    one.reaches(other.address(PREFIX))
}

#[test]
fn a_link_that_goes_down_and_up_restarts_nothing() {
    let (lab, tasks) = web("a link that goes down and up");
    let before = pids(&lab, &tasks);
    let (h1, h2) = (lab.host(1), lab.host(2));
    let far = lab.enter(&tasks[0]);

    // For a moment only, as when a cable is put into another socket.
    h2.sh("ip link set eth0 down").ok();
    assert!(!joined(far, &tasks[1]));
    h2.sh("ip link set eth0 up").ok();
    wait_joined(&lab, &tasks);

    h1.wait_nodes(3);
    assert_eq!(pids(&lab, &h1.wait_running("web", 3)), before, "a task was touched");
}

#[test]
fn a_worker_whose_address_changes_takes_its_tunnels_along() {
    let (lab, tasks) = web("a worker whose address changes");
    let before = pids(&lab, &tasks);
    let (h1, h2) = (lab.host(1), lab.host(2));

    h2.sh("ip address delete 192.168.77.12/24 dev eth0; ip address add 192.168.77.112/24 dev eth0").ok();
    wait_joined(&lab, &tasks);
    h1.wait_nodes(3);
    assert_eq!(pids(&lab, &h1.wait_running("web", 3)), before, "a task was touched");
    assert_eq!(h1.inspect("node", "h2")["Status"]["Addr"], "192.168.77.112");
    assert_eq!(h2.ctl_json(&["info"])[0]["Swarm"]["NodeAddr"], "192.168.77.112");

    // It knows its new address also after a restart without a manager, and new tasks come.
    h2.kill();
    h2.start();
    h1.ctl(&["service", "scale", "web=6"]).ok();
    wait_joined(&lab, &h1.wait_running("web", 6));
}

#[test]
fn an_address_that_was_given_and_is_gone_is_named() {
    let lab = Lab::new("an address that was given and is gone", 2);
    lab.hosts().iter().for_each(Host::start);
    let (h1, h2) = (lab.host(1), lab.host(2));
    h1.init(&["--dispatcher-heartbeat", "2s"]);
    let (token, addr) = (h1.token("worker"), h2.addr().to_string());
    h2.ctl(&["swarm", "join", "--token", &token, "--advertise-addr", &addr, "192.168.77.11"]).ok();
    h1.wait_nodes(2);
    let warning = || {
        let warnings = h2.ctl_json(&["info"]).remove(0)["Warnings"].clone();
        let mut warnings = warnings.as_array().cloned().unwrap().into_iter();
        warnings.find_map(|warning| {
            warning.as_str().filter(|text| text.contains("192.168.77.12")).map(str::to_owned)
        })
    };
    assert_eq!(warning(), None);

    h2.sh("ip address delete 192.168.77.12/24 dev eth0; ip address add 192.168.77.112/24 dev eth0").ok();
    let told = wait("a warning", PATIENCE, || warning().ok_or("none"));
    assert!(told.contains("--advertise-addr"), "{told}");
    assert!(h2.logged().contains(&told), "the log says the same");
    h1.wait_nodes(2);
    h1.create_network("net", "10.0.9.0/24");
    let placed = ["--constraint", "node.hostname==h2", "--restart-delay", "100ms", "--network", "net"];
    h1.ctl(&[&["service", "create", "--detach", "--name", "web"], &placed[..], &[&lab.web()]].concat()).ok();
    wait_error(h1, "no device of this host has the address 192.168.77.12");

    h2.sh("ip address add 192.168.77.12/24 dev eth0").ok();
    h1.wait_running("web", 1);
    wait("the warning to go", PATIENCE, || warning().map_or(Ok(()), Err));
}

#[test]
fn workers_that_do_not_see_each_other_disturb_nobody_else() {
    let (lab, tasks) = web("workers that do not see each other");
    let before = pids(&lab, &tasks);
    let (h1, h2) = (lab.host(1), lab.host(2));
    let inside: Vec<Inside> = tasks.iter().map(|task| lab.enter(task)).collect();

    let drop = "nft 'table ip partition { chain in { type filter hook input priority 0;
        ip saddr 192.168.77.13 drop; }; }'";
    h2.sh(drop).ok();
    assert!(!joined(inside[1], &tasks[2]) && !joined(inside[2], &tasks[1]));
    // What is watched is that nothing else happens, so the time is what is waited for.
    let start = std::time::Instant::now();
    while start.elapsed() < LONG {
        for (from, to) in [(0, 1), (1, 0), (0, 2), (2, 0)] {
            assert!(
                joined(inside[from], &tasks[to]),
                "{} no longer reaches {}",
                tasks[from].name,
                tasks[to].name
            );
        }
        assert!(h1.nodes().iter().all(|node| node.status == "Ready"), "{:#?}", h1.nodes());
    }
    assert!(!joined(inside[1], &tasks[2]));

    h2.sh("nft delete table ip partition").ok();
    wait_joined(&lab, &tasks);
    assert_eq!(pids(&lab, &h1.wait_running("web", 3)), before, "a task was touched");
}

#[track_caller]
fn wait_error(manager: &Host, expected: &str) {
    wait(&format!("service ps to say {expected:?}"), PATIENCE, || {
        let shown = manager.ctl(&["service", "ps", "--no-trunc", "web"]).ok();
        if shown.contains(expected) { Ok(()) } else { Err(shown) }
    });
}

#[test]
fn what_is_taken_by_others_is_named_and_used_once_it_is_free() {
    let lab = Lab::swarm("what is taken by others", 1, 1);
    let (h1, h2) = (lab.host(1), lab.host(2));
    h1.create_network("net", "10.0.9.0/24");
    let vni = &h1.inspect("network", "net")["Options"]["com.docker.network.driver.overlay.vxlanid_list"];
    let vni = vni.as_str().unwrap();
    let other = format!("ip link add other type vxlan id {vni} dstport 4789 local {}", h2.addr());
    let placed = ["--constraint", "node.hostname==h2", "--restart-delay", "100ms", "--network", "net"];
    let create = || {
        h1.ctl(&[&["service", "create", "--detach", "--name", "web"], &placed[..], &[&lab.web()]].concat())
            .ok();
    };
    let runs = || {
        let tasks = h1.wait_running("web", 1);
        let gateway: Ipv4Addr = "192.168.77.1".parse().unwrap();
        assert!(lab.enter(&tasks[0]).reaches(gateway), "no way out");
        h1.ctl(&["service", "rm", "web"]).ok();
        wait("the task to be gone", PATIENCE, || {
            let left = h2.namespaces();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
    };

    let squatter = h2.bind_udp(("0.0.0.0", 4789));
    create();
    wait_error(h1, "UDP port 4789 is in use by another program of this host");
    drop(squatter);
    runs();

    h2.sh(&other).ok();
    create();
    wait_error(h1, "is in use by another VXLAN device of this host on UDP port 4789");
    h2.sh("ip link delete other").ok();
    runs();

    // One that somebody has made by hand, for another purpose.
    h2.sh("ip link add swarm_gwbridge type bridge; ip address add 10.77.0.1/24 dev swarm_gwbridge").ok();
    create();
    wait_error(h1, "swarm_gwbridge");
    h2.sh("ip address show dev swarm_gwbridge | grep -q 10.77.0.1").ok();
    h2.sh("ip link delete swarm_gwbridge").ok();
    runs();
}

#[test]
fn what_somebody_changes_in_the_kernel_is_shown_and_mended() {
    let lab = Lab::swarm("what somebody changes in the kernel", 1, 1);
    let (h1, h2) = (lab.host(1), lab.host(2));
    let network = h1.create_network("net", "10.0.9.0/24");
    let tasks = h1.create_web(&lab, "web", "net", 2);
    let (near, far) =
        (tasks.iter().find(|t| t.node == "h1").unwrap(), tasks.iter().find(|t| t.node == "h2").unwrap());
    let audit = || h2.ctl(&["network", "audit"]).ok();
    assert_eq!(audit(), "this node's network is as it should be");

    lab.damage();
    let netns = format!("nsenter --net={}/netns/n-{network}", h2.exec_root().display());
    h2.sh(&format!("{netns} ip neigh flush dev vx0 nud permanent; {netns} ip link set br0 mtu 1300")).ok();
    assert!(!joined(lab.enter(far), near));
    let told = audit();
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), 2, "{told}");
    assert!(told.contains("br0: set MTU 1450") && told.contains("vx0: put neighbour 10.0.9."), "{told}");
    assert!(joined(lab.enter(far), near));
    assert_eq!(h2.ctl_json(&["info"])[0]["NetworkMended"], 2);
    assert_eq!(audit(), "this node's network is as it should be");
}

#[test]
fn a_machine_tells_what_does_not_work_on_it() {
    let lab = Lab::new("a machine tells what does not work", 1);
    let h1 = lab.host(1);
    // All programs but one that every task needs.
    let programs = lab.folder().join("programs");
    let links = format!(
        "mkdir {0}; for folder in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin /sbin /bin; do
             find $folder/ -maxdepth 1 ! -type d ! -name nft -exec ln -sf -t {0} {{}} + ; done",
        programs.display()
    );
    h1.sh(&links).ok();
    h1.launch_among(&programs);
    assert!(!h1.wait_exit().success());
    let log = h1.logged();
    let last = log.lines().last().unwrap_or_default();
    assert!(last.contains("this machine cannot be a node") && last.contains("install nftables"), "{last}");

    h1.start();
    h1.init(&[]);
    let warned = || {
        let warnings = h1.ctl_json(&["info"]).remove(0)["Warnings"].clone();
        warnings
            .as_array()
            .into_iter()
            .flatten()
            .any(|text| text.as_str().unwrap().contains("the MTU of eth0"))
    };
    assert!(!warned());
    h1.sh("ip link set eth0 mtu 1300").ok();
    wait("a warning of the MTU", PATIENCE, || if warned() { Ok(()) } else { Err("none") });
    let shown = h1.ctl(&["info"]).ok();
    assert!(shown.contains("WARNING: the MTU of eth0"), "{shown}");
    assert!(h1.logged().contains("at least 1330 are needed"));
}
