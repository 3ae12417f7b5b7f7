//! A worker that the others cannot see: its tasks run elsewhere soon, and its return takes nothing away.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

use std::time::{Duration, Instant};

use e2e::{AddressWatch, Host, Lab, PATIENCE, TaskRow, wait};

/// Short, so that the stories are; what they show are multiples of it.
const HEARTBEAT: Duration = Duration::from_secs(2);
const PREFIX: &str = "10.0.9.";

/// Three missed heartbeats, and as much again for what follows on a loaded machine: schedule, pull, start.
const REPLACED: Duration = HEARTBEAT.saturating_mul(6);

fn lab(story: &str) -> Lab {
    Lab::swarm_with(story, 1, 2, &["--dispatcher-heartbeat", "2s"])
}

fn leave_h3(tasks: &[TaskRow], count: usize) -> Option<Vec<TaskRow>> {
    let elsewhere = tasks.iter().filter(|task| task.running() && task.node != "h3");
    let elsewhere: Vec<_> = elsewhere.cloned().collect();
    (elsewhere.len() == count).then_some(elsewhere)
}

/// Waits until no process of the tasks that ran on h3 is left there.
fn wait_old_tasks_stopped(host: &Host, pids: &[i32]) {
    wait(&format!("the old tasks of {} to be stopped", host.name()), PATIENCE, || {
        let left: Vec<_> = pids.iter().filter(|pid| e2e::resident_kib(**pid).is_some()).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?} run")) }
    });
}

#[test]
fn the_tasks_of_a_host_that_is_cut_off_move_and_no_address_is_used_twice() {
    let lab = lab("a host that is cut off");
    let (h1, h3) = (lab.host(1), lab.host(3));
    // Few addresses, so that one set free too early would be handed out soon.
    h1.create_network("net", "10.0.9.0/28");
    let tasks = h1.create_web(&lab, "web", "net", 3);
    let pids: Vec<_> =
        tasks.iter().filter(|task| task.node == "h3").map(|task| lab.enter(task).pid).collect();
    assert!(!pids.is_empty(), "no task on h3: {tasks:#?}");
    let watch = AddressWatch::start(&lab, PREFIX);

    h3.cut();
    let cut = Instant::now();
    let moved = h1.wait_tasks("three tasks elsewhere", REPLACED, "web", |tasks| leave_h3(tasks, 3));
    assert!(cut.elapsed() >= HEARTBEAT, "a node is not given up at once");
    assert_eq!(h1.node("h3").status, "Down");
    assert!(lab.enter(&moved[0]).reaches(moved[1].address(PREFIX)));
    assert!(pids.iter().all(|pid| e2e::resident_kib(*pid).is_some()), "a cut-off node keeps its tasks");

    // Use up and give back what is free, so that whatever is thought free is handed out.
    for count in ["6", "3", "6", "3"] {
        h1.ctl(&["service", "scale", &format!("web={count}")]).ok();
        h1.wait_tasks("the scaled service", PATIENCE, "web", |tasks| leave_h3(tasks, count.parse().unwrap()));
    }

    h3.heal();
    h1.wait_status("h3", "Ready", PATIENCE);
    wait_old_tasks_stopped(h3, &pids);
    h1.wait_running("web", 3);
    watch.finish();
}

#[test]
fn a_swarmd_that_hangs_is_treated_as_cut_off_and_stops_its_old_tasks_later() {
    let lab = lab("a swarmd that hangs");
    let (h1, h3) = (lab.host(1), lab.host(3));
    h1.create_network("net", "10.0.9.0/24");
    let tasks = h1.create_web(&lab, "web", "net", 3);
    let pids: Vec<_> =
        tasks.iter().filter(|task| task.node == "h3").map(|task| lab.enter(task).pid).collect();
    let watch = AddressWatch::start(&lab, PREFIX);

    h3.freeze();
    h1.wait_tasks("three tasks elsewhere", REPLACED, "web", |tasks| leave_h3(tasks, 3));
    h3.resume();
    h1.wait_status("h3", "Ready", PATIENCE);
    wait_old_tasks_stopped(h3, &pids);
    h1.wait_running("web", 3);
    watch.finish();
}

#[test]
fn a_short_cut_moves_nothing() {
    let lab = lab("a short cut moves nothing");
    let (h1, h3) = (lab.host(1), lab.host(3));
    h1.create_network("net", "10.0.9.0/24");
    let mut before: Vec<_> = h1.create_web(&lab, "web", "net", 3).into_iter().map(|task| task.id).collect();

    h3.cut();
    std::thread::sleep(HEARTBEAT);
    h3.heal();

    // What is watched is that nothing happens, so the time is what is waited for: past three heartbeats.
    let mut after = Vec::new();
    let start = Instant::now();
    while start.elapsed() < HEARTBEAT * 4 {
        after = h1.running("web").into_iter().map(|task| task.id).collect();
    }
    before.sort();
    after.sort();
    assert_eq!(after, before);
    assert_eq!(h1.node("h3").status, "Ready");
}

#[test]
fn a_machine_that_died_costs_only_its_own_tasks() {
    let lab = lab("a machine that died");
    let (h1, h3) = (lab.host(1), lab.host(3));
    h1.create_network("net", "10.0.9.0/24");
    let before = h1.create_web(&lab, "web", "net", 3);
    let watch = AddressWatch::start(&lab, PREFIX);

    h3.power_off();
    let moved = h1.wait_tasks("three tasks elsewhere", REPLACED, "web", |tasks| leave_h3(tasks, 3));
    for task in before.iter().filter(|task| task.node != "h3") {
        assert!(moved.iter().any(|now| now.id == task.id), "{} was touched", task.name);
    }

    h3.power_on();
    h3.start();
    h1.wait_nodes(3);
    h1.ctl(&["service", "scale", "web=6"]).ok();
    let tasks = h1.wait_running("web", 6);
    let returned =
        tasks.iter().find(|task| task.node == "h3").unwrap_or_else(|| panic!("none on h3: {tasks:#?}"));
    for task in &tasks {
        assert!(lab.enter(returned).reaches(task.address(PREFIX)), "h3 does not reach {}", task.name);
    }
    watch.finish();
}
