//! Time until the work of a machine that died is done elsewhere: a worker's tasks, the leader's writes.

use std::time::Duration;

use e2e::bench::{RUNS, Table, median, seconds};
use e2e::peer::Peer;
use e2e::{Contender, Lab, Ours, wait};

const BOUND: Duration = Duration::from_secs(120);

fn main() {
    let (mut tasks, mut writes) = ([vec![], vec![]], [vec![], vec![]]);
    for _ in 0..RUNS {
        // A dead machine is dead: each run has swarms of its own, one after the other.
        let lab = Lab::swarm("bench failover", 3, 1);
        measure(&Ours(&lab), &mut tasks[0], &mut writes[0]);
        drop(lab);
        let lab = Lab::new("bench failover, the peer", 4);
        measure(&Peer::form(&lab, 3), &mut tasks[1], &mut writes[1]);
    }
    let table = Table::new("failover, 3 managers and a worker", "docker");
    let ([our_tasks, their_tasks], [our_writes, their_writes]) = (tasks, writes);
    table.compare("worker dies to its tasks run elsewhere", "s", median(our_tasks), median(their_tasks));
    table.compare("leader dies to a write is taken", "s", median(our_writes), median(their_writes));
}

fn measure(side: &dyn Contender, tasks: &mut Vec<f64>, writes: &mut Vec<f64>) {
    side.create_network("net", "10.0.9.0/24");
    side.create("web", "net", 4);
    side.wait_running("web", 4);
    let before = side.running("web");

    // The fourth host has one of the four.
    side.lab().host(4).power_off();
    tasks.push(seconds(|| {
        wait("a replacement", BOUND, || {
            let now = side.running("web");
            let new = now.iter().filter(|id| !before.contains(id)).count();
            if new > 0 && now.len() == 4 { Ok(()) } else { Err(format!("{new} new of {}", now.len())) }
        });
    }));

    // The first host formed the swarm and leads it.
    side.lab().host(1).power_off();
    writes.push(seconds(|| {
        wait("a write to be taken", BOUND, || {
            let create = ["network", "create", "--driver", "overlay", "--subnet", "10.0.10.0/24", "after"];
            let output = side.command_on(2, &create);
            if output.succeeded() || output.stderr.contains("exist") { Ok(()) } else { Err(output) }
        });
    }));
}
