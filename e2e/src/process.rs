//! Finds and ends the processes of a lab by what `/proc` and the cgroups say of them.
//!
//! A lab cannot keep a list: `swarmd` starts containerd, that starts shims, and those outlive both by design. All
//! of them name the lab's folder in their command line, and containers live in cgroups below the lab's name.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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

/// In the middle of an exec a process has no command line, neither the old nor the new one: it is looked at again
/// until it has, lest it be missed.
fn command_line(pid: i32) -> String {
    let read = || fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut line = read();
    let settled = Instant::now() + Duration::from_secs(1);
    while line.is_empty() && is_in_exec(pid) && Instant::now() < settled {
        std::thread::yield_now();
        line = read();
    }
    String::from_utf8_lossy(&line).replace('\0', " ")
}

/// Whether a process without a command line may be about to have one: threads of the kernel and the dead never do.
fn is_in_exec(pid: i32) -> bool {
    const PF_KTHREAD: u32 = 0x0020_0000; // include/linux/sched.h
    let Some((state, flags)) = stat(pid, 0).zip(stat(pid, 6)) else { return false };
    !matches!(state.as_str(), "Z" | "X") && flags.parse().is_ok_and(|flags: u32| flags & PF_KTHREAD == 0)
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
    stat(pid, 19)?.parse().ok()
}

/// Field `3 + index` of `/proc/<pid>/stat` (proc(5)); counted from behind the name, which may contain anything.
fn stat(pid: i32, index: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(')')?.1.split_whitespace().nth(index)?.to_owned())
}

/// The processes with the program name `program` that name `text` in their command line.
pub fn running_program(program: &str, text: &str) -> Vec<i32> {
    let name = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    naming(text).into_iter().filter(|pid| name(pid).trim() == program).collect()
}

/// Resident memory of a process in KiB.
pub fn resident_kib(pid: i32) -> Option<u64> {
    status(pid, "VmRSS:")
}

fn status(pid: i32, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Most memory that a process had at once, in KiB, since it began or since `forget_peak`.
pub fn peak_kib(pid: i32) -> Option<u64> {
    status(pid, "VmHWM:")
}

pub fn forget_peak(pid: i32) {
    // proc(5); without it the peak is that of the process's life.
    let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

/// Processor time of a process in ticks, a hundred a second.
pub fn busy_ticks(pid: i32) -> Option<u64> {
    let ticks = |index| stat(pid, index)?.parse::<u64>().ok();
    Some(ticks(11)? + ticks(12)?)
}

/// How many files and sockets a process has open.
pub fn open_files(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::naming;

    /// Looked for from the moment of its exec on, a process is found at every look.
    #[test]
    fn a_process_in_the_middle_of_an_exec_is_not_missed() {
        for round in 0..200 {
            let text = format!("e2e-exec-{}-{round};", std::process::id());
            let script = format!("exec sh -c 'read line; : {text}'; : {text}");
            let mut shell =
                Command::new("sh").args(["-c", &script]).stdin(std::process::Stdio::piped()).spawn().unwrap();
            let missed = (0..3).filter(|_| !naming(&text).contains(&(shell.id() as i32))).count();
            drop(shell.stdin.take());
            shell.wait().unwrap();
            assert_eq!(missed, 0, "in round {round}");
        }
    }
}
