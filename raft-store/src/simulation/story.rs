//! One run: a group is made, everybody writes while everything fails, all is mended, and it comes together again.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::faults::Faults;
use super::machine::Life;
use super::moves::Moves;
use super::{World, clients, lock};
use crate::fixtures as make;
use crate::{Store, Transaction};

/// How often everything is looked at.
const STEP: Duration = Duration::from_millis(20);

/// How long things fail.
const TROUBLE: Duration = Duration::from_secs(10);

/// In which everything must be well again.
const PEACE: Duration = Duration::from_secs(90);

pub(super) const CLIENTS: usize = 2;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) digest: u64,
    pub(super) events: u64,
    pub(super) acknowledged: u64,
    pub(super) simulated: Duration,
}

/// What was found to be wrong is the error.
pub(super) fn run(seed: u64, loud: bool) -> Result<Report, String> {
    let machines = if seed.is_multiple_of(2) { 3 } else { 5 };
    run_with(World::plan(seed, machines, CLIENTS, loud), async |world| play(world).await)
}

/// The same with another story.
pub(super) fn run_with(
    plan: impl FnOnce() -> Arc<World>,
    story: impl AsyncFnOnce(&Arc<World>),
) -> Result<Report, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without I/O needs nothing");
    let (report, inhabited) = runtime.block_on(async {
        let world = plan();
        let inhabited = world.inhabit();
        Box::pin(story(&world)).await;
        for machine in &world.machines {
            machine.clear().await;
        }
        let (digest, events) = world.digest();
        let acknowledged = lock(&world.checks).answers.acknowledged;
        let report = Report { digest, events, acknowledged, simulated: world.elapsed() };
        (world.found().map_or(Ok(report), Err), inhabited)
    });
    // What is dropped with it is still part of the world.
    drop(runtime);
    drop(inhabited);
    report
}

async fn play(world: &Arc<World>) {
    begin(world).await;
    let (mut faults, mut moves) = (Faults::new(), Moves::default());
    let end = Instant::now() + TROUBLE;
    while Instant::now() < end && world.found().is_none() {
        sleep(STEP).await;
        step(world).await;
        moves.step(world).await;
        faults.step(world, &mut moves).await;
    }
    world.note("peace");
    faults.end(world);
    world.set_quiet();
    let end = Instant::now() + PEACE;
    let mut last = Last::new(world);
    while world.found().is_none() && !(moves.are_over() && last.is_over(world)) {
        if Instant::now() > end {
            world.flaw(format_args!("has not come together again: {}; {moves:?}", last.missing(world)));
        }
        sleep(STEP).await;
        step(world).await;
        moves.step(world).await;
    }
    if world.found().is_none() {
        audit(world);
        audit_members(world);
    }
}

/// Whether the group is made of those who are there, and each votes.
fn audit_members(world: &World) {
    let there: BTreeSet<_> = world.machines.iter().filter_map(|m| Some(m.store()?.raft_id())).collect();
    for machine in &world.machines {
        let Some(store) = machine.store() else { continue };
        let members = store.membership().members();
        let voters: BTreeSet<_> = members.iter().filter(|member| member.voter).map(|m| m.raft_id).collect();
        if voters != there || members.len() != there.len() {
            world.flaw(format_args!("m{} has the members {members:?}", machine.index));
        }
    }
}

/// Whether everybody has what was acknowledged.
pub(super) fn audit(world: &World) {
    for machine in &world.machines {
        let Some(store) = machine.store() else { continue };
        let flaws = lock(&world.checks).answers.flaws(&store.view());
        flaws.iter().for_each(|flaw| world.flaw(format_args!("m{}: {flaw}", machine.index)));
    }
}

/// All machines run, as one group.
pub(super) async fn begin(world: &Arc<World>) {
    (0..world.machines.len()).for_each(|machine| boot(world, machine));
    if timeout(PEACE, found(world)).await.is_err() {
        world.flaw("no group was made");
    }
}

pub(super) fn boot(world: &Arc<World>, machine: usize) {
    lock(&world.checks).begin(machine);
    let there = world.clone();
    world.machines[machine].boot(world, move |store, life| async move {
        for client in 0..there.clients {
            let name = format!("m{machine}-{}-{client}", life.number());
            let writing = clients::run(there.clone(), life.clone(), store.clone(), name);
            life.spawn(writing);
        }
        let reason = store.failed().await;
        there.machines[machine].failed(&there, &life, &reason);
    });
}

/// The first machine makes the group, and has the others join.
async fn found(world: &Arc<World>) {
    loop {
        sleep(STEP).await;
        let open: Option<Vec<(Store, Arc<Life>)>> =
            world.machines.iter().map(|machine| machine.store().zip(machine.life())).collect();
        let Some(open) = open else { continue };
        let (first, life) = open[0].clone();
        let others: Vec<_> =
            world.machines[1..].iter().map(|machine| (machine.node_id(), machine.addr())).collect();
        let making = life.spawn(async move {
            first.bootstrap(clients::objects()).await.map_err(|error| error.to_string())?;
            for (node_id, addr) in others {
                first.membership().add(node_id, addr).await.map_err(|error| error.to_string())?;
            }
            Ok::<_, String>(())
        });
        match making.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => world.flaw(error),
            Err(error) => world.flaw(error),
        }
        return;
    }
}

/// Those who are dead are cleared away and start again some time later; the living are looked at.
pub(super) async fn step(world: &Arc<World>) {
    for machine in &world.machines {
        if machine.is_dead() {
            machine.clear().await;
            machine.rest(world);
        }
        if machine.is_empty() && machine.has_rested() {
            boot(world, machine.index);
        }
        if let Some(store) = machine.store() {
            lock(&world.checks).look(world, machine.index, &store);
        }
    }
}

/// The last writes, one on each machine, and whether all have all of it.
struct Last {
    begun: Vec<Option<(u32, tokio::task::JoinHandle<bool>)>>,
    written: Vec<bool>,
}

impl Last {
    fn new(world: &World) -> Self {
        let count = world.machines.len();
        Self { begun: (0..count).map(|_| None).collect(), written: vec![false; count] }
    }

    fn is_over(&mut self, world: &World) -> bool {
        for machine in &world.machines {
            self.write(machine.index, machine.store().zip(machine.life()));
        }
        let views: Vec<_> = world.machines.iter().filter_map(|m| Some(m.store()?.view().index())).collect();
        let all = views.len() == world.machines.len() && views.iter().all(|index| *index == views[0]);
        all && self.written.iter().all(|written| *written)
    }

    fn write(&mut self, machine: usize, alive: Option<(Store, Arc<Life>)>) {
        let Some((store, life)) = alive.filter(|_| !self.written[machine]) else { return };
        let begun = &mut self.begun[machine];
        if begun.as_ref().is_some_and(|(number, task)| *number == life.number() && !task.is_finished()) {
            return;
        }
        if store.view().node(&format!("last-{machine}").into()).is_some() {
            self.written[machine] = true;
            return;
        }
        let task = life.spawn(async move {
            let create = |tx: &mut Transaction| {
                let last = make::node(&format!("last-{machine}"));
                if tx.node(&last.id).is_none() {
                    tx.create(last);
                }
                Ok::<_, Infallible>(())
            };
            Box::pin(store.update(create)).await.is_ok()
        });
        *begun = Some((life.number(), task));
    }

    fn missing(&self, world: &World) -> String {
        let state = |machine: &super::machine::Machine| match machine.store() {
            None => format!("m{} is not up", machine.index),
            Some(store) => format!(
                "m{} is at {}, {:?}, {}",
                machine.index,
                store.view().index(),
                *store.leadership().borrow(),
                if self.written[machine.index] { "can write" } else { "cannot write" }
            ),
        };
        world.machines.iter().map(state).collect::<Vec<_>>().join("; ")
    }
}
