//! 100,000 objects: how fast the last ones are created beside the first ones, how long writes wait while managers build
//! snapshots, and what it takes to save all of it, to restore it, and to bring it to a manager that joins.
//!
//! etcd, with as many keys, is asked for the same where it has the same.

#[path = "snapshot/filling.rs"]
mod filling;
#[path = "writers/mod.rs"]
mod writers;

use std::fs;
use std::time::Duration;

use e2e::bench::{Table, seconds};
use e2e::etcd::Etcd;
use e2e::{Host, Lab, forget_peak, peak_kib, resident_kib, wait};
use filling::Filling;
use tokio::runtime::Runtime;
use writers::Group;

const OBJECTS: usize = 100_000;
const CLIENTS: usize = 64;
const BOUND: Duration = Duration::from_secs(120);

fn main() {
    let runtime = Runtime::new().unwrap_or_else(|error| panic!("no runtime: {error}"));
    let mut lab = Lab::plain_swarm("bench snapshot", 3);
    // One that joins, and one that begins again from the file.
    lab.add_host();
    lab.add_host();
    let etcd_lab = Lab::new("bench snapshot, etcd", 3);
    let etcd = Etcd::form(&etcd_lab);
    let (managers, theirs) = (&lab.hosts()[..3], Group::of_etcd(&etcd));
    wait("etcd to take a write", BOUND, || {
        runtime.block_on(async { theirs.connect(0).await?.create("first").await })
    });

    let table = Table::once(&format!("{OBJECTS} objects, 3 managers"), "etcd");
    let building = || managers.iter().any(is_building);
    let ours = Filling::run(&runtime, &Group::of_hosts(managers), OBJECTS, CLIENTS, building);
    let other = Filling::run(&runtime, &theirs, OBJECTS, CLIENTS, || false);
    table.compare("created, the first tenth", "/s", ours.first_tenth, other.first_tenth);
    table.compare("created, the last tenth", "/s", ours.last_tenth, other.last_tenth);
    table.compare("longest time without an answer", "ms", ours.longest_silence_ms, other.longest_silence_ms);
    table.alone("  while a manager built a snapshot", "ms", ours.longest_silence_building_ms);
    table.alone("  share of the time that some built one", "%", ours.building_percent);
    let memory = managers.iter().map(|host| mebibytes(resident_kib(host.pid()))).fold(0.0, f64::max);
    let theirs_memory = etcd.pids().into_iter().map(|pid| mebibytes(resident_kib(pid))).fold(0.0, f64::max);
    table.compare("resident memory of a member", "MiB", memory, theirs_memory);
    let disk: u64 = snapshots(&managers[0]).map(|(_, bytes)| bytes).sum();
    table.alone("snapshot on a manager's disk", "MiB", disk as f64 / f64::from(1 << 20));

    save(&runtime, &table, &managers[0], &theirs);
    join(&runtime, &table, &lab);
    managers.iter().chain([lab.host(4)]).for_each(Host::kill);
    restore(&runtime, &table, &lab);
    lab.host(5).kill();
}

/// While a snapshot is written it has another name.
fn is_building(host: &Host) -> bool {
    snapshots(host).any(|(name, _)| name.ends_with(".tmp"))
}

fn snapshots(host: &Host) -> impl Iterator<Item = (String, u64)> {
    let entries = fs::read_dir(host.store()).into_iter().flatten().flatten();
    let named = entries.map(|entry| {
        (entry.file_name().to_string_lossy().into_owned(), entry.metadata().map_or(0, |data| data.len()))
    });
    named.filter(|(name, _)| name.starts_with("snapshot"))
}

fn mebibytes(kib: Option<u64>) -> f64 {
    kib.unwrap_or_default() as f64 / 1024.0
}

fn file(host: &Host) -> String {
    // Beside the hosts' folders: it outlives its host.
    host.folder().with_file_name("snapshot").display().to_string()
}

fn save(runtime: &Runtime, table: &Table, host: &Host, etcd: &Group) {
    let (pid, file) = (host.pid(), file(host));
    let before = mebibytes(resident_kib(pid));
    forget_peak(pid);
    let took = seconds(|| drop(host.ctl(&["swarm", "snapshot", "save", &file]).ok()));
    let bytes = fs::metadata(&file).map_or(0, |data| data.len());
    let mut their_bytes = 0;
    let theirs = seconds(|| their_bytes = runtime.block_on(etcd.snapshot_bytes()));
    table.compare("saved", "s", took, theirs);
    table.compare(
        "  size",
        "MiB",
        bytes as f64 / f64::from(1 << 20),
        their_bytes as f64 / f64::from(1 << 20),
    );
    table.alone("  memory that it took", "MiB", mebibytes(peak_kib(pid)) - before);
}

/// A manager without anything, until it takes a write: then it has seen all that was written before.
fn join(runtime: &Runtime, table: &Table, lab: &Lab) {
    let (first, host) = (lab.host(1), lab.host(4));
    host.launch_plain();
    host.wait_ready();
    let token = first.token("manager");
    let took = seconds(|| {
        host.join(&token, first).ok();
        take_write(runtime, host, "joined");
    });
    table.alone("a manager joined and has all", "s", took);
    table.alone("  most memory of it", "MiB", mebibytes(peak_kib(host.pid())));
}

fn restore(runtime: &Runtime, table: &Table, lab: &Lab) {
    let host = lab.host(5);
    host.launch_plain();
    host.wait_ready();
    let addr = host.addr().to_string();
    let took = seconds(|| {
        host.ctl(&["swarm", "snapshot", "restore", "--advertise-addr", &addr, &file(host)]).ok();
        take_write(runtime, host, "restored");
    });
    table.alone("restored to a write", "s", took);
    table.alone("  most memory of it", "MiB", mebibytes(peak_kib(host.pid())));
}

fn take_write(runtime: &Runtime, host: &Host, name: &str) {
    let group = Group::of_hosts(std::slice::from_ref(host));
    wait(&format!("{} to take a write", host.name()), BOUND, || {
        runtime.block_on(async { group.connect(0).await?.create(name).await })
    });
}
