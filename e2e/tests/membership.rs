//! Nodes come, change their role and go, and nobody else notices.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

use std::time::{Duration, Instant};

use e2e::{Host, Lab, PATIENCE, Ping, wait};

/// A planned hand-over is no election by silence.
const HANDED_OVER: Duration = Duration::from_secs(2);

fn info(host: &Host, pointer: &str) -> String {
    let info = host.ctl_json(&["info"]).remove(0);
    info.pointer(pointer).and_then(|value| value.as_str()).unwrap_or_default().to_owned()
}

fn wait_manager_status(asked: &Host, hostname: &str, statuses: &[&str]) {
    wait(&format!("{hostname} to be one of {statuses:?}"), PATIENCE, || {
        let node = asked.node(hostname);
        if statuses.contains(&node.manager_status.as_str()) { Ok(()) } else { Err(format!("{node:?}")) }
    });
}

fn wait_ended(pids: &[i32]) {
    wait("the processes to end", PATIENCE, || {
        let left: Vec<_> = pids.iter().filter(|pid| e2e::resident_kib(**pid).is_some()).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?} run")) }
    });
}

#[test]
fn a_node_that_was_removed_says_so_stops_its_tasks_and_can_join_again() {
    let lab = Lab::swarm("a node that was removed", 1, 1);
    let (h1, h2) = (lab.host(1), lab.host(2));
    h1.create_network("net", "10.0.9.0/24");
    let tasks = h1.create_web(&lab, "web", "net", 2);
    let pids: Vec<_> =
        tasks.iter().filter(|task| task.node == "h2").map(|task| lab.enter(task).pid).collect();
    assert!(!pids.is_empty(), "no task on h2: {tasks:#?}");

    h1.ctl(&["node", "rm", "--force", "h2"]).ok();
    wait("h2 to say that it was removed", PATIENCE, || {
        let (state, error) = (info(h2, "/Swarm/LocalNodeState"), info(h2, "/Swarm/Error"));
        if state == "error" && error.contains("was removed") {
            Ok(())
        } else {
            Err(format!("{state}: {error}"))
        }
    });
    wait_ended(&pids);
    // So does the next start of the daemon.
    h2.kill();
    h2.start();
    wait("h2 to say it again", PATIENCE, || {
        let state = info(h2, "/Swarm/LocalNodeState");
        if state == "error" { Ok(()) } else { Err(state) }
    });
    assert!(h2.join(&h1.token("worker"), h1).refused().contains("swarm leave"));
    h2.ctl(&["swarm", "leave"]).ok();
    h2.join(&h1.token("worker"), h1).ok();
    h1.wait_nodes(2);
}

#[test]
fn a_new_role_keeps_the_session_and_the_tasks() {
    let lab = Lab::swarm("a new role keeps the session", 1, 1);
    let (h1, h2) = (lab.host(1), lab.host(2));
    h1.create_network("net", "10.0.9.0/24");
    let tasks = h1.create_web(&lab, "web", "net", 2);
    let on = |host: &str| tasks.iter().find(|task| task.node == host).unwrap();
    let ping = Ping::start(lab.enter(on("h2")), on("h1").address("10.0.9."));
    let pids: Vec<_> = tasks.iter().map(|task| lab.enter(task).pid).collect();

    for _ in 0..2 {
        h1.ctl(&["node", "promote", "h2"]).ok();
        wait_manager_status(h1, "h2", &["Reachable", "Leader"]);
        wait("h2 to answer as a manager", PATIENCE, || {
            let answer = h2.ctl(&["node", "ls"]);
            if answer.succeeded() { Ok(()) } else { Err(answer) }
        });
        h1.ctl(&["node", "demote", "h2"]).ok();
        wait_manager_status(h1, "h2", &[""]);
        wait("h2 to refuse a manager's command", PATIENCE, || {
            let answer = h2.ctl(&["node", "ls"]);
            if answer.stderr.contains("not a swarm manager") { Ok(()) } else { Err(answer) }
        });
        assert_eq!(h1.node("h2").status, "Ready");
    }
    assert!(pids.iter().all(|pid| e2e::resident_kib(*pid).is_some()), "a task was stopped");
    let report = ping.finish();
    assert!(report.lost.is_empty(), "lost {:?} of {} pings", report.lost, report.sent);
}

#[test]
fn a_leader_that_is_demoted_hands_over_and_becomes_a_worker() {
    let lab = Lab::swarm("a leader that is demoted", 3, 0);
    let (h1, h2) = (lab.host(1), lab.host(2));
    wait_manager_status(h1, "h1", &["Leader"]);
    wait_manager_status(h1, "h3", &["Reachable"]);
    h1.ctl(&["node", "demote", "h1"]).ok();
    wait_manager_status(h2, "h1", &[""]);
    wait("h1 to refuse a manager's command", PATIENCE, || {
        let answer = h1.ctl(&["node", "ls"]);
        if answer.stderr.contains("not a swarm manager") { Ok(()) } else { Err(answer) }
    });
    h2.wait_nodes(3);
    h2.create_network("net", "10.0.9.0/24");
}

/// Demoted and promoted at once, so that the node never hears of what was in between.
#[test]
fn a_member_that_was_put_out_unawares_asks_to_be_taken_in_again() {
    let lab = Lab::swarm("a member that was put out unawares", 3, 0);
    let (h1, h3) = (lab.host(1), lab.host(3));
    wait_manager_status(h1, "h3", &["Reachable"]);
    h3.freeze();
    wait_manager_status(h1, "h3", &["Unreachable"]);
    h1.ctl(&["node", "demote", "h3"]).ok();
    wait_manager_status(h1, "h3", &[""]);
    h1.ctl(&["node", "promote", "h3"]).ok();
    h3.resume();
    wait_manager_status(h1, "h3", &["Reachable"]);
    h3.create_network("net", "10.0.9.0/24");
}

#[test]
fn a_planned_stop_of_the_leader_hands_over_and_loses_nothing() {
    let lab = Lab::swarm("a planned stop of the leader", 3, 1);
    let (h1, h2) = (lab.host(1), lab.host(2));
    for host in ["h2", "h3"] {
        wait_manager_status(h1, host, &["Reachable"]);
    }
    h1.create_network("net", "10.0.9.0/24");
    let tasks = h1.create_web(&lab, "web", "net", 4);
    let pids: Vec<_> = tasks.iter().map(|task| lab.enter(task).pid).collect();

    let start = Instant::now();
    std::thread::scope(|scope| {
        let stopping = scope.spawn(|| h1.terminate());
        wait("another leader", HANDED_OVER, || {
            let nodes = h2.nodes();
            let leads = nodes.iter().any(|node| node.manager_status == "Leader" && node.hostname != "h1");
            if leads { Ok(()) } else { Err(format!("{nodes:#?}")) }
        });
        h2.create_network("after", "10.0.10.0/24");
        println!("a write was taken {:?} after SIGTERM", start.elapsed());
        assert!(stopping.join().unwrap().success());
        println!("swarmd ended {:?} after SIGTERM", start.elapsed());
    });
    h1.start();
    h2.wait_nodes(4);
    assert!(pids.iter().all(|pid| e2e::resident_kib(*pid).is_some()), "a task was stopped");
    assert_eq!(h2.wait_running("web", 4).len(), 4);
}

#[test]
fn a_join_that_was_interrupted_goes_on_or_leaves_nothing() {
    let mut lab = Lab::swarm("a join that was interrupted", 1, 0);
    let token = lab.host(1).token("manager");
    lab.add_host();
    let (h1, h2) = (lab.host(1), lab.host(2));
    for after in [20, 60, 120, 200, 350] {
        h2.start();
        std::thread::scope(|scope| {
            let joining = scope.spawn(|| h2.join(&token, h1));
            // The instants differ, so that each step is once the last one.
            std::thread::sleep(Duration::from_millis(after));
            h2.kill();
            drop(joining.join());
        });
        h2.start();
        let state = info(h2, "/Swarm/LocalNodeState");
        println!("killed after {after} ms: {state}");
        if state == "active" {
            let id = info(h2, "/Swarm/NodeID");
            wait("h2 to be a manager", PATIENCE, || {
                let nodes = h1.nodes();
                let joined = nodes.iter().any(|node| node.id == id && node.manager_status == "Reachable");
                if joined { Ok(()) } else { Err(format!("{nodes:#?}")) }
            });
            h1.ctl(&["node", "demote", &id]).ok();
            wait("h2 to be a worker", PATIENCE, || {
                let left = h2.ctl(&["swarm", "leave"]);
                if left.succeeded() { Ok(()) } else { Err(left) }
            });
        } else {
            assert_eq!(state, "inactive");
        }
        h2.kill();
    }
    h2.start();
    h2.join(&token, h1).ok();
    let id = info(h2, "/Swarm/NodeID");
    assert!(h1.nodes().iter().any(|node| node.id == id && node.manager_status == "Reachable"));
}

#[test]
fn the_last_manager_leaves_by_force_and_can_begin_anew() {
    let lab = Lab::swarm("the last manager leaves", 1, 0);
    let h1 = lab.host(1);
    assert!(h1.ctl(&["swarm", "leave"]).refused().contains("--force"));
    h1.ctl(&["swarm", "leave", "--force"]).ok();
    assert_eq!(info(h1, "/Swarm/LocalNodeState"), "inactive");
    assert!(h1.ctl(&["node", "ls"]).refused().contains("not a swarm manager"));
    h1.init(&[]);
    h1.wait_nodes(1);
}

#[test]
fn the_port_of_the_data_path_is_the_one_that_was_asked_for() {
    let lab = Lab::swarm_with("the port of the data path", 1, 1, &["--data-path-port", "4799"]);
    let h1 = lab.host(1);
    h1.create_network("net", "10.0.9.0/24");
    let tasks = h1.create_web(&lab, "web", "net", 2);
    for host in lab.hosts() {
        let links = host.namespaces().into_iter().map(|path| {
            let inside = format!("nsenter --net={} ip -d link show type vxlan", path.display());
            host.sh(&inside).ok()
        });
        let links: String = links.collect();
        assert!(links.contains("dstport 4799"), "{}: {links}", host.name());
    }
    let on = |host: &str| tasks.iter().find(|task| task.node == host).unwrap();
    assert!(lab.enter(on("h1")).reaches(on("h2").address("10.0.9.")));
}

#[test]
fn a_second_daemon_on_the_same_folder_is_refused() {
    let lab = Lab::new("a second daemon", 1);
    let h1 = lab.host(1);
    h1.start();
    let folder = h1.folder().display();
    for (flag, data, exec) in [("--data-root", "data", "run2"), ("--exec-root", "data2", "run")] {
        let second = format!(
            "{} --data-root {folder}/{data} --exec-root {folder}/{exec} --host unix://{folder}/second.sock",
            swarmd()
        );
        let refused = h1.sh(&format!("{second} 2>&1 | grep 'another daemon uses it'"));
        assert!(refused.stdout.contains(flag), "{refused}");
    }
    h1.ctl(&["info"]).ok();
}

fn swarmd() -> String {
    let own = std::env::current_exe().unwrap();
    own.parent().unwrap().parent().unwrap().join("swarmd").display().to_string()
}

/// The replica stops by itself when its disk is full; there is nothing else that it could do.
#[test]
fn a_manager_whose_disk_was_full_comes_back_by_itself() {
    let lab = Lab::new("a manager whose disk was full", 1);
    let h1 = lab.host(1);
    let raft = h1.folder().join("data/raft").display().to_string();
    h1.sh(&format!("mkdir -p {raft} && mount -t tmpfs -o size=4M mg-raft {raft}")).ok();
    h1.start();
    h1.init(&[]);
    h1.create_network("before", "10.0.9.0/24");

    h1.sh(&format!("dd if=/dev/zero of={raft}/filler bs=64k 2>/dev/null || true")).ok();
    wait("the manager to say that its disk is full", PATIENCE, || {
        // What is written must need more room than is left in what is there.
        let create = ["network", "create", "--driver", "overlay", "--label", &"x".repeat(4000), "full"];
        let create = h1.ctl_within(Duration::from_secs(15), &create);
        let error = info(h1, "/Swarm/Error");
        if error.contains("No space left") { Ok(()) } else { Err(format!("{error:?} {create}")) }
    });
    h1.sh(&format!("rm {raft}/filler")).ok();
    wait("the manager to take a write", PATIENCE, || {
        let create = ["network", "create", "--driver", "overlay", "--subnet", "10.0.11.0/24", "after"];
        let create = h1.ctl_within(Duration::from_secs(15), &create);
        if create.succeeded() { Ok(()) } else { Err(create) }
    });
    let names: Vec<_> = h1.networks().into_iter().map(|network| network.name).collect();
    assert!(names.contains(&"before".into()), "{names:?}");
    wait("no error to be left", PATIENCE, || {
        let error = info(h1, "/Swarm/Error");
        if error.is_empty() { Ok(()) } else { Err(error) }
    });
}
