//! What seeds have found, told step by step, so that it stays found whatever the seeds run into.

use std::sync::Arc;
use std::time::Duration;

use openraft::ChangeMembers;
use tokio::time::{Instant, sleep};

use super::World;
use super::clients;
use super::disk::{Death, Loss};
use super::story::{audit, begin, boot, run_with, step};
use crate::Backend;
use crate::types::Address;

fn tell(machines: usize, story: impl AsyncFnOnce(&Arc<World>)) {
    let loud = std::env::var_os("SWARMD_SIM_LOUD").is_some();
    run_with(World::plan(7, machines, 0, loud), story).unwrap();
}

/// Everything goes on until the condition holds.
async fn until(world: &Arc<World>, what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < end, "not within a minute: {what}");
        sleep(Duration::from_millis(5)).await;
        step(world).await;
    }
}

async fn leader(world: &Arc<World>) -> usize {
    let leads = |machine: usize| {
        let store = world.machines[machine].store();
        store.is_some_and(|store| store.leadership().borrow().leading.is_some())
    };
    until(world, "somebody leads", || (0..world.machines.len()).any(leads)).await;
    (0..world.machines.len()).find(|machine| leads(*machine)).expect("somebody leads")
}

/// Written through `machine`, and acknowledged once this returns.
async fn make(world: &Arc<World>, machine: usize, id: &'static str) {
    let made = || super::lock(&world.checks).answers.made.contains(id);
    while !made() {
        let (life, store) = world.machines[machine].life().zip(world.machines[machine].store()).unwrap();
        let there = world.clone();
        let task = {
            let life = life.clone();
            life.clone().spawn(async move { clients::make(&there, &life, &store, id).await })
        };
        until(world, id, || task.is_finished()).await;
    }
}

async fn everywhere(world: &Arc<World>, machines: &[usize], id: &'static str) {
    let has = |machine: &usize| {
        let store = world.machines[*machine].store();
        store.is_some_and(|store| store.view().node(&id.into()).is_some())
    };
    until(world, "all have it", || machines.iter().all(has)).await;
    audit(world);
}

#[test]
fn a_leader_that_restarts_does_not_lead_on_in_its_term_without_what_it_had_sent() {
    tell(3, async |world| {
        begin(world).await;
        let leading = leader(world).await;
        // The others commit it before it is on the leader's own disk.
        world.machines[leading].set_disk(Duration::from_secs(30));
        make(world, leading, "first").await;
        world.machines[leading].kill();
        world.machines[leading].clear().await;
        world.machines[leading].set_disk(Duration::from_millis(1));
        boot(world, leading);
        until(world, "it is up", || world.machines[leading].store().is_some()).await;
        make(world, leading, "second").await;
        everywhere(world, &[0, 1, 2], "second").await;
    });
}

#[test]
fn what_a_dead_process_left_in_the_cache_is_made_durable_before_it_counts() {
    tell(3, async |world| {
        begin(world).await;
        let leading = leader(world).await;
        let (one, other) = ((leading + 1) % 3, (leading + 2) % 3);
        for (from, to) in [(leading, other), (one, other), (other, leading), (other, one)] {
            world.network.cut(from, to);
        }
        // One is killed between write and fsync, starts again and says that it has the entry.
        world.machines[one].disk.die_in_or_after(1, Death::Process, false);
        make(world, leading, "kept").await;
        let life = world.machines[one].life().unwrap();
        assert!(life.number() > 0, "it was not killed");
        // The leader is gone for good. The cache of the one who counted was lost with the power.
        world.machines[leading].kill();
        world.machines[leading].clear().await;
        world.machines[leading].stay_down();
        world.machines[one].disk.power_off(Loss::Everything);
        world.network.mend_between(one, other);
        until(world, "it is up", || world.machines[one].store().is_some()).await;
        make(world, one, "afterwards").await;
        everywhere(world, &[one, other], "afterwards").await;
    });
}

#[test]
fn a_dead_incarnation_leaves_the_group_also_when_who_took_in_the_new_one_got_no_further() {
    tell(3, async |world| {
        begin(world).await;
        let leading = leader(world).await;
        let lost = &world.machines[(leading + 1) % 3];
        lost.kill();
        lost.clear().await;
        lost.disk.replace();
        boot(world, lost.index);
        until(world, "it is up", || lost.store().is_some()).await;

        let (life, store) = world.machines[leading].life().zip(world.machines[leading].store()).unwrap();
        let raft_id = lost.store().unwrap().raft_id();
        let address = Address { node_id: lost.node_id().to_string(), addr: lost.addr() };
        let taking_in = life.spawn(async move {
            let Backend::Replicated(member) = &store.0.backend else { unreachable!("it has a disk") };
            let learner = ChangeMembers::AddNodes([(raft_id, address.clone())].into());
            member.raft.change_membership(learner, false).await.unwrap();
            member.raft.change_membership(ChangeMembers::AddVoterIds([raft_id].into()), false).await.unwrap();
            store.membership().add(address.node_id.into(), address.addr).await.unwrap();
            store.membership().members()
        });
        until(world, "it is taken in", || taking_in.is_finished()).await;
        let members = taking_in.await.unwrap();
        assert_eq!(members.len(), 3, "{members:?}");
    });
}
