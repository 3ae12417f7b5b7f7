//! Resident memory of the daemons on a manager and on a worker, idle and with 100 tasks on the three hosts.

use std::time::Duration;

use e2e::bench::{RUNS, Table, median};
use e2e::peer::Peer;
use e2e::{Contender, Host, Lab, Ours, resident_kib, running_program};

fn main() {
    let (our_lab, their_lab) = (Lab::swarm("bench memory", 1, 2), Lab::new("bench memory, the peer", 3));
    let (ours, theirs) = (Ours(&our_lab), Peer::form(&their_lab, 1));
    for side in [&ours as &dyn Contender, &theirs] {
        side.create_network("net", "10.0.8.0/22");
    }

    let table = Table::new("resident memory", theirs.name());
    compare(&table, "idle", &our_lab, &their_lab);
    for side in [&ours as &dyn Contender, &theirs] {
        side.create("web", "net", 100);
        side.wait_running("web", 100);
    }
    compare(&table, "100 tasks", &our_lab, &their_lab);
}

fn compare(table: &Table, when: &str, ours: &Lab, theirs: &Lab) {
    for (role, number) in [("manager", 1), ("worker", 2)] {
        let (our_host, their_host) = (ours.host(number), theirs.host(number));
        let daemon = (mebibytes(our_host, "swarmd"), mebibytes(their_host, "dockerd"));
        table.compare(&format!("{role}, {when}: daemon"), "MiB", daemon.0, daemon.1);
        let runtime = (mebibytes(our_host, "containerd"), mebibytes(their_host, "containerd"));
        table.compare(&format!("{role}, {when}: its containerd"), "MiB", runtime.0, runtime.1);
    }
}

/// Memory moves: looked at `RUNS` times, a second apart.
fn mebibytes(host: &Host, program: &str) -> f64 {
    let look = || {
        let pids = running_program(program, &format!("{}/", host.folder().display()));
        pids.into_iter().filter_map(resident_kib).sum::<u64>() as f64 / 1024.0
    };
    let mut looks = Vec::new();
    for _ in 0..RUNS {
        std::thread::sleep(Duration::from_secs(1));
        looks.push(look());
    }
    median(looks)
}
