//! Which nodes run what, and what replaces a task.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use e2e::{Host, Lab, PATIENCE, TaskRow, wait};

fn per_node(tasks: &[TaskRow]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    tasks.iter().for_each(|task| *counts.entry(task.node.as_str()).or_default() += 1);
    counts
}

#[test]
fn a_global_service_runs_once_on_each_node_also_on_one_that_joins_later() {
    let mut lab = Lab::swarm("a global service runs once on each node", 1, 1);
    let image = lab.web();
    lab.host(1).create_network("net", "10.0.9.0/24");
    lab.host(1)
        .ctl(&["service", "create", "--mode", "global", "--network", "net", "--name", "agent", &image])
        .ok();
    let tasks = lab.host(1).wait_running("agent", 2);
    assert_eq!(per_node(&tasks), BTreeMap::from([("h1", 1), ("h2", 1)]));

    lab.add_host();
    lab.host(3).start();
    lab.host(3).join(&lab.host(1).token("worker"), lab.host(1)).ok();
    let tasks = lab.host(1).wait_running("agent", 3);
    assert_eq!(per_node(&tasks), BTreeMap::from([("h1", 1), ("h2", 1), ("h3", 1)]));
    let newcomer = tasks.iter().find(|task| task.node == "h3").unwrap();
    for task in &tasks {
        assert!(lab.enter(newcomer).reaches(task.address("10.0.9.")), "h3 does not reach {}", task.node);
    }
}

#[test]
fn drain_moves_tasks_away_and_active_lets_them_come() {
    let lab = Lab::swarm("drain moves tasks away", 1, 2);
    let (h1, image) = (lab.host(1), lab.web());
    h1.ctl(&["service", "create", "--replicas", "3", "--name", "web", &image]).ok();
    h1.ctl(&["service", "create", "--mode", "global", "--name", "agent", &image]).ok();
    assert_eq!(per_node(&h1.wait_running("web", 3)).len(), 3);
    h1.wait_running("agent", 3);

    h1.ctl(&["node", "update", "--availability", "drain", "h3"]).ok();
    let moved = |service: &str, count: usize| {
        h1.wait_tasks(&format!("{service} to leave h3"), PATIENCE, service, |tasks| {
            let running: Vec<_> = tasks.iter().filter(|task| task.running()).cloned().collect();
            (running.len() == count && !per_node(&running).contains_key("h3")).then_some(())
        });
    };
    moved("web", 3);
    moved("agent", 2);

    h1.ctl(&["node", "update", "--availability", "active", "h3"]).ok();
    assert_eq!(per_node(&h1.wait_running("agent", 3)).get("h3"), Some(&1));
}

#[test]
fn constraints_choose_the_node() {
    let lab = Lab::swarm("constraints choose the node", 1, 2);
    let (h1, image) = (lab.host(1), lab.web());
    h1.ctl(&["node", "update", "--label-add", "disk=ssd", "h2"]).ok();
    let constraint = ["--constraint", "node.labels.disk==ssd", "--constraint", "node.role!=manager"];
    h1.ctl(
        &[&["service", "create", "--replicas", "2", "--name", "fast"][..], &constraint, &[&image]].concat(),
    )
    .ok();
    assert_eq!(per_node(&h1.wait_running("fast", 2)), BTreeMap::from([("h2", 2)]));

    // No node fits, and the task that waits says why.
    let create =
        ["service", "create", "--detach", "--name", "nowhere", "--constraint", "node.labels.disk==tape"];
    h1.ctl(&[&create[..], &[&image]].concat()).ok();
    let error = h1.wait_tasks("an explanation", PATIENCE, "nowhere", |tasks| {
        tasks.iter().map(|task| task.error.clone()).find(|error| !error.is_empty())
    });
    assert!(error.contains("3 nodes") && error.contains("constraint"), "{error}");

    // It goes on as soon as one does.
    h1.ctl(&["node", "update", "--label-add", "disk=tape", "h3"]).ok();
    assert_eq!(per_node(&h1.wait_running("nowhere", 1)), BTreeMap::from([("h3", 1)]));
}

/// The container itself writes down when it starts, which no clock of ours can blur.
#[test]
fn a_task_whose_process_exits_is_replaced_in_its_slot_after_a_pause() {
    let lab = Lab::swarm("a task whose process exits is replaced", 1, 0);
    let (h1, image) = (lab.host(1), lab.web());
    let starts = lab.folder().join("starts");
    std::fs::create_dir(&starts).unwrap();
    let mount = format!("type=bind,source={},target=/starts", starts.display());
    let create =
        ["service", "create", "--detach", "--name", "short", "--restart-delay", "2s", "--mount", &mount];
    let script = "date +%s >>/starts/log; exit 7";
    h1.ctl(&[&create[..], &[&image, "sh", "-c", script]].concat()).ok();

    let log = wait("four starts", PATIENCE, || {
        let log = std::fs::read_to_string(starts.join("log")).unwrap_or_default();
        let times: Vec<u64> = log.lines().map(|line| line.parse().unwrap()).collect();
        if times.len() >= 4 { Ok(times) } else { Err(format!("{} so far", times.len())) }
    });
    for pair in log.windows(2) {
        // Whole seconds: two that are 2 s apart may show as 1 s less.
        assert!(pair[1] - pair[0] >= 1, "no pause between starts: {log:?}");
    }
    assert!(log[3] - log[0] >= 5, "three pauses of 2 s: {log:?}");

    let tasks = h1.tasks("short");
    assert!(tasks.iter().all(|task| task.slot == 1), "{tasks:#?}");
    assert!(tasks.iter().filter(|task| task.wanted()).count() <= 1, "{tasks:#?}");
    let failed = tasks.iter().find(|task| task.current_state.starts_with("Failed")).unwrap();
    assert!(failed.error.contains("(7)"), "the error tells the exit code: {failed:?}");
}

#[test]
fn an_update_replaces_all_tasks_and_start_first_keeps_the_number_up() {
    let lab = Lab::swarm("an update replaces all tasks", 1, 2);
    let (h1, next) = (lab.host(1), lab.image("web:2"));
    h1.create_network("net", "10.0.9.0/24");
    let old = h1.create_web(&lab, "web", "net", 3);

    h1.ctl(&["service", "update", "--detach", "--update-order", "start-first", "--image", &next, "web"]).ok();
    let new = h1.wait_tasks("three tasks of version 2", PATIENCE, "web", |tasks| {
        let running: Vec<_> = tasks.iter().filter(|task| task.running()).cloned().collect();
        assert!(running.len() >= 3, "start-first fell below three: {tasks:#?}");
        (running.len() == 3 && running.iter().all(|task| task.image == next)).then_some(running)
    });
    let slots: BTreeSet<_> = new.iter().map(|task| task.slot).collect();
    assert_eq!(slots, BTreeSet::from([1, 2, 3]));
    assert!(new.iter().all(|task| old.iter().all(|old| old.id != task.id)));
    for task in &new {
        let page = lab.enter(&new[0]).get(task.address("10.0.9.")).ok();
        assert!(page.contains("version=2"), "{page}");
    }
}

#[test]
fn force_replaces_tasks_one_by_one() {
    let lab = Lab::swarm("force replaces tasks one by one", 1, 0);
    let h1 = lab.host(1);
    let old = {
        h1.create_network("net", "10.0.9.0/24");
        h1.create_web(&lab, "web", "net", 3)
    };
    h1.ctl(&["service", "update", "--detach", "--force", "--update-parallelism", "1", "web"]).ok();
    h1.wait_tasks("three new tasks", PATIENCE, "web", |tasks| {
        let running: Vec<_> = tasks.iter().filter(|task| task.running()).collect();
        assert!(running.len() >= 2, "more than one is replaced at a time: {tasks:#?}");
        let new = running.iter().all(|task| old.iter().all(|old| old.id != task.id));
        (running.len() == 3 && new).then_some(())
    });
}

#[test]
fn a_node_that_left_is_down_and_can_be_removed() {
    let lab = Lab::swarm("a node that left", 1, 1);
    let h1 = lab.host(1);
    lab.host(2).ctl(&["swarm", "leave"]).ok();
    h1.wait_status("h2", "Down", Duration::from_secs(20));
    h1.ctl(&["node", "rm", "h2"]).ok();
    assert_eq!(h1.nodes().len(), 1);
    // And it can join again.
    lab.host(2).join(&h1.token("worker"), h1).ok();
    h1.wait_nodes(2);
}

#[test]
fn a_manager_leaves_only_by_force() {
    let lab = Lab::swarm("a manager leaves only by force", 1, 0);
    let error = lab.host(1).ctl(&["swarm", "leave"]).refused();
    assert!(error.contains("--force"), "{error}");
    lab.host(1).ctl(&["swarm", "leave", "--force"]).ok();
    Host::init(lab.host(1), &[]);
}
