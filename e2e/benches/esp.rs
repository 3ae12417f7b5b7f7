//! Throughput and round trips between two hosts of a guest with a kernel that has ESP: an encrypted network of ours, and
//! the same layout with associations made by hand. The guest is emulated: only the ratios say something.

use e2e::bench::{RUNS, Table, median};
use e2e::iperf::gigabits;
use e2e::rally::round_trips;
use e2e::underlay::{Layout, encrypt};
use e2e::{Contender, Lab, Ours, guest};

/// Of the underlay's 1500, less 50 for VXLAN over IPv4 and 34 for ESP.
const MTU: u32 = 1416;

fn main() {
    if guest::run_self(&[]) {
        return;
    }
    // A guest can be slow beyond the usual patience of managers.
    let lab = Lab::swarm_with("bench esp", 1, 1, &["--dispatcher-heartbeat", "60s"]);
    let hosts = [lab.host(1), lab.host(2)];
    let ours = overlay(&Ours(&lab));
    let hand = Layout::Same { mtu: MTU }.between(hosts).map(|end| (end.netns, end.address));
    encrypt(hosts);

    let mut figures: [[Vec<f64>; 2]; 2] = Default::default();
    for _ in 0..RUNS {
        for (at, [client, server]) in [&ours, &hand].into_iter().enumerate() {
            figures[0][at].push(round_trips(&client.0, &server.0, server.1).median_us);
            figures[1][at].push(gigabits(&client.0, &server.0, server.1) * 1000.0);
        }
    }
    let table = Table::new("encrypted, in an emulated guest", "by hand");
    let [trips, rates] = figures.map(|sides| sides.map(median));
    table.compare("TCP, one stream", "Mbit/s", rates[0], rates[1]);
    table.compare("round trip", "us", trips[0], trips[1]);
}

/// Namespaces and addresses of two tasks on two hosts.
fn overlay(side: &Ours<'_>) -> [(String, std::net::Ipv4Addr); 2] {
    let create = ["network", "create", "--driver", "overlay", "--subnet", "10.0.9.0/24"];
    side.command(&[&create[..], &["--opt", "encrypted=true", "sealed"]].concat()).ok();
    [1, 2].map(|number| {
        let name = format!("web{number}");
        side.create_at(&name, "sealed", number, 1);
        side.wait_running(&name, 1);
        let (inside, address) = side.endpoints(&name)[0];
        (inside.netns(), address)
    })
}
