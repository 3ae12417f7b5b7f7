//! Finds and ends the processes of a lab by what `/proc` and the cgroups say of them.
//!
//! A lab cannot keep a list: `swarmd` starts containerd, that starts shims, and those outlive both by design. All
//! of them name the lab's folder in their command line, and containers live in cgroups below the lab's name.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::wait;

const CGROUPS: &str = "/sys/fs/cgroup";

/// Ends every process that `find` finds, and those that they start meanwhile.
pub(crate) fn kill_all(what: &str, find: impl Fn() -> BTreeSet<i32>) {
    wait(&format!("the processes of {what} to end"), Duration::from_secs(20), || {
        let left = find();
        left.iter().for_each(|pid| end(*pid));
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?} live on")) }
    });
}

fn end(pid: i32) {
    // An error means that it has ended by itself.
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

/// The processes, but this one, that name `text` in their command line.
pub(crate) fn naming(text: &str) -> BTreeSet<i32> {
    let own = std::process::id() as i32;
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| *pid != own && command_line(*pid).contains(text)).collect()
}

fn command_line(pid: i32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ")
}

/// The processes in the cgroups `name` and below, in whichever hierarchy.
pub(crate) fn in_cgroup(name: &str) -> BTreeSet<i32> {
    let lists = cgroups(name).into_iter().map(|folder| folder.join("cgroup.procs"));
    let lists = lists.filter_map(|list| fs::read_to_string(list).ok());
    lists.flat_map(|list| list.lines().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// Removes the cgroups `name` and below, and what still joins them.
pub(crate) fn remove_cgroups(name: &str) {
    wait(&format!("the cgroups of {name} to go"), Duration::from_secs(20), || {
        in_cgroup(name).iter().for_each(|pid| end(*pid));
        let left = cgroups(name);
        for folder in left.iter().rev() {
            // Busy until the kernel has reaped the last process: looked at again.
            let _ = fs::remove_dir(folder);
        }
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?} are left")) }
    });
}

/// The folders of the cgroups `name` and below, parents first.
pub(crate) fn cgroups(name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(&Path::new(CGROUPS).join(name), &mut found);
    for hierarchy in folders(Path::new(CGROUPS)) {
        walk(&hierarchy.join(name), &mut found);
    }
    found
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    if folder.is_dir() {
        found.push(folder.to_owned());
        folders(folder).iter().for_each(|below| walk(below, found));
    }
}

fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// When the process started, in clock ticks since boot: tells a process from a later one of the same id.
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything; the start is field 22, the 20th after it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// The processes with the program name `program` that name `text` in their command line.
pub fn running_program(program: &str, text: &str) -> Vec<i32> {
    let name = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    naming(text).into_iter().filter(|pid| name(pid).trim() == program).collect()
}

/// Resident memory of a process in KiB.
pub fn resident_kib(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// How many files and sockets a process has open.
pub fn open_files(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}
