//! Time, and processor time, from `service create` to all replicas running on three hosts.

use e2e::bench::{RUNS, Table, busy_seconds, median, seconds};
use e2e::peer::Peer;
use e2e::{Contender, Lab, Ours};

fn main() {
    let (our_lab, their_lab) = (Lab::swarm("bench converge", 1, 2), Lab::new("bench converge, the peer", 3));
    let (ours, theirs) = (Ours(&our_lab), Peer::form(&their_lab, 1));
    for side in [&ours as &dyn Contender, &theirs] {
        side.create_network("net", "10.0.8.0/22");
        // The first service of each pulls the image.
        side.create("warm", "net", 3);
        side.wait_running("warm", 3);
        side.remove("warm");
    }

    let table = Table::new("service create to running, 3 hosts", theirs.name());
    for replicas in [10, 50, 100] {
        let (mut times, mut busy) = ([vec![], vec![]], [vec![], vec![]]);
        for _ in 0..RUNS {
            for (at, side) in [&ours as &dyn Contender, &theirs].into_iter().enumerate() {
                let used = busy_seconds();
                times[at].push(seconds(|| {
                    side.create("web", "net", replicas);
                    side.wait_running("web", replicas);
                }));
                busy[at].push((busy_seconds() - used) / replicas as f64);
                side.remove("web");
            }
        }
        let ([our_times, their_times], [our_busy, their_busy]) = (times, busy);
        table.compare(&format!("{replicas} replicas running"), "s", median(our_times), median(their_times));
        table.compare("  processor time a task", "s", median(our_busy), median(their_busy));
    }
}
