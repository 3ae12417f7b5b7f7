//! What many lives and sudden deaths leave on a node: nothing. And what they cost its tasks: nothing.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use e2e::{Host, Inside, Lab, PATIENCE, TaskRow, open_files, resident_kib, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn traces(host: &Host) -> BTreeSet<String> {
    host.footprint().union(&host.residue()).cloned().collect()
}

/// What a node keeps once it has had tasks: the image, and the means that are made once.
fn warm_up(lab: &Lab, host: &Host) -> BTreeSet<String> {
    let placed = format!("node.hostname=={}", host.name());
    let first = lab.host(1);
    first.ctl(&["service", "create", "--name", "first", "--constraint", &placed, &lab.web()]).ok();
    first.ctl(&["service", "rm", "first"]).ok();
    let ends = format!("/{}", host.name());
    wait("the first task to be gone", PATIENCE, || {
        let left = host.residue();
        // The image's one layer, and the parent of all control groups.
        let stays = |line: &&String| line.starts_with("snapshot") || line.ends_with(&ends);
        let snapshots = left.iter().filter(|line| line.starts_with("snapshot")).count();
        if left.iter().all(|line| stays(&line)) && snapshots == 1 {
            Ok(())
        } else {
            Err(format!("{left:#?}"))
        }
    });
    traces(host)
}

#[track_caller]
fn wait_no_trace(host: &Host, before: &BTreeSet<String>) {
    wait(&format!("{} to have no trace", host.name()), PATIENCE, || {
        let now = traces(host);
        let (more, less): (Vec<_>, Vec<_>) =
            (now.difference(before).collect(), before.difference(&now).collect());
        if now == *before { Ok(()) } else { Err(format!("left over: {more:#?}, missing: {less:#?}")) }
    });
}

fn end(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

fn processes(lab: &Lab, tasks: &[TaskRow]) -> BTreeMap<String, i32> {
    tasks.iter().map(|task| (task.id.clone(), lab.enter(task).pid)).collect()
}

/// What caches and buffers may grow by meanwhile. Small leaks are looked for over more lives, in `worker/tests/churn.rs`.
const GROWTH_KIB: u64 = 8 << 10;

#[test]
fn sixty_short_lives_leave_nothing() {
    let lab = Lab::swarm("sixty short lives leave nothing", 1, 0);
    let h1 = lab.host(1);
    let before = warm_up(&lab, h1);
    let containerd = h1.processes("containerd")[0];
    let files = || [open_files(h1.pid()), open_files(containerd)];
    let files_before = files();

    h1.create_network("net", "10.0.9.0/24");
    let out = lab.folder().join("out");
    std::fs::create_dir(&out).unwrap();
    let bind = format!("type=bind,source={},target=/out", out.display());
    let create = ["service", "create", "--detach", "--replicas", "5", "--restart-delay", "1ms"];
    let what = ["--network", "net", "--mount", &bind, "--name", "short", &lab.web()];
    // Not failures: those would be tried again after ever longer pauses.
    h1.ctl(&[&create[..], &what, &["sh", "-c", "echo lived; echo >>/out/lives"]].concat()).ok();
    let wait_lives = |count: usize| {
        wait(&format!("{count} lives"), 2 * PATIENCE, || {
            let lives = std::fs::read_to_string(out.join("lives")).unwrap_or_default().lines().count();
            if lives >= count { Ok(()) } else { Err(format!("{lives} so far")) }
        });
        resident_kib(h1.pid()).unwrap()
    };
    let (early, late) = (wait_lives(20), wait_lives(60));
    assert!(late <= early + GROWTH_KIB, "{early} KiB after 20 lives, {late} after 60");

    // What has ended keeps its output while it is in the history (5 of a slot), and no more.
    let folders = h1.residue().iter().filter(|line| line.starts_with("container's folder")).count();
    assert!(folders <= 5 * (5 + 3), "{folders} folders of containers");
    h1.ctl(&["service", "rm", "short"]).ok();
    wait_no_trace(h1, &before);
    wait("files to be closed", PATIENCE, || {
        let now = files();
        let few = now.iter().zip(files_before).all(|(now, before)| *now <= before + 8);
        if few { Ok(()) } else { Err(format!("{now:?} files are open, {files_before:?} were")) }
    });
}

#[test]
fn sigkill_at_any_moment_leaves_neither_residue_nor_lack() {
    let lab = Lab::swarm("sigkill at any moment", 1, 1);
    let (h1, h2) = (lab.host(1), lab.host(2));
    let before = warm_up(&lab, h2);
    h1.create_network("net", "10.0.9.0/24");
    let create = ["service", "create", "--detach", "--replicas", "0", "--constraint", "node.hostname==h2"];
    h1.ctl(&[&create[..], &["--network", "net", "--name", "web", &lab.web()]].concat()).ok();

    for round in 0..8_u64 {
        let replicas = if round % 2 == 0 { "web=6" } else { "web=0" };
        h1.ctl(&["service", "scale", "--detach", replicas]).ok();
        // From the first assignments to the last steps of stopping.
        std::thread::sleep(Duration::from_millis(40 + 110 * round));
        h2.kill();
        h2.start();
    }
    h1.ctl(&["service", "scale", "--detach", "web=6"]).ok();
    let tasks = h1.wait_running("web", 6);
    let inside: Vec<Inside> = tasks.iter().map(|task| lab.enter(task)).collect();
    for task in &tasks {
        let address = task.address("10.0.9.");
        assert!(inside.iter().all(|from| from.reaches(address)), "{} is not reached", task.name);
    }
    let shims = h2.processes("containerd-shim");
    assert_eq!(shims.len(), 6, "one shim a task: {shims:?}");

    h1.ctl(&["service", "rm", "web"]).ok();
    wait_no_trace(h2, &before);
}

/// Steps of bringing a task to life and of taking it away, as `worker` and `netdriver` call them. What finishes the first
/// must not come by the second: what is left of a network is removed before it is made again.
const DEATHS: [(&str, &str); 13] = [
    ("database: write task", "remove namespace@1"),
    ("task: Report(Accepted)", "unmount namespace@1"),
    ("task: Report(Preparing)", "unmount namespace@2"),
    ("task: pull", "remove the file of a namespace@2"),
    ("task: attach", "remove nftables table"),
    ("mount a namespace@1", "task: Stop"),
    ("vx0: create", "container: note end"),
    ("mount a namespace@2", "container: remove task"),
    ("add static entry", "task: Detach"),
    ("set nftables table", "task: Clean"),
    ("steer packets", "container: remove files"),
    ("container: make task", "container: remove output"),
    ("container: start process", "database: write removal"),
];

#[test]
fn sigkill_at_each_step_of_attaching_and_detaching_leaves_neither_residue_nor_lack() {
    let lab = Lab::swarm("sigkill at each step", 1, 1);
    let (h1, h2) = (lab.host(1), lab.host(2));
    let before = warm_up(&lab, h2);
    h1.create_network("net", "10.0.9.0/24");
    let create = |host: &str, name: &str| {
        let placed = format!("node.hostname=={host}");
        let create = ["service", "create", "--detach", "--restart-delay", "1ms", "--constraint", &placed];
        h1.ctl(&[&create[..], &["--network", "net", "--name", name, &lab.web()]].concat()).ok();
    };
    create("h1", "other");
    let other = lab.enter(&h1.wait_running("other", 1)[0]);
    let die = |step: &str| assert_eq!(h2.wait_exit().signal(), Some(9), "at {step}");
    h2.kill();

    for (attaching, detaching) in DEATHS {
        eprintln!("{attaching}, {detaching}");
        h2.launch_dying(attaching);
        h2.wait_ready();
        wait_no_trace(h2, &before);
        create("h2", "web");
        die(attaching);

        h2.launch_dying(detaching);
        let tasks = h1.wait_running("web", 1);
        let address = tasks[0].address("10.0.9.");
        assert!(other.reaches(address), "the task is not reached that died at {attaching}");
        h1.ctl(&["service", "rm", "web"]).ok();
        die(detaching);
    }
    h2.start();
    wait_no_trace(h2, &before);
}

#[test]
fn tasks_survive_the_death_of_containerd_and_are_still_watched() {
    let lab = Lab::swarm("tasks survive the death of containerd", 1, 0);
    let h1 = lab.host(1);
    h1.create_network("net", "10.0.9.0/24");
    let tasks = h1.create_web(&lab, "web", "net", 3);
    let before = processes(&lab, &tasks);
    let containerd = |gone: i32| {
        wait("another containerd", PATIENCE, || {
            let found = h1.processes("containerd").into_iter().find(|pid| *pid != gone);
            found.ok_or("none runs")
        })
    };

    let first = containerd(0);
    end(first);
    let second = containerd(first);
    // It does its work again, and the others were not touched.
    h1.ctl(&["service", "scale", "web=4"]).ok();
    let after = processes(&lab, &h1.wait_running("web", 4));
    assert!(before.iter().all(|(task, pid)| after.get(task) == Some(pid)), "{before:?} then {after:?}");

    // A task that ends while containerd is away is noticed and replaced.
    let (lost, pid) = before.iter().next().unwrap();
    end(second);
    end(*pid);
    let third = containerd(second);
    let replaced = |lost: &str| {
        h1.wait_tasks("a replacement", PATIENCE, "web", |tasks| {
            let running: Vec<_> = tasks.iter().filter(|task| task.running()).cloned().collect();
            (running.len() == 4 && running.iter().all(|task| task.id != lost)).then_some(running)
        })
    };
    replaced(lost);

    // Both at once, as when the machine is out of memory; and again one task with them.
    let (lost, pid) = before.iter().nth(1).unwrap();
    h1.kill();
    end(third);
    end(*pid);
    h1.start();
    let running = processes(&lab, &replaced(lost));
    let (kept, pid) = before.iter().nth(2).unwrap();
    assert_eq!(running.get(kept), Some(pid), "the third was never touched");
    assert!(resident_kib(*pid).is_some());
    h1.ctl(&["service", "rm", "web"]).ok();
    wait("shims to go", PATIENCE, || {
        let left = h1.processes("containerd-shim");
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}
