//! TCP between two tasks on two hosts, against a VXLAN made by hand between the same hosts.

use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use e2e::bench::{RUNS, Table, median};
use e2e::peer::Peer;
use e2e::underlay::by_hand;
use e2e::{Contender, Lab, Ours, wait};

const SECONDS: &str = "5";

fn main() {
    let (our_lab, their_lab) =
        (Lab::swarm("bench throughput", 1, 1), Lab::new("bench throughput, the peer", 2));
    let (ours, theirs) = (Ours(&our_lab), Peer::form(&their_lab, 1));
    let hand = by_hand([our_lab.host(1), our_lab.host(2)]);

    let tasks = [tasks(&ours), tasks(&theirs)];
    let (mut overlay, mut by_hand, mut docker) = (vec![], vec![], vec![]);
    for _ in 0..RUNS {
        by_hand.push(gigabits(&hand[0].netns, &hand[1].netns, hand[1].address));
        overlay.push(gigabits(&tasks[0].0, &tasks[0].1, tasks[0].2));
        docker.push(gigabits(&tasks[1].0, &tasks[1].1, tasks[1].2));
    }
    let (overlay, by_hand, docker) = (median(overlay), median(by_hand), median(docker));
    Table::new("iperf3, TCP, one stream", "by hand").compare(
        "between tasks on two hosts",
        "Gbit/s",
        overlay,
        by_hand,
    );
    Table::new("iperf3, TCP, one stream", "docker").compare(
        "between tasks on two hosts",
        "Gbit/s",
        overlay,
        docker,
    );
}

/// The namespaces of two tasks, and the address of the second.
fn tasks(side: &dyn Contender) -> (String, String, Ipv4Addr) {
    side.create_network("net", "10.0.9.0/24");
    side.create("web", "net", 2);
    side.wait_running("web", 2);
    let endpoints = side.endpoints("web");
    (endpoints[0].0.netns(), endpoints[1].0.netns(), endpoints[1].1)
}

fn gigabits(client: &str, server: &str, address: Ipv4Addr) -> f64 {
    let mut serving = Serving::start(server);
    let report = wait("an iperf3 run", Duration::from_secs(30), || {
        let arguments = ["-c", &address.to_string(), "-t", SECONDS, "-J"];
        let output = inside(client).args(arguments).output().map_err(|error| error.to_string())?;
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

fn inside(netns: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={netns}")).arg("iperf3");
    command
}

struct Serving(Child);

impl Serving {
    fn start(netns: &str) -> Self {
        let mut command = inside(netns);
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
