//! Three managers: what a client was told is kept, whichever of them dies.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use e2e::{Host, Lab, PATIENCE, Ping, wait};

/// From the death of the leader until another takes a write.
const TAKEOVER: Duration = Duration::from_secs(5);

fn leader<'a>(lab: &'a Lab, asked: &Host) -> &'a Host {
    wait("a leader", PATIENCE, || {
        let nodes = asked.nodes();
        let leader = nodes.iter().find(|node| node.manager_status == "Leader");
        leader.map(|node| lab.host_named(&node.hostname)).ok_or_else(|| format!("{nodes:#?}"))
    })
}

/// A manager other than `not`.
fn other<'a>(lab: &'a Lab, not: &Host) -> &'a Host {
    lab.hosts().iter().take(3).find(|host| host.name() != not.name()).unwrap()
}

/// Waits until all three managers are seen to take part.
fn wait_managers(asked: &Host) {
    wait("three managers", PATIENCE, || {
        let nodes = asked.nodes();
        let part =
            nodes.iter().filter(|node| ["Leader", "Reachable"].contains(&node.manager_status.as_str()));
        if part.count() == 3 { Ok(()) } else { Err(format!("{nodes:#?}")) }
    });
}

/// Creates the network as soon as somebody takes the write; returns how long that took since `start`.
fn create_when_possible(host: &Host, name: &str, subnet: &str, start: Instant) -> Duration {
    wait("a write to be taken", TAKEOVER, || {
        let bound = Duration::from_secs(2);
        let create = ["network", "create", "--driver", "overlay", "--subnet", subnet, name];
        let output = host.ctl_within(bound, &create);
        // An attempt that was cut short may have been carried out.
        let done = output.succeeded() || output.stderr.contains("exist");
        if done { Ok(()) } else { Err(output) }
    });
    start.elapsed()
}

fn with_the_leader_gone(lab: &Lab, lose: impl Fn(&Host), recover: impl Fn(&Host)) {
    let first = lab.host(1);
    wait_managers(first);
    first.create_network("net", "10.0.9.0/24");
    let tasks = first.create_web(lab, "web", "net", 5);
    let on = |host: &str| tasks.iter().find(|task| task.node == host).unwrap();
    let pids: Vec<_> = tasks.iter().map(|task| lab.enter(task).pid).collect();
    let ping = Ping::start(lab.enter(on("h4")), on("h5").address("10.0.9."));
    let lost = leader(lab, first);

    lose(lost);
    let start = Instant::now();
    let asked = other(lab, lost);
    let took = create_when_possible(asked, "after", "10.0.10.0/24", start);
    assert!(took <= TAKEOVER, "took {took:?}");
    assert_ne!(leader(lab, asked).name(), lost.name());
    // On the workers, since that the lost machine takes no tasks is noticed only after three heartbeats.
    let (place, image) = (["--constraint", "node.role==worker", "--network", "after"], lab.web());
    asked
        .ctl(&[&["service", "create", "--replicas", "2", "--name", "after"][..], &place, &[&image]].concat())
        .ok();
    asked.wait_running("after", 2);

    // Workers kept or moved their sessions, and nobody touched the tasks.
    for node in asked.nodes().iter().filter(|node| node.manager_status.is_empty()) {
        assert_eq!(node.status, "Ready", "{node:?}");
    }
    assert!(pids.iter().all(|pid| e2e::resident_kib(*pid).is_some()), "a task was stopped");
    let report = ping.finish();
    assert!(report.lost.is_empty(), "lost {:?} of {} pings", report.lost, report.sent);

    recover(lost);
    wait_managers(asked);
    wait("the returned manager to know what happened", PATIENCE, || {
        let known = lost.ctl(&["network", "inspect", "after"]);
        if known.succeeded() { Ok(()) } else { Err(known) }
    });
}

#[test]
fn another_manager_takes_over_when_the_leader_is_killed() {
    let lab = Lab::swarm("the leader is killed", 3, 2);
    with_the_leader_gone(&lab, Host::kill, Host::start);
}

#[test]
fn another_manager_takes_over_when_the_leader_is_cut_off() {
    let lab = Lab::swarm("the leader is cut off", 3, 2);
    with_the_leader_gone(&lab, Host::cut, Host::heal);
}

#[test]
fn promoted_workers_are_managers_and_demoted_ones_are_not() {
    let lab = Lab::swarm("promoted workers are managers", 1, 2);
    let h1 = lab.host(1);
    h1.ctl(&["node", "promote", "h2", "h3"]).ok();
    wait_managers(h1);
    wait("the promoted node to answer as a manager", PATIENCE, || {
        let answer = lab.host(2).ctl(&["node", "ls"]);
        if answer.succeeded() { Ok(()) } else { Err(answer) }
    });
    // Each of them takes writes, whoever leads.
    lab.host(2).create_network("by-h2", "10.0.9.0/24");
    lab.host(3).create_network("by-h3", "10.0.10.0/24");
    assert_eq!(h1.networks().iter().filter(|network| network.name.starts_with("by-")).count(), 2);

    h1.kill();
    create_when_possible(lab.host(2), "later", "10.0.11.0/24", Instant::now());
    h1.start();
    wait_managers(lab.host(2));

    lab.host(2).ctl(&["node", "demote", "h1"]).ok();
    wait("h1 to be a worker", PATIENCE, || {
        let node = lab.host(2).node("h1");
        if node.manager_status.is_empty() && node.status == "Ready" {
            Ok(())
        } else {
            Err(format!("{node:?}"))
        }
    });
    wait("h1 to refuse a manager's command", PATIENCE, || {
        let answer = h1.ctl(&["node", "ls"]);
        if answer.succeeded() { Err(answer) } else { Ok(()) }
    });
    lab.host(3).create_network("last", "10.0.12.0/24");
}

#[test]
fn a_read_after_a_write_sees_it_on_whichever_manager() {
    let lab = Lab::swarm("a read after a write sees it", 3, 0);
    wait_managers(lab.host(1));
    for (number, host) in lab.hosts().iter().cycle().take(12).enumerate() {
        let name = format!("net{number}");
        host.create_network(&name, &format!("10.1.{number}.0/24"));
        let known = host.networks().iter().any(|network| network.name == name);
        assert!(known, "{} forgot {name} at once", host.name());
    }
}

/// Kills all managers again and again while a client writes: whatever the client was told is there afterwards.
#[test]
fn what_was_acknowledged_survives_sigkill_of_all_managers_at_any_instant() {
    let lab = Lab::swarm("what was acknowledged survives", 3, 0);
    let mut acknowledged = BTreeSet::new();
    for round in 0..4_u64 {
        wait_managers(lab.host(1));
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| write_until_refused(lab.host(1), round));
            // The instant differs from round to round.
            std::thread::sleep(Duration::from_millis(300 + 170 * round));
            lab.hosts().iter().for_each(Host::kill);
            acknowledged.extend(writer.join().unwrap());
        });
        lab.hosts().iter().for_each(Host::launch);
        lab.hosts().iter().for_each(Host::wait_ready);
    }
    wait_managers(lab.host(1));
    assert!(acknowledged.len() >= 4, "too little was written to show anything: {acknowledged:?}");
    for host in lab.hosts() {
        wait(&format!("{} to know all", host.name()), PATIENCE, || {
            let known: BTreeSet<_> = host.networks().into_iter().map(|network| network.name).collect();
            let missing: Vec<_> = acknowledged.difference(&known).collect();
            if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} are lost")) }
        });
    }
}

fn write_until_refused(host: &Host, round: u64) -> Vec<String> {
    let names = (0..200).map(|number| (number, format!("net-{round}-{number}")));
    let written = names.map_while(|(number, name)| {
        let subnet = format!("10.{}.{number}.0/24", 10 + round);
        let create = ["network", "create", "--driver", "overlay", "--subnet", &subnet, &name];
        host.ctl_within(Duration::from_secs(5), &create).succeeded().then_some(name)
    });
    written.collect()
}

#[test]
fn a_rotated_token_is_refused_and_the_new_one_taken() {
    let lab = Lab::new("a rotated token", 2);
    lab.hosts().iter().for_each(Host::start);
    let (h1, h2) = (lab.host(1), lab.host(2));
    h1.init(&[]);
    let (old, manager) = (h1.token("worker"), h1.token("manager"));
    let new = h1.ctl(&["swarm", "join-token", "--rotate", "-q", "worker"]).ok();
    assert_ne!(old, new);
    assert_eq!(h1.token("manager"), manager, "the other role's token stays");

    let error = h2.join(&old, h1).refused();
    assert!(error.contains("not valid"), "{error}");
    h2.join(&new, h1).ok();
    h1.wait_nodes(2);
}
