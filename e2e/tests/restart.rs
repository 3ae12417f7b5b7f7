//! What a restart of `swarmd`, of all of them, or of the machines disturbs: nothing, nothing, and only a while.

use std::collections::BTreeMap;

use e2e::{Host, Lab, Ping, PingReport, TaskRow, wait};

const PREFIX: &str = "10.0.9.";

fn web(lab: &Lab, replicas: usize) -> Vec<TaskRow> {
    lab.host(1).create_network("net", "10.0.9.0/24");
    lab.host(1).create_web(lab, "web", "net", replicas)
}

/// Process ids by task: the same afterwards means that nobody touched them.
fn pids(lab: &Lab, tasks: &[TaskRow]) -> BTreeMap<String, i32> {
    tasks.iter().map(|task| (task.id.clone(), lab.enter(task).pid)).collect()
}

fn on<'a>(tasks: &'a [TaskRow], host: &str) -> &'a TaskRow {
    tasks.iter().find(|task| task.node == host).unwrap_or_else(|| panic!("no task on {host}: {tasks:#?}"))
}

#[track_caller]
fn assert_lossless(report: &PingReport) {
    assert!(report.lost.is_empty(), "lost {:?} of {} pings", report.lost, report.sent);
}

/// Waits until the daemon's session is back: its node is ready and what it reports is current.
fn wait_session(lab: &Lab, host: &Host) {
    lab.host(1).wait_status(host.name(), "Ready", e2e::PATIENCE);
}

#[test]
fn sigkill_of_a_workers_swarmd_disturbs_neither_tasks_nor_traffic() {
    let lab = Lab::swarm("sigkill of a workers swarmd", 1, 1);
    let tasks = web(&lab, 2);
    let before = pids(&lab, &tasks);
    let (one, two) = (on(&tasks, "h1"), on(&tasks, "h2"));
    let pings =
        [Ping::start(lab.enter(one), two.address(PREFIX)), Ping::start(lab.enter(two), one.address(PREFIX))];

    for _ in 0..3 {
        lab.host(2).kill();
        lab.host(2).start();
        wait_session(&lab, lab.host(2));
    }
    // The session does its work again: a new task comes up on the node.
    lab.host(1).ctl(&["service", "scale", "web=4"]).ok();
    let more = lab.host(1).wait_running("web", 4);

    pings.into_iter().for_each(|ping| assert_lossless(&ping.finish()));
    assert!(before.iter().all(|(task, pid)| pids(&lab, &more).get(task) == Some(pid)), "a task was touched");
}

/// A worker that starts again while no manager can be reached serves names from what it kept.
#[test]
fn names_and_service_addresses_work_without_any_manager_after_a_sigkill() {
    let lab = Lab::swarm("names without any manager", 1, 1);
    let tasks = web(&lab, 2);
    let (far, near) = (on(&tasks, "h1"), lab.enter(on(&tasks, "h2")));
    let both = |answer: &e2e::Answer| answer.records.len() == 2;
    let members = near.wait_lookup("both replicas", e2e::PATIENCE, "tasks.web", both);
    let address = near.lookup("web");
    // The other's id is nowhere in it but in the directory.
    let database = lab.host(2).data_root().join("worker/tasks.db");
    wait("the directory to be kept", e2e::PATIENCE, || {
        let bytes = std::fs::read(&database).map_err(|error| error.to_string())?;
        let id = far.id.as_bytes();
        if bytes.windows(id.len()).any(|window| window == id) { Ok(()) } else { Err("it is not".to_owned()) }
    });

    lab.host(1).kill();
    lab.host(2).kill();
    lab.host(2).start();
    let answers = |answer: &e2e::Answer| *answer == members;
    near.wait_lookup("names as they were known", e2e::PATIENCE, "tasks.web", answers);
    assert_eq!(near.lookup("web"), address);
    let vip: std::net::IpAddr = address.records[0].parse().unwrap();
    let reached = near.within(|| std::net::TcpStream::connect_timeout(&(vip, 80).into(), e2e::PATIENCE));
    reached.expect("the service's address leads to a task");

    // With the manager everything goes on.
    lab.host(1).start();
    lab.host(1).wait_nodes(2);
    lab.host(1).ctl(&["service", "scale", "web=3"]).ok();
    lab.host(1).wait_running("web", 3);
    near.wait_lookup("the third replica", e2e::PATIENCE, "tasks.web", |answer| answer.records.len() == 3);
}

#[test]
fn sigterm_leaves_tasks_running_and_the_next_start_adopts_them() {
    let lab = Lab::swarm("sigterm leaves tasks running", 1, 1);
    let tasks = web(&lab, 2);
    let before = pids(&lab, &tasks);
    let ping = Ping::start(lab.enter(on(&tasks, "h1")), on(&tasks, "h2").address(PREFIX));

    for host in lab.hosts() {
        assert!(host.terminate().success(), "SIGTERM ends swarmd cleanly");
        host.start();
    }
    lab.host(1).wait_nodes(2);
    let after = lab.host(1).wait_running("web", 2);

    assert_lossless(&ping.finish());
    assert_eq!(pids(&lab, &after), before);

    // Adopted means that they can be stopped.
    lab.host(1).ctl(&["service", "rm", "web"]).ok();
    for pid in before.into_values() {
        wait("the adopted task to end", e2e::PATIENCE, || match e2e::resident_kib(pid) {
            None => Ok(()),
            Some(_) => Err(format!("process {pid} runs")),
        });
    }
}

#[test]
fn a_task_that_ends_while_swarmd_is_away_is_replaced_when_it_is_back() {
    let lab = Lab::swarm("a task that ends while swarmd is away", 1, 1);
    let tasks = web(&lab, 2);
    let lost = on(&tasks, "h2");
    let pid = lab.enter(lost).pid;

    lab.host(2).kill();
    lab.host(2).sh(&format!("kill -KILL {pid}")).ok();
    lab.host(2).start();
    let after = lab.host(1).wait_tasks("a replacement", e2e::PATIENCE, "web", |tasks| {
        let running: Vec<_> = tasks.iter().filter(|task| task.running()).cloned().collect();
        (running.len() == 2 && running.iter().all(|task| task.id != lost.id)).then_some(running)
    });
    assert!(after.iter().any(|task| task.slot == lost.slot), "{after:#?}");
}

#[test]
fn all_daemons_killed_at_once_come_back_to_what_was() {
    let lab = Lab::swarm("all daemons killed at once", 3, 0);
    let tasks = web(&lab, 3);
    let (before, wishes) = (pids(&lab, &tasks), lab.host(1).wishes());
    let ping = Ping::start(lab.enter(on(&tasks, "h1")), on(&tasks, "h2").address(PREFIX));

    lab.hosts().iter().for_each(Host::kill);
    lab.hosts().iter().for_each(Host::launch);
    lab.hosts().iter().for_each(Host::wait_ready);
    lab.host(1).wait_nodes(3);
    let after = lab.host(1).wait_running("web", 3);

    assert_lossless(&ping.finish());
    assert_eq!(pids(&lab, &after), before);
    assert_eq!(lab.host(1).wishes(), wishes);
}

#[test]
fn all_machines_rebooted_at_once_bring_everything_back() {
    let lab = Lab::swarm("all machines rebooted at once", 1, 2);
    web(&lab, 3);
    let wishes = lab.host(1).wishes();

    lab.hosts().iter().for_each(Host::power_off);
    lab.hosts().iter().for_each(Host::power_on);
    lab.hosts().iter().for_each(Host::launch);
    lab.hosts().iter().for_each(Host::wait_ready);
    lab.host(1).wait_nodes(3);

    let after = lab.host(1).wait_running("web", 3);
    assert_eq!(lab.host(1).wishes(), wishes);
    for task in &after {
        let reached = || lab.enter(&after[0]).reaches(task.address(PREFIX));
        wait(&format!("{} to be reached", task.name), e2e::PATIENCE, || {
            reached().then_some(()).ok_or("no answer")
        });
    }
}
