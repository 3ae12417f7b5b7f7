//! Ends all processes of one run of a health check.
//!
//! The OCI runtime makes what it executes in a container the leader of a session of its own, and whatever that one
//! starts stays in the session, also when its parent has died. Only what asks for a session of its own escapes, as
//! daemons do on purpose.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Looks at the processes again until there is no more to kill: one may have started another meanwhile.
const ROUNDS: usize = 10;

/// Kills the session that `leader` leads, as far as it is in the control group of `container`: the number may be that of
/// another process by now. Reads all of /proc, which takes milliseconds.
pub(super) fn kill_session(leader: u32, container: &str) {
    for _ in 0..ROUNDS {
        let members = members(leader, container);
        if members.is_empty() {
            return;
        }
        for pid in members {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn members(leader: u32, container: &str) -> Vec<i32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_member = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let cgroup = || fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        session(&stat) == Some(leader) && cgroup().split(['/', '\n']).any(|part| part == container)
    };
    pids.filter(is_member).collect()
}

/// Of a process that lives: see proc(5). The name, in parentheses, may contain anything.
fn session(stat: &str) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let lives = !matches!(*fields.first()?, "Z" | "X");
    fields.get(3)?.parse().ok().filter(|_| lives)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_is_read_of_processes_that_live() {
        assert_eq!(session("12 (a) b) S 1 12 77 0 -1"), Some(77));
        assert_eq!(session("12 (sh) Z 1 12 77 0 -1"), None);
        assert_eq!(session(""), None);
        assert!(members(u32::MAX, "none").is_empty());
    }
}
