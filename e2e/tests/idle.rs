//! A swarm in which nothing happens does nothing: no entry of the log, hardly any processor time.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant, SystemTime};

use e2e::{Host, Lab, PATIENCE, wait};

const QUIET: Duration = Duration::from_secs(30);
/// Part of one core. Heartbeats of Raft take a third of it in a build without optimisation, ten a second to each of the
/// others; a loop that spins takes all.
const MOST_PROCESSOR: f64 = 0.15;

/// The files of the replicated store with their sizes and times.
fn store(host: &Host) -> BTreeMap<String, (u64, SystemTime)> {
    let files = fs::read_dir(host.folder().join("data/raft")).unwrap();
    let files = files.map(|file| {
        let file = file.unwrap();
        let about = file.metadata().unwrap();
        (file.file_name().into_string().unwrap(), (about.len(), about.modified().unwrap()))
    });
    files.collect()
}

fn stores(lab: &Lab) -> Vec<BTreeMap<String, (u64, SystemTime)>> {
    lab.hosts().iter().map(store).collect()
}

/// Processor time that `swarmd` has taken so far.
fn processor_time(host: &Host) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", host.pid())).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // User and system time are fields 14 and 15, in ticks of 10 ms.
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

#[test]
fn an_idle_swarm_writes_nothing_and_sleeps() {
    let lab = Lab::swarm("idle", 3, 0);
    let h1 = lab.host(1);
    h1.create_network("net", "10.0.9.0/24");
    h1.create_web(&lab, "web", "net", 3);
    let mut last = (stores(&lab), Instant::now());
    wait("the store to come to rest", PATIENCE, || {
        let now = stores(&lab);
        if now != last.0 {
            last = (now, Instant::now());
        }
        let rest = last.1.elapsed();
        if rest >= Duration::from_secs(5) { Ok(()) } else { Err(format!("quiet for {rest:?}")) }
    });

    let (before, start) = (stores(&lab), Instant::now());
    let times: Vec<_> = lab.hosts().iter().map(processor_time).collect();
    std::thread::sleep(QUIET);
    assert_eq!(stores(&lab), before, "something was written though nothing happened");
    for (host, before) in lab.hosts().iter().zip(times) {
        let part = (processor_time(host) - before).as_secs_f64() / start.elapsed().as_secs_f64();
        println!("{}: {:.2} % of a core", host.name(), part * 100.0);
        assert!(part < MOST_PROCESSOR, "{} takes {part:.3} of a core", host.name());
    }
}
