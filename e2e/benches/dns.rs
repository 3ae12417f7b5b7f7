//! Questions per second that a task's name server answers, and how long the slowest of a hundred takes.
//!
//! The same client asks both sides from inside a task: one question at a time, and from 16 clients at once.

use std::time::Duration;

use e2e::bench::{RUNS, Table, median};
use e2e::names::{Pace, pace};
use e2e::peer::Peer;
use e2e::{Contender, Lab, Ours};

const PERIOD: Duration = Duration::from_secs(2);
const CLIENTS: [usize; 2] = [1, 16];
/// Names, and how many addresses they have.
const NAMES: [(&str, usize); 2] = [("one", 1), ("ten", 10)];

fn main() {
    let (our_lab, their_lab) = (Lab::swarm("bench dns", 1, 0), Lab::new("bench dns, the peer", 1));
    let (ours, theirs) = (Ours(&our_lab), Peer::form(&their_lab, 1));
    let sides = [&ours as &dyn Contender, &theirs];
    for side in sides {
        side.create_network("net", "10.0.40.0/24");
        for (name, replicas) in NAMES {
            side.create(name, "net", replicas);
            side.wait_running(name, replicas);
        }
    }
    let table = Table::new("names answered to one task", theirs.name());
    for (name, replicas) in NAMES {
        for clients in CLIENTS {
            let mut paces: [Vec<Pace>; 2] = [vec![], vec![]];
            for _ in 0..RUNS {
                for (at, side) in sides.into_iter().enumerate() {
                    let (inside, _) = side.endpoints("one")[0];
                    paces[at].push(pace(inside, &format!("tasks.{name}."), clients, PERIOD));
                }
            }
            let of = |at: usize, figure: fn(&Pace) -> f64| median(paces[at].iter().map(figure).collect());
            let what = format!("{replicas} addresses, {clients} clients");
            table.compare(
                &format!("{what}: per second"),
                "",
                of(0, |p| p.per_second),
                of(1, |p| p.per_second),
            );
            table.compare(&format!("{what}: p99"), "ms", of(0, |p| p.p99_ms), of(1, |p| p.p99_ms));
        }
    }
}
