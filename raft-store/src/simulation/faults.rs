//! What fails, and when: one thing after another, several at a time, each mended after a while.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

use super::World;
use super::disk::{Death, Loss};
use super::moves::Moves;

pub(super) struct Faults {
    next: Instant,
    mending: Vec<(Instant, Mending)>,
}

#[derive(Clone, Copy, Debug)]
enum Mending {
    Links,
    Network,
    SlowDisk(usize),
    FullDisk(usize),
}

impl Faults {
    pub(super) fn new() -> Self {
        Self { next: Instant::now(), mending: Vec::new() }
    }

    pub(super) async fn step(&mut self, world: &Arc<World>, moves: &mut Moves) {
        let now = Instant::now();
        let (due, later) = self.mending.drain(..).partition(|(at, _)| *at <= now);
        self.mending = later;
        let due: Vec<_> = due;
        due.iter().for_each(|(_, mending)| mend(world, *mending));
        if now >= self.next {
            self.next = now + world.millis(50..1500);
            self.fail(world, moves).await;
        }
    }

    /// Everything works again.
    pub(super) fn end(&mut self, world: &World) {
        self.mending.drain(..).for_each(|(_, mending)| mend(world, mending));
    }

    fn for_a_while(&mut self, world: &World, mending: Mending) {
        self.mending.push((Instant::now() + world.millis(100..5000), mending));
    }

    async fn fail(&mut self, world: &Arc<World>, moves: &mut Moves) {
        let count = world.machines.len();
        let one = world.draw(|chance| chance.random_range(0..count));
        let kind = world.draw(|chance| chance.random_range(0..18));
        match kind {
            0..4 => self.cut(world, kind, one),
            4 => world.machines[one].kill(),
            5 => world.machines[one].disk.power_off(Loss::Parts),
            6..9 => {
                let after = world.draw(|chance| chance.random_range(0..40));
                let death = if world.happens(0.3) { Death::Process } else { Death::Power };
                world.machines[one].disk.die_in(after, death);
            }
            9 => world.machines[one].shut_down(world),
            10 => {
                world.machines[one].set_disk(world.millis(20..400));
                self.for_a_while(world, Mending::SlowDisk(one));
            }
            11 | 12 => {
                let most = world.draw(|chance| chance.random_range(5..300));
                let breaks = world.draw(|chance| chance.random_range(0.0..0.05));
                world.network.set_quality(0..most, breaks, 0.1);
                world
                    .note(format_args!("frames take {most} ms at most, {breaks} of them break a connection"));
                self.for_a_while(world, Mending::Network);
            }
            13 => {
                world.note(format_args!("m{one} has no space"));
                world.machines[one].disk.set_full(true);
                self.for_a_while(world, Mending::FullDisk(one));
            }
            14 => world.machines[one].hand_over(),
            15 => moves.begin(world, one),
            16 if world.happens(0.5) => moves.lose(world, one).await,
            _ if world.happens(0.2) => {
                world.machines.iter().for_each(|machine| machine.disk.power_off(Loss::Parts));
            }
            _ => {}
        }
    }

    fn cut(&mut self, world: &World, kind: u32, one: usize) {
        let count = world.machines.len();
        let side = world.draw(|chance| chance.random_range(0..1u32 << count));
        for from in 0..count {
            for to in 0..count {
                let cut = match kind {
                    0 => from == one || to == one,
                    1 => from == one,
                    2 => to == one,
                    _ => (side >> from) & 1 != (side >> to) & 1,
                };
                if cut && from != to {
                    world.network.cut(from, to);
                    world.note(format_args!("nothing passes from m{from} to m{to}"));
                }
            }
        }
        self.for_a_while(world, Mending::Links);
    }
}

fn mend(world: &World, mending: Mending) {
    world.note(format_args!("mended: {mending:?}"));
    match mending {
        Mending::Links => world.network.mend(),
        Mending::Network => world.network.set_quality(0..3, 0.0, 0.0),
        Mending::SlowDisk(machine) => world.machines[machine].set_disk(Duration::from_millis(2)),
        Mending::FullDisk(machine) => world.machines[machine].disk.set_full(false),
    }
}
