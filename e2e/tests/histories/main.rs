//! What clients are told while managers die, hang and are cut off is what one single manager could have told them.
//!
//! Clients on three hosts create, read, update and remove the same services at a time. Meanwhile the leader is
//! killed, stopped where it stands, or cut off, again and again, until others lead. Everything that was done and told
//! is then checked for linearizability, one name after the other. `SWARMD_HISTORY_SECONDS` makes it longer;
//! `SWARMD_HISTORY_READS=local` shows that reads from the replica alone do not pass.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

mod checker;
mod client;
mod registers;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use checker::check;
use client::{Client, History, Shared};
use e2e::{Host, Lab, PATIENCE, wait};
use proto::consistency::{LINEARIZABLE, LOCAL};
use registers::{Operation, Registers};

const CLIENTS_OF_A_HOST: usize = 2;
/// Names that are in use at a time.
const NAMES: usize = 3;
/// Things that are done with the names before others take their place: a history that is short is checked at once,
/// also where much is unknown.
const TURNS: usize = 250;

fn duration() -> Duration {
    let asked = std::env::var("SWARMD_HISTORY_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(asked.unwrap_or(20))
}

fn consistency() -> &'static str {
    let local = std::env::var("SWARMD_HISTORY_READS").is_ok_and(|asked| asked == LOCAL);
    if local { LOCAL } else { LINEARIZABLE }
}

/// What all clients do, one after the other.
struct Script {
    shared: Shared,
    turns: AtomicUsize,
    over: AtomicBool,
}

impl Script {
    fn name(turn: usize) -> String {
        format!("register-{}-{}", turn / TURNS, turn % NAMES)
    }

    async fn play(&self, number: usize, socket: &str) -> History {
        let mut client = Client::new(number, socket, &self.shared);
        let mut step = number;
        while !self.over.load(Ordering::Relaxed) {
            let name = Self::name(self.turns.fetch_add(1, Ordering::Relaxed));
            step += 1;
            match step % 8 {
                0 => Box::pin(client.create(&name)).await,
                2 | 4 | 6 => Box::pin(client.update(&name)).await,
                7 => client.remove(&name).await,
                _ => drop(client.read(&name).await),
            }
            // Nothing is learnt from a daemon that is not there, but much that is not known.
            while client.lost && !self.over.load(Ordering::Relaxed) && !client.read(&name).await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        client.history
    }
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill,
    Freeze,
    Cut,
}

impl Fault {
    fn strike(self, host: &Host) {
        match self {
            Self::Kill => host.kill(),
            Self::Freeze => host.freeze(),
            Self::Cut => host.cut(),
        }
    }

    fn mend(self, host: &Host) {
        match self {
            Self::Kill => host.launch(),
            Self::Freeze => host.resume(),
            Self::Cut => host.heal(),
        }
    }
}

/// The host of the leader, as one of `asked` sees it.
fn wait_leader<'a>(lab: &'a Lab, asked: &[&Host]) -> &'a Host {
    wait("a leader", PATIENCE, || {
        let answers = asked.iter().map(|host| {
            host.ctl_within(
                Duration::from_secs(3),
                &["node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}"],
            )
        });
        let answers: Vec<_> = answers.collect();
        let leader = answers
            .iter()
            .flat_map(|answer| answer.stdout.lines())
            .find_map(|line| line.strip_suffix(" Leader"));
        leader.map(|name| lab.host_named(name)).ok_or_else(|| format!("{answers:#?}"))
    })
}

fn wait_managers(lab: &Lab) {
    for host in lab.hosts() {
        wait(&format!("{} to take part", host.name()), PATIENCE, || {
            let shown =
                host.ctl_within(Duration::from_secs(5), &["node", "ls", "--consistency=linearizable"]);
            if shown.succeeded() { Ok(()) } else { Err(shown) }
        });
    }
}

/// One fault after the other, each until another manager leads. Returns how many of each kind.
fn afflict(lab: &Lab, until: Instant) -> usize {
    let mut struck = 0;
    for fault in [Fault::Kill, Fault::Freeze, Fault::Cut].into_iter().cycle() {
        if Instant::now() >= until {
            return struck;
        }
        let all: Vec<&Host> = lab.hosts().iter().collect();
        let leader = wait_leader(lab, &all);
        let others: Vec<&Host> = all.into_iter().filter(|host| host.name() != leader.name()).collect();
        fault.strike(leader);
        wait("another leader", PATIENCE, || {
            let now = wait_leader(lab, &others);
            if now.name() == leader.name() { Err("the same leads") } else { Ok(()) }
        });
        fault.mend(leader);
        struck += 1;
        wait_managers(lab);
    }
    struck
}

/// Lets all clients play their parts while `lab` has its faults; then reads each name once more on each manager.
fn record(lab: &Lab, script: &Script) -> (History, usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let hosts: Vec<String> = lab.hosts().iter().map(Host::socket).collect();
    let (mut history, struck) = std::thread::scope(|scope| {
        let parts = scope.spawn(|| {
            let parts = (0..hosts.len() * CLIENTS_OF_A_HOST).map(|n| script.play(n, &hosts[n % hosts.len()]));
            runtime.block_on(futures_util::future::join_all(parts))
        });
        let struck = afflict(lab, script.shared.start + duration());
        script.over.store(true, Ordering::Relaxed);
        (merge(parts.join().unwrap()), struck)
    });
    let names: Vec<String> = history.keys().cloned().collect();
    let last = hosts.iter().enumerate().map(|(number, socket)| {
        let names = &names;
        async move {
            let mut client = Client::new(100 + number, socket, &script.shared);
            for name in names {
                assert!(client.read(name).await, "{name} cannot be read at the end");
            }
            client.history
        }
    });
    let last = runtime.block_on(futures_util::future::join_all(last));
    for (name, mut calls) in merge(last) {
        history.entry(name).or_default().append(&mut calls);
    }
    (history, struck)
}

fn merge(histories: Vec<History>) -> History {
    let mut merged = History::new();
    for (name, mut calls) in histories.into_iter().flatten() {
        merged.entry(name).or_default().append(&mut calls);
    }
    merged
}

/// How many operations of each kind there were; those whose outcome is not known apart.
fn tally(history: &History) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for call in history.values().flatten() {
        let kind = match call.operation {
            Operation::Read(_) => "read",
            Operation::Create(_) => "create",
            Operation::Update { .. } => "update",
            Operation::Remove { .. } => "remove",
            Operation::CreateRefused | Operation::UpdateRefused(_) | Operation::RemoveRefused { .. } => {
                "refused"
            }
        };
        let unknown = if call.returned.is_none() { ", unknown" } else { "" };
        *tally.entry(format!("{kind}{unknown}")).or_default() += 1;
    }
    tally
}

#[test]
fn what_clients_are_told_is_linearizable_whatever_happens_to_the_leader() {
    let lab = Lab::swarm("histories", 3, 0);
    wait_managers(&lab);
    let shared = Shared { start: Instant::now(), writes: AtomicU32::new(1), consistency: consistency() };
    let script = Script { shared, turns: AtomicUsize::new(0), over: AtomicBool::new(false) };
    let (history, struck) = record(&lab, &script);
    let tally = tally(&history);
    println!("{struck} leaders were struck; {} names, {tally:?}", history.len());

    for (name, calls) in history {
        if let Err(violation) = check::<Registers>(calls) {
            let log = lab.folder().join("history.log");
            std::fs::write(log, &violation.explanation).unwrap();
            panic!("the history of {name} is not linearizable:\n{}", violation.explanation);
        }
    }
    assert!(struck >= 3, "a leader was struck {struck} times");
    for kind in ["read", "create", "update", "remove", "refused"] {
        let count = tally.get(kind).copied().unwrap_or_default();
        assert!(count >= 20, "too little was done to show anything: {tally:?}");
    }
}
