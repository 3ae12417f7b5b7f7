//! Machines that leave the group and come back with an empty disk, while other things fail.
//!
//! A machine leaves in order, asked for by any other or by itself, or it loses its disk with everything on it and is
//! taken in again as somebody new. One at a time: two lost disks of three would be more than Raft can bear.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use proto::model::NodeId;
use rand::Rng;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::World;
use super::machine::Life;
use crate::{RaftId, Store};

/// After which somebody else is asked: this one may be cut off, or out of the group and not know it.
const PATIENCE: Duration = Duration::from_secs(8);

const PAUSE: Duration = Duration::from_millis(20);

#[derive(Default)]
pub(super) struct Moves {
    state: State,
    /// Asked for by a manager that may die before it has an answer.
    asked: Option<Asked>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Settled,
    Leaving(usize, RaftId),
    Away(usize, Instant),
    Joining(usize),
}

impl fmt::Debug for Moves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.state)
    }
}

struct Asked {
    by: Arc<Life>,
    task: JoinHandle<bool>,
}

impl Moves {
    pub(super) fn are_over(&self) -> bool {
        self.state == State::Settled
    }

    /// One machine goes for a while.
    pub(super) fn begin(&mut self, world: &World, machine: usize) {
        if let Some(store) = world.machines[machine].store().filter(|_| self.are_over()) {
            world.note(format_args!("m{machine} is to leave the group"));
            self.state = State::Leaving(machine, store.raft_id());
        }
    }

    /// What is on the machine is lost, and it comes back with nothing.
    pub(super) async fn lose(&mut self, world: &Arc<World>, machine: usize) {
        if self.are_over() {
            world.note(format_args!("m{machine} loses its disk"));
            self.replace(world, machine).await;
            self.state = State::Joining(machine);
        }
    }

    async fn replace(&mut self, world: &Arc<World>, machine: usize) {
        let machine = &world.machines[machine];
        machine.kill();
        machine.clear().await;
        machine.disk.replace();
    }

    pub(super) async fn step(&mut self, world: &Arc<World>) {
        let done = self.answer().await;
        match self.state {
            State::Settled => {}
            State::Leaving(machine, _) if done => {
                self.replace(world, machine).await;
                world.machines[machine].stay_down();
                self.state = State::Away(machine, Instant::now() + world.millis(0..2000));
            }
            State::Away(machine, until) if until <= Instant::now() => {
                world.machines[machine].rest(world);
                self.state = State::Joining(machine);
            }
            State::Joining(_) if done => self.state = State::Settled,
            State::Leaving(machine, _) | State::Joining(machine) => self.ask(world, machine),
            State::Away(..) => {}
        }
    }

    /// Whether what was asked for is done. Whoever fails, or dies, is followed by another one.
    async fn answer(&mut self) -> bool {
        let over = self.asked.take_if(|asked| asked.task.is_finished() || !asked.by.alive());
        match over {
            Some(Asked { by, task }) if by.alive() => task.await.unwrap_or(false),
            _ => false,
        }
    }

    fn ask(&mut self, world: &Arc<World>, machine: usize) {
        if self.asked.is_some() {
            return;
        }
        let by = world.draw(|chance| chance.random_range(0..world.machines.len()));
        let Some((store, life)) = world.machines[by].store().zip(world.machines[by].life()) else { return };
        let (node_id, addr) = (world.machines[machine].node_id(), world.machines[machine].addr());
        let task = match self.state {
            State::Leaving(_, raft_id) => life.spawn(leave(world.clone(), store, raft_id)),
            // Nobody else can let it in, and it has to be up.
            _ if by == machine || world.machines[machine].store().is_none() => return,
            _ => life.spawn(join(world.clone(), store, node_id, addr)),
        };
        self.asked = Some(Asked { by: life, task });
    }
}

async fn leave(world: Arc<World>, store: Store, raft_id: RaftId) -> bool {
    let left = timeout(PATIENCE, store.membership().remove(raft_id)).await;
    world.note(format_args!("{raft_id:x} leaves: {left:?}"));
    sleep(PAUSE).await;
    matches!(left, Ok(Ok(())))
}

async fn join(world: Arc<World>, store: Store, node_id: NodeId, addr: String) -> bool {
    let joined = timeout(PATIENCE, store.membership().add(node_id.clone(), addr)).await;
    world.note(format_args!("{node_id} joins: {joined:?}"));
    sleep(PAUSE).await;
    matches!(joined, Ok(Ok(_)))
}
