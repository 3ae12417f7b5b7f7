//! Runs a command to its end, with a bound, and keeps what it said.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Long enough for every command that ends by itself, also on a loaded machine.
pub(crate) const BOUND: Duration = Duration::from_secs(120);

/// What `timeout` exits with when it had to end the command.
const TIMED_OUT: i32 = 124;

#[derive(Debug, Clone)]
pub struct Output {
    pub command: String,
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl Output {
    pub fn succeeded(&self) -> bool {
        self.code == 0
    }

    /// What the command printed, without the last line's end.
    ///
    /// # Panics
    ///
    /// When the command failed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.succeeded(), "{self}");
        self.stdout.trim_end().to_owned()
    }

    /// The one line with which the command refused.
    ///
    /// # Panics
    ///
    /// When it did not refuse, or not in the way of a program that knows what was wrong: exit code 1, nothing on
    /// standard output and one line on standard error.
    #[track_caller]
    pub fn refused(self) -> String {
        assert!(self.code == 1, "expected exit code 1: {self}");
        assert!(self.stdout.trim().is_empty(), "expected no output beside the error: {self}");
        assert!(self.stderr.trim_end().lines().count() == 1, "expected one line of error: {self}");
        self.stderr.trim_end().to_owned()
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "`{}` exited with {} after {:?}", self.command, self.code, self.took)?;
        write!(f, "{}{}", self.stdout, self.stderr)
    }
}

/// Runs `program` for at most `bound`.
pub(crate) fn run_within(bound: Duration, program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=1", &bound.as_secs_f32().to_string(), program]).args(arguments);
    let shown = shown(&command);

    let start = Instant::now();
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run `{shown}`: {error}"));
    let code = output.status.code().unwrap_or(-1);
    let mut stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    if code == TIMED_OUT {
        stderr.push_str(&format!("(ended by the test bench after {bound:?})\n"));
    }

    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    Output { command: shown, code, stdout, stderr, took: start.elapsed() }
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> Output {
    run_within(BOUND, program, arguments)
}

/// The command as typed, without the `timeout` in front.
fn shown(command: &Command) -> String {
    let words: Vec<_> = command.get_args().skip(2).map(OsStr::to_string_lossy).collect();
    words.join(" ")
}

/// `program`, to be run in the network namespace at the path `netns`.
///
/// By `nsenter`, not `ip netns exec`: that one mounts a new `/sys`, which hides the cgroups.
pub(crate) fn inside(netns: &str, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={netns}")).arg(program);
    command
}

/// Runs `program` in the network namespace at the path `netns` to its end.
pub(crate) fn run_inside(netns: &str, program: &str, arguments: &[&str]) -> Output {
    let namespace = format!("--net={netns}");
    run("nsenter", &[&[&namespace, program], arguments].concat())
}

/// Starts a daemon whose output goes to the end of the file `log`.
pub(crate) fn start_logged(command: &mut Command, log: &Path) -> Child {
    let file = File::options().create(true).append(true).open(log);
    let started = file.and_then(|file| {
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        command.spawn()
    });
    started.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"))
}

/// Sends the signal and waits until the process has ended.
pub(crate) fn end(process: &mut Child, signal: Signal) {
    let pid = Pid::from_raw(process.id() as i32);
    let ended = kill(pid, signal).map_err(std::io::Error::from).and_then(|()| process.wait());
    ended.unwrap_or_else(|error| panic!("cannot end process {pid}: {error}"));
}
