//! Those who write: one or more on each machine, through its own manager, as long as it lives.
//!
//! They keep what they were answered. Their writes are of four kinds: objects that are made once (nothing that was
//! acknowledged may be lost, nothing that was refused may appear), a counter (each increment has at most one effect), tasks
//! with addresses (no two share one), and writes of the leader's loops (void in any other term).

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use proto::model::{Mode, ServiceSpec, TaskId};
use tokio::time::{Instant, sleep};

use super::machine::Life;
use super::{World, lock};
use crate::fixtures as make;
use crate::{Object, Store, Transaction, UpdateError, Violation};

/// So many can be held at once: `NETWORK` without the first and the last address and the gateway's.
const NETWORK: &str = "10.0.9.0/28";
const ADDRESSES: std::ops::RangeInclusive<u8> = 2..=14;

/// What clients were told.
#[derive(Debug, Default)]
pub(super) struct Answers {
    pub(super) made: BTreeSet<String>,
    pub(super) unknown: BTreeSet<String>,
    refused: BTreeSet<String>,
    incremented: u64,
    perhaps_incremented: u64,
    pub(super) acknowledged: u64,
}

/// What there is before anybody writes.
pub(super) fn objects() -> Vec<Object> {
    vec![
        make::cluster_with_snapshots(30, 1, 8).into(),
        make::allocated("net", NETWORK, 4097).into(),
        make::service("web", &["net"]).into(),
        make::service("counter", &[]).into(),
    ]
}

/// Until its life ends.
pub(super) async fn run(world: Arc<World>, life: Arc<Life>, store: Store, name: String) {
    while store.view().service(&"counter".into()).is_none() {
        sleep(Duration::from_millis(50)).await;
    }
    for number in 0.. {
        sleep(world.millis(0..200)).await;
        if world.is_quiet() {
            return;
        }
        let id = format!("{name}-{number}");
        let client = Client { world: &world, life: &life, store: &store };
        match world.millis(0..10).as_millis() {
            0..4 => client.make(id).await,
            4..6 => client.increment().await,
            6..8 => client.take_address(id).await,
            8 => client.release().await,
            _ => client.make_as_leader(id).await,
        }
    }
}

struct Client<'a> {
    world: &'a World,
    life: &'a Life,
    store: &'a Store,
}

/// While nobody knows: a life may end before the answer.
enum Open<'a> {
    Make(&'a str),
    Increment,
    Other,
}

/// One write through one manager, as any other client's.
pub(super) async fn make(world: &World, life: &Life, store: &Store, id: &str) {
    Client { world, life, store }.make(id.into()).await;
}

impl Client<'_> {
    fn begin(&self, what: &Open<'_>) {
        let checks = &mut lock(&self.world.checks).answers;
        match what {
            Open::Make(id) => drop(checks.unknown.insert((*id).into())),
            Open::Increment => checks.perhaps_incremented += 1,
            Open::Other => {}
        }
    }

    /// What was answered, unless the manager died before it said so.
    fn end<T, E>(&self, what: &Open<'_>, answer: &Result<T, UpdateError<E>>) {
        if !self.life.alive() {
            return;
        }
        let word = match answer {
            Ok(_) => "done",
            Err(UpdateError::Unknown(_) | UpdateError::Stopped) => return,
            Err(UpdateError::Unstorable(reason)) => return self.world.flaw(reason),
            Err(_) => "refused",
        };
        let answers = &mut lock(&self.world.checks).answers;
        answers.acknowledged += u64::from(answer.is_ok());
        match what {
            Open::Make(id) => {
                answers.unknown.remove(*id);
                let known = if answer.is_ok() { &mut answers.made } else { &mut answers.refused };
                known.insert((*id).into());
                self.world.note(format_args!("m{} {word} {id}", self.life.machine));
            }
            Open::Increment => {
                answers.perhaps_incremented -= 1;
                answers.incremented += u64::from(answer.is_ok());
                self.world.note(format_args!("m{} {word} increment", self.life.machine));
            }
            Open::Other => {}
        }
    }

    async fn make(&self, id: String) {
        let open = Open::Make(&id);
        self.begin(&open);
        let started = Instant::now();
        let create = |tx: &mut Transaction| {
            tx.create(make::node(&id));
            Ok::<_, Infallible>(())
        };
        let answer = Box::pin(self.store.update(create)).await;
        // It may have been told before its own replica has heard of it, but not in a hurry.
        let late = started.elapsed() >= Duration::from_secs(10);
        if answer.is_ok() && !late && self.store.view().node(&id.as_str().into()).is_none() {
            self.world.flaw(format_args!("m{} does not see what it has written: {id}", self.life.machine));
        }
        self.end(&open, &answer);
    }

    async fn make_as_leader(&self, id: String) {
        let Some(term) = self.store.leadership().borrow().leading else { return };
        let open = Open::Make(&id);
        self.begin(&open);
        let create = |tx: &mut Transaction| {
            tx.create(make::node(&id));
            Ok::<_, Infallible>(())
        };
        let answer = Box::pin(self.store.update_as_leader(term, create)).await;
        self.end(&open, &answer);
    }

    async fn increment(&self) {
        self.begin(&Open::Increment);
        let increment = |tx: &mut Transaction| {
            let counter = tx.service(&"counter".into()).cloned().expect("it was made first");
            let mut counter = proto::model::Service::clone(&counter);
            let mode = Mode::Replicated { replicas: count(&counter.spec) + 1 };
            counter.spec = Arc::new(ServiceSpec { mode, ..ServiceSpec::clone(&counter.spec) });
            tx.update(counter);
            Ok::<_, Infallible>(())
        };
        let answer = Box::pin(self.store.update(increment)).await;
        self.end(&Open::Increment, &answer);
    }

    async fn take_address(&self, id: String) {
        let net = "net".into();
        let take = |tx: &mut Transaction| {
            let address = |host: u8| IpAddr::from(Ipv4Addr::new(10, 0, 9, host));
            let free = ADDRESSES.map(address).find(|address| tx.address_owner(&net, *address).is_none());
            let address = free.ok_or(())?;
            tx.create(make::attached(make::task(&id, "web", 1), "net", &format!("{address}/28")));
            Ok::<_, ()>(())
        };
        let answer = Box::pin(self.store.update(take)).await;
        if let Err(UpdateError::Violated(violation)) = &answer
            && !matches!(violation, Violation::AddressTaken { .. })
        {
            self.world.flaw(format_args!("m{} was refused: {violation}", self.life.machine));
        }
        self.end(&Open::Other, &answer);
    }

    async fn release(&self) {
        let view = self.store.view();
        let tasks: Vec<TaskId> = view.tasks().map(|task| task.id.clone()).collect();
        if tasks.is_empty() {
            return;
        }
        let chosen = self.world.draw(|chance| rand::Rng::random_range(chance, 0..tasks.len()));
        let release = |tx: &mut Transaction| {
            tx.remove(tasks[chosen].clone());
            Ok::<_, Infallible>(())
        };
        let answer = Box::pin(self.store.update(release)).await;
        self.end(&Open::Other, &answer);
    }
}

fn count(spec: &ServiceSpec) -> u64 {
    match spec.mode {
        Mode::Replicated { replicas } => replicas,
        Mode::Global => 0,
    }
}

impl Answers {
    /// What is wrong with the state in which everything ended.
    pub(super) fn flaws(&self, tables: &crate::Tables) -> Vec<String> {
        let there: BTreeSet<String> = tables.nodes().map(|node| node.id.to_string()).collect();
        let lost = self.made.difference(&there).map(|id| format!("{id} was acknowledged and is lost"));
        let surprises = self.refused.intersection(&there).map(|id| format!("{id} was refused and is there"));
        let mut flaws: Vec<String> = lost.chain(surprises).collect();
        let counted = tables.service(&"counter".into()).map_or(0, |counter| count(&counter.spec) - 1);
        let most = self.incremented + self.perhaps_incremented;
        if !(self.incremented..=most).contains(&counted) {
            flaws.push(format!("{counted} increments are there, {} to {most} were made", self.incremented));
        }
        flaws
    }
}
