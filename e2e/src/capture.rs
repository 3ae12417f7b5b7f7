//! What passes the network between the hosts.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};

use crate::command::{inside, run};
use crate::lab::Lab;

/// Packets on the lab's bridge, from `start` until it is dropped.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Child,
    file: PathBuf,
}

impl Capture {
    /// Returns once packets are captured.
    pub fn start(lab: &Lab) -> Self {
        let file = lab.folder().join(format!("capture-{}", std::process::id()));
        let mut command = inside(&lab.bridge(), "tcpdump");
        command
            .args([
                "-i",
                "br0",
                "-nn",
                "-U",
                "--immediate-mode",
                "-B",
                "8192",
                "-s",
                "128",
                "-Z",
                "root",
                "-w",
            ])
            .arg(&file)
            .stderr(Stdio::piped());
        let mut tcpdump = command.spawn().unwrap_or_else(|error| panic!("cannot start tcpdump: {error}"));
        let said = tcpdump.stderr.take().into_iter().flat_map(|said| BufReader::new(said).lines());
        let listens = said.map_while(Result::ok).any(|line| line.contains("listening on"));
        assert!(listens, "tcpdump captures nothing");
        Self { tcpdump, file }
    }

    /// Packets so far that match `filter`, in the words of `tcpdump`.
    #[track_caller]
    pub fn count(&self, filter: &str) -> usize {
        let file = self.file.display().to_string();
        // The last packet may be half written.
        let shown = run("sh", &["-c", &format!("tcpdump -nn -r {file} '{filter}' 2>/dev/null; true")]).ok();
        shown.lines().filter(|line| !line.is_empty()).count()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.tcpdump.kill();
        let _ = self.tcpdump.wait();
    }
}
