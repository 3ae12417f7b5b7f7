//! TCP throughput between two network namespaces, by `iperf3`.

use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::command::inside;
use crate::wait::wait;

const SECONDS: &str = "4";

/// Gbit/s of one stream from `client` to `address`, which leads to `server`.
pub fn gigabits(client: &str, server: &str, address: impl Into<IpAddr>) -> f64 {
    let address: IpAddr = address.into();
    let mut serving = Serving::start(server);
    let report = wait("an iperf3 run", Duration::from_secs(30), || {
        let arguments = ["-c", &address.to_string(), "-t", SECONDS, "-J"];
        let output = iperf(client).args(arguments).output().map_err(|error| error.to_string())?;
        let report: serde_json::Value =
            serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
        report
            .pointer("/end/sum_received/bits_per_second")
            .and_then(|rate| rate.as_f64())
            .ok_or(report.to_string())
    });
    serving.stop();
    report / 1e9
}

fn iperf(netns: &str) -> Command {
    inside(netns, "iperf3")
}

struct Serving(Child);

impl Serving {
    fn start(netns: &str) -> Self {
        let mut command = iperf(netns);
        command.args(["-s", "-1"]).stdout(Stdio::null());
        Self(command.spawn().unwrap_or_else(|error| panic!("cannot start iperf3: {error}")))
    }

    fn stop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop();
    }
}
