//! A process that is killed at any step of what it does to the kernel, each step in turn: the next one brings about
//! what is wanted then, whether that is what the dead one was about, or nothing.
//!
//! The one that dies is this program again, told by `SWARMD_DIE_AT` at which step.

#![allow(clippy::unwrap_used, reason = "tests")]

mod lab;

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use lab::*;
use netdriver::{Config, Desired, Netdriver, Place, Sandbox, Scope, Service, Services};
use nix::libc::SIGKILL;

const HOST: &str = "ND_HOST";
const DIR: &str = "ND_DIR";
const WISH: &str = "ND_WISH";

/// What a node may want, by name.
fn wish(name: &str) -> Desired {
    let vtep = "192.168.77.1".parse().unwrap();
    let sandbox = |attachments| Sandbox { attachments, outbound: true, resolver: true };
    let service = |backends: &[u16]| {
        let backends = backends.iter().map(|number| addresses(9, *number)[0].addr()).collect();
        let service = Arc::new(Service { backends, ..Service::default() });
        Services::unit(addresses(9, 200)[0].addr(), service)
    };
    let mut red = overlay(9, vtep);
    red.peers = [11, 12].map(|number| peer(9, number, "192.168.77.2".parse().unwrap())).into_iter().collect();
    red.services = service(&[10, 11]);
    match name {
        "nothing" => Desired::default(),
        "task" => Desired {
            networks: [("red".into(), red)].into(),
            sandboxes: [("t0".into(), sandbox(vec![attachment("red", 9, 10)]))].into(),
        },
        // The tunnels end elsewhere, one peer has moved, one went and one came; tasks came and changed.
        "other" => {
            red.port = 4790;
            red.peers =
                [11, 13].map(|number| peer(9, number, "192.168.77.3".parse().unwrap())).into_iter().collect();
            red.services = service(&[11, 13]);
            let both = vec![attachment("red", 9, 10), attachment("blue", 10, 10)];
            Desired {
                networks: [("red".into(), red), ("blue".into(), overlay(10, vtep))].into(),
                sandboxes: [("t0".into(), sandbox(both)), ("t1".into(), sandbox(vec![]))].into(),
            }
        }
        other => panic!("no wish is named {other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the process that dies: started by the other tests"]
async fn child() {
    let of = |name: &str| std::env::var(name).unwrap();
    let config = Config { host_netns: Some(of(HOST).into()), ..Config::new(PathBuf::from(of(DIR))) };
    let driver = Netdriver::open(config).await.unwrap();
    let report = driver.ensure(&wish(&of(WISH)), Scope::All).await;
    assert!(report.errors.is_empty(), "{:?}", report.errors);
}

struct Node {
    host: Host,
    _switch: Switch,
}

impl Node {
    async fn new() -> Self {
        let (mut hosts, switch) = hosts(1).await;
        Self { host: hosts.remove(0), _switch: switch }
    }

    /// Has another process bring `name` about and die at its `n`-th step; whether it got so far.
    fn die_at(&self, name: &str, n: usize) -> bool {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "child", "--nocapture"])
            .env(HOST, format!("/run/netns/{}", self.host.netns))
            .env(DIR, self.host.dir())
            .env(WISH, name)
            .env(failpoint::VARIABLE, format!("@{n}"))
            .output()
            .unwrap();
        let died = child.status.signal() == Some(SIGKILL);
        let told = String::from_utf8_lossy(&child.stderr);
        assert!(died || child.status.success(), "step {n} towards {name}: {}: {told}", child.status);
        died
    }

    /// What is there once `name` is wanted by a process that begins anew; and nothing is left to do.
    async fn bring(&mut self, name: &str) -> String {
        self.host.restart().await;
        ensure_all(&self.host, &wish(name)).await;
        assert_eq!(ensure_all(&self.host, &wish(name)).await, [""; 0], "not settled: {name}");
        self.picture().await
    }

    async fn picture(&self) -> String {
        let mut world = self.host.driver.observe().await.unwrap();
        for (place, namespace) in &mut world {
            // What the kernel draws by lot.
            let drawn = |name: &String| matches!(place, Place::Network(_)) && name != "br0";
            namespace.links.iter_mut().filter(|(name, _)| drawn(name)).for_each(|(_, link)| link.mac = None);
        }
        let views = world.keys().map(|place| {
            let shown = match place {
                Place::Host => self.host.traces(),
                Place::Network(_) => String::new(),
                Place::Sandbox(key) => succeeded(&self.host.in_sandbox(key.as_str(), "nft list ruleset")),
            };
            // Chains come in the order in which they were made, and numbers of devices with it.
            let mut lines: Vec<_> =
                shown.lines().map(|line| line.trim().split("@if").next().unwrap()).collect();
            lines.sort_unstable();
            format!("{place}:\n{}", lines.join("\n"))
        });
        format!("{world:#?}\n{}", views.collect::<Vec<_>>().join("\n"))
    }

    /// Dies at the `n`-th step towards `name`, with `then` wanted afterwards; whether there is such a step.
    async fn dies_towards(&mut self, name: &str, n: usize, then: &str, expected: &str) -> bool {
        let died = self.die_at(name, n);
        let picture = self.bring(then).await;
        assert!(
            picture == expected,
            "after a death at step {n} towards {name}, {then} differs:\n{}",
            difference(expected, &picture)
        );
        died
    }
}

fn difference(expected: &str, found: &str) -> String {
    let (expected, found): (BTreeSet<_>, BTreeSet<_>) = (expected.lines().collect(), found.lines().collect());
    format!(
        "missing {:#?}, left over {:#?}",
        expected.difference(&found).collect::<Vec<_>>(),
        found.difference(&expected).collect::<Vec<_>>()
    )
}

/// Dies on the way from one to the other at the first step, at the second, and so on; another process then brings
/// about what is wanted: to be there after all, or back.
async fn dies_at_each_step(one: &str, other: &str, then: &str) {
    let mut node = Node::new().await;
    let wanted = node.bring(then).await;
    let mut n = 1;
    loop {
        ensure_all(&node.host, &wish(one)).await;
        if !node.dies_towards(other, n, then, &wanted).await {
            break;
        }
        n += 1;
    }
    eprintln!("{} steps from {one} to {other}", n - 1);
    assert!(n > 8, "too few steps were reached: {n}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_process_began_to_attach_is_finished() {
    dies_at_each_step("nothing", "task", "task").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_process_began_to_attach_and_nobody_wants_leaves_no_trace() {
    dies_at_each_step("nothing", "task", "nothing").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_process_began_to_detach_leaves_no_trace() {
    dies_at_each_step("task", "nothing", "nothing").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_process_began_to_detach_and_is_wanted_again_comes_back_whole() {
    dies_at_each_step("task", "nothing", "task").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_process_began_to_change_is_finished() {
    dies_at_each_step("task", "other", "other").await;
}
