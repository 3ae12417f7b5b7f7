//! Counts the packets that a disturbance costs.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::process::{Child, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::inside;
use crate::task::Inside;
use crate::wait::wait;

/// A ping every 10 ms from inside a task, until `finish`.
#[derive(Debug)]
pub struct Ping {
    child: Child,
    reader: Option<JoinHandle<PingReport>>,
    started: Instant,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct PingReport {
    pub sent: u64,
    /// Sequence numbers without an answer. The very last one sent is not counted: its answer may be under way.
    pub lost: Vec<u64>,
}

impl Ping {
    pub fn start(from: Inside, to: Ipv4Addr) -> Self {
        let mut command = inside(&from.netns(), "ping");
        command
            .args(["-n", "-i", "0.01", "-W", "1", &to.to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start ping: {error}"));
        let output = child.stdout.take();
        let reader = std::thread::spawn(move || {
            read(output.into_iter().flat_map(|o| BufReader::new(o).lines().map_while(Result::ok)))
        });
        Self { child, reader: Some(reader), started: Instant::now() }
    }

    /// Ends it and counts.
    ///
    /// # Panics
    ///
    /// When fewer than half of the pings due were sent: then the count would prove nothing.
    #[track_caller]
    pub fn finish(self) -> PingReport {
        let due = self.started.elapsed().as_millis() as u64 / 10;
        let report = self.finish_unhurried();
        assert!(report.sent * 2 >= due, "only {} of {due} pings were sent", report.sent);
        report
    }

    /// Ends it and counts, however few were sent: where a machine is too slow to send them all.
    #[track_caller]
    pub fn finish_unhurried(mut self) -> PingReport {
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT);
        wait("ping to end", Duration::from_secs(5), || match self.child.try_wait() {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        self.reader.take().and_then(|reader| reader.join().ok()).unwrap_or_default()
    }
}

impl Drop for Ping {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(lines: impl Iterator<Item = String>) -> PingReport {
    let (mut answered, mut sent) = (BTreeSet::new(), 0);
    for line in lines {
        if let Some((_, rest)) = line.split_once("icmp_seq=") {
            let number = rest.split(' ').next().and_then(|number| number.parse::<u64>().ok());
            // "Destination Host Unreachable" names a sequence number too.
            answered.extend(number.filter(|_| line.contains("time=")));
        }
        if let Some((count, _)) = line.split_once(" packets transmitted") {
            sent = count.trim().parse().unwrap_or(0);
        }
    }
    PingReport { sent, lost: (1..sent).filter(|number| !answered.contains(number)).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_before_the_last_one_is_lost() {
        let output = "PING 10.0.9.3 (10.0.9.3) 56(84) bytes of data.
64 bytes from 10.0.9.3: icmp_seq=1 ttl=64 time=0.05 ms
From 10.0.9.2 icmp_seq=2 Destination Host Unreachable
64 bytes from 10.0.9.3: icmp_seq=4 ttl=64 time=0.05 ms
5 packets transmitted, 2 received, 60% packet loss, time 40ms";
        let report = read(output.lines().map(str::to_owned));
        assert_eq!(report, PingReport { sent: 5, lost: vec![2, 3] });
    }
}
