//! The directory at size: a network of 10,000 endpoints, from the store of a manager to the kernel of a node.
//!
//! A manager with its store in memory and the network part of a worker, each a process of its own, joined by the wire
//! protocol; the node's kernel is a network namespace. There are no containers: tasks are written into the store as the
//! scheduler and nodes would have. Beside it, in the same run, the same entries by `bridge -batch` and `ip -batch`.
//!
//! Needs root. Prints entries per second, the processor time of the node under changes, and the memory of both sides.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a program for measuring")]

#[path = "directory/manager.rs"]
mod manager;
#[path = "directory/node.rs"]
mod node;
#[path = "directory/parts.rs"]
mod parts;

use std::time::{Duration, Instant};

use parts::{Part, by_hand, namespace};

/// Tasks on other nodes.
const ENDPOINTS: usize = 10_000;
/// Tasks that end and are replaced.
const CHANGES_PER_SECOND: u64 = 200;
const SECONDS: u64 = 10;
/// In the two tables of the kernel.
const ENTRIES: usize = 2 * ENDPOINTS;

fn main() {
    match std::env::var("DIRECTORY_PART").as_deref() {
        Ok("manager") => return manager::run(),
        Ok("node") => return node::run(),
        _ => {}
    }
    let (host, other) = (namespace("host"), namespace("hand"));
    let mut manager = Part::start("manager", &[]);
    let address = manager.ask("address");
    let mut node = Part::start("node", &[("MANAGER", &address), ("NETNS", host.path())]);
    node.ask("attach");
    println!("\ndirectory: a network of {ENDPOINTS} endpoints\n");
    println!("memory before: manager {:.1} MiB, node {:.1} MiB", manager.mebibytes(), node.mebibytes());

    manager.ask(&format!("fill {ENDPOINTS}"));
    node.wait_entries(ENTRIES);
    println!("memory with all: manager {:.1} MiB, node {:.1} MiB", manager.mebibytes(), node.mebibytes());

    drop(node);
    drop(host);
    let host = namespace("host");
    let mut node = Part::start("node", &[("MANAGER", &address), ("NETNS", host.path())]);
    let (begun, busy) = (Instant::now(), node.busy());
    node.ask("attach");
    node.wait_entries(ENTRIES);
    let (ours, busy) = (begun.elapsed().as_secs_f64(), node.busy() - busy);
    let kernel: f64 = node.ask("seconds").parse().unwrap();
    println!("full set, new node: {ours:.2} s from the session to the last entry, {busy:.2} s of processor");
    println!("  of it the kernel's part (pass over the network): {kernel:.2} s");
    let hand = by_hand(&other, ENDPOINTS);
    println!("the same by bridge -batch and ip -batch: {hand:.2} s");
    let per_second = |seconds: f64| ENTRIES as f64 / seconds;
    println!(
        "entries per second: {:.0} from the session on, {:.0} in the kernel's part, {:.0} by hand; ratio {:.2} and {:.2}",
        per_second(ours),
        per_second(kernel),
        per_second(hand),
        hand / ours,
        hand / kernel,
    );
    println!("memory of a new node with all: {:.1} MiB", node.mebibytes());

    let applied: usize = node.ask("entries").parse().unwrap();
    let before = (node.busy(), manager.busy(), node.ask("passes").parse::<u64>().unwrap());
    manager.ask(&format!("change {CHANGES_PER_SECOND} {SECONDS}"));
    // Each replacement removes two entries and makes two.
    node.wait_entries(applied + 4 * (CHANGES_PER_SECOND * SECONDS) as usize);
    let passes = node.ask("passes").parse::<u64>().unwrap() - before.2;
    let percent = |busy: f64| 100.0 * busy / SECONDS as f64;
    println!(
        "{CHANGES_PER_SECOND} replacements a second for {SECONDS} s: node {:.1} % of a processor in {passes} passes, manager {:.1} %",
        percent(node.busy() - before.0),
        percent(manager.busy() - before.1),
    );
    std::thread::sleep(Duration::from_secs(1));
    println!("memory after: manager {:.1} MiB, node {:.1} MiB\n", manager.mebibytes(), node.mebibytes());
}
