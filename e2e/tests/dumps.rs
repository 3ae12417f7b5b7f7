//! What a daemon that dies leaves behind.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

use e2e::Lab;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn core_limit(pid: i32) -> String {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    limits.lines().find(|line| line.starts_with("Max core file size")).unwrap().to_owned()
}

/// Keys are in its memory: they must not get into a file that nobody watches.
#[test]
fn a_daemon_that_dies_leaves_no_core_and_its_tasks_may() {
    setrlimit(Resource::RLIMIT_CORE, RLIM_INFINITY, RLIM_INFINITY).unwrap();
    let lab = Lab::swarm("no core of the daemon", 1, 0);
    let h1 = lab.host(1);
    let other = Command::new("sh").args(["-c", "kill -ABRT $$"]).current_dir(lab.folder()).status().unwrap();
    assert!(other.core_dumped(), "any other program leaves a core here: {other}");

    h1.create_network("net", "10.0.9.0/24");
    let task = h1.create_web(&lab, "web", "net", 1).remove(0);
    let task = lab.enter(&task).pid;
    assert_eq!(core_limit(task), core_limit(h1.pid()), "what the daemon does to itself is not passed on");
    kill(Pid::from_raw(h1.pid()), Signal::SIGABRT).unwrap();
    let ended = h1.wait_exit();
    assert_eq!((ended.signal(), ended.core_dumped()), (Some(Signal::SIGABRT as i32), false), "{ended}");
    h1.start();
    h1.wait_running("web", 1);
    assert!(e2e::resident_kib(task).is_some());
}
