//! TCP between two tasks on two hosts, against a VXLAN made by hand between the same hosts.

use std::net::Ipv4Addr;

use e2e::bench::{RUNS, Table, median};
use e2e::iperf::gigabits;
use e2e::peer::Peer;
use e2e::underlay::by_hand;
use e2e::{Contender, Lab, Ours};

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
