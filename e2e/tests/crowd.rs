//! Many networks, many tasks, and tasks that end as soon as they begin.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

use std::collections::BTreeSet;

use e2e::{Host, Lab, PATIENCE, wait};

/// Networks, and tasks on each. `SWARMD_CROWD=10x50` runs as many as that.
fn crowd() -> (usize, usize) {
    let asked = std::env::var("SWARMD_CROWD").ok();
    let asked = asked.and_then(|text| {
        let (networks, tasks) = text.split_once('x')?;
        Some((networks.parse().ok()?, tasks.parse().ok()?))
    });
    asked.unwrap_or((10, 4))
}

#[track_caller]
fn wait_same(host: &Host, before: &BTreeSet<String>) {
    wait(&format!("{} to have no trace", host.name()), 3 * PATIENCE, || {
        let now = host.footprint();
        if now == *before { Ok(()) } else { Err(format!("{:#?}", now.symmetric_difference(before))) }
    });
}

#[test]
fn ten_networks_with_their_tasks_come_and_go_at_once() {
    let lab = Lab::swarm("ten networks come and go at once", 1, 2);
    let h1 = lab.host(1);
    let before: Vec<_> = lab.hosts().iter().map(Host::footprint).collect();
    let (networks, tasks) = crowd();
    let each = |work: &(dyn Fn(usize) + Sync)| {
        std::thread::scope(|scope| {
            (0..networks).for_each(|number| drop(scope.spawn(move || work(number))));
        });
    };

    let start = std::time::Instant::now();
    each(&|number| {
        let (network, service) = (format!("net{number}"), format!("web{number}"));
        h1.create_network(&network, &format!("10.{number}.9.0/24"));
        let create = ["service", "create", "--detach", "--network", &network, "--name", &service];
        h1.ctl(&[&create[..], &["--replicas", &tasks.to_string(), &lab.web()]].concat()).ok();
    });
    for number in 0..networks {
        let running = h1.wait_running_within(10 * PATIENCE, &format!("web{number}"), tasks);
        let prefix = format!("10.{number}.9.");
        let (first, last) = (lab.enter(&running[0]), running[tasks - 1].address(&prefix));
        assert!(first.reaches(last), "network {number}");
    }
    eprintln!("{networks} networks of {tasks} tasks run after {:?}", start.elapsed());

    let start = std::time::Instant::now();
    each(&|number| {
        let (network, service) = (format!("net{number}"), format!("web{number}"));
        h1.ctl(&["service", "rm", &service]).ok();
        wait("the network to be free", 3 * PATIENCE, || {
            let removed = h1.ctl(&["network", "rm", &network]);
            if removed.succeeded() { Ok(()) } else { Err(removed) }
        });
    });
    lab.hosts().iter().zip(&before).for_each(|(host, before)| wait_same(host, before));
    eprintln!("and are gone after {:?}", start.elapsed());
}
