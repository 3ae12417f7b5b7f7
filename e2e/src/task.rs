//! The inside of a running task, reached by its process id: the bench's stand-in for `exec`.

use std::time::Duration;

use serde_json::Value;

use crate::command::{self, Output, run_inside, run_within};
use crate::host::Host;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inside {
    pub pid: i32,
}

impl Inside {
    /// # Panics
    ///
    /// When the task has no process.
    #[track_caller]
    pub(crate) fn of(manager: &Host, task: &str) -> Self {
        let shown = manager.inspect("task", task);
        let pid = shown.pointer("/Status/ContainerStatus/PID").and_then(Value::as_i64).unwrap_or_default();
        assert!(pid > 0, "task {task} has no process: {shown:#}");
        Self { pid: pid as i32 }
    }

    /// Path of the task's network namespace.
    pub fn netns(self) -> String {
        format!("/proc/{}/ns/net", self.pid)
    }

    /// Runs one of the machine's programs in the task's network namespace.
    pub fn net(self, program: &str, arguments: &[&str]) -> Output {
        run_inside(&self.netns(), program, arguments)
    }

    /// Runs a script of the image's shell inside the container: its files, its processes, its names.
    pub fn sh(self, script: &str) -> Output {
        self.sh_within(command::BOUND, script)
    }

    fn sh_within(self, bound: Duration, script: &str) -> Output {
        let target = self.pid.to_string();
        let namespaces = ["--target", &target, "--mount", "--uts", "--ipc", "--net", "--pid"];
        run_within(bound, "nsenter", &[&namespaces[..], &["--", "/bin/sh", "-ec", script]].concat())
    }

    /// Whether one ping to `address` is answered within a second.
    pub fn reaches(self, address: impl std::fmt::Display) -> bool {
        self.net("ping", &["-n", "-c1", "-W1", &address.to_string()]).succeeded()
    }

    /// What the web server at `address` answers within five seconds, asked from inside the container.
    pub fn get(self, address: impl std::fmt::Display) -> Output {
        // Not by wget's own -T: it crashes in Debian's static busybox.
        self.sh_within(Duration::from_secs(5), &format!("wget -qO- http://{address}/"))
    }
}
