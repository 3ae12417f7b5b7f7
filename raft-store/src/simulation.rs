//! Whole groups of managers in one thread, with chance from a seed: the store's own code, and openraft's, on machines,
//! disks and a network that fail in every way that real ones do. docs/simulation.md says what is simulated and how.
//!
//! Time is tokio's paused clock: it jumps to the next timer when nothing can run. Everything that happens is folded
//! into a digest, so that two runs of a seed can be compared.
//!
//! Invariant: a run depends on its seed alone.

mod checks;
mod clients;
mod disk;
mod faults;
pub(crate) mod files;
pub(crate) mod host;
mod machine;
mod moves;
mod network;
mod runtime;
mod scenarios;
mod story;
mod tests;

use std::cell::RefCell;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

pub(crate) use self::machine::LogTask;
use self::machine::Machine;
use self::network::Network;

thread_local! {
    static WORLD: RefCell<Option<Arc<World>>> = const { RefCell::new(None) };
}

/// What is simulated on this thread, if anything is.
pub(crate) fn world() -> Option<Arc<World>> {
    WORLD.with_borrow(Clone::clone)
}

pub(crate) struct World {
    pub(crate) machines: Vec<Machine>,
    /// That write on each of them.
    clients: usize,
    pub(crate) network: Network,
    pub(crate) checks: Mutex<checks::Checks>,
    started: Instant,
    chance: Mutex<SmallRng>,
    record: Mutex<Record>,
    quiet: AtomicBool,
}

/// What happened.
#[derive(Default)]
struct Record {
    digest: DefaultHasher,
    events: u64,
    loud: bool,
    /// The first thing that was found to be wrong.
    flaw: Option<String>,
}

/// Where a world ends, however the run ends.
struct Inhabited;

impl Drop for Inhabited {
    fn drop(&mut self) {
        WORLD.with_borrow_mut(Option::take);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    /// Made where there is a clock.
    fn plan(seed: u64, machines: usize, clients: usize, loud: bool) -> impl FnOnce() -> Arc<Self> {
        move || {
            Arc::new(Self {
                machines: (0..machines).map(|index| Machine::new(index, seed)).collect(),
                clients,
                network: Network::new(machines),
                checks: Mutex::default(),
                started: Instant::now(),
                chance: Mutex::new(SmallRng::seed_from_u64(seed)),
                record: Mutex::new(Record { loud, ..Record::default() }),
                quiet: AtomicBool::new(false),
            })
        }
    }

    fn inhabit(self: &Arc<Self>) -> Inhabited {
        WORLD.set(Some(self.clone()));
        Inhabited
    }

    /// Nobody begins to write any more.
    fn set_quiet(&self) {
        self.quiet.store(true, Ordering::Relaxed);
    }

    fn is_quiet(&self) -> bool {
        self.quiet.load(Ordering::Relaxed)
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn draw<T>(&self, draw: impl FnOnce(&mut SmallRng) -> T) -> T {
        draw(&mut lock(&self.chance))
    }

    pub(crate) fn happens(&self, probability: f64) -> bool {
        self.draw(|chance| chance.random_bool(probability))
    }

    pub(crate) fn millis(&self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.draw(|chance| chance.random_range(range)))
    }

    /// Takes an event into the record.
    pub(crate) fn note(&self, event: impl fmt::Display) {
        let at = self.elapsed().as_millis();
        let event = event.to_string();
        let mut record = lock(&self.record);
        (at, &event).hash(&mut record.digest);
        record.events += 1;
        if record.loud {
            println!("{at:>6} {event}");
        }
    }

    /// Something is wrong: the run ends with it.
    pub(crate) fn flaw(&self, flaw: impl fmt::Display) {
        self.note(format_args!("FLAW {flaw}"));
        lock(&self.record).flaw.get_or_insert_with(|| flaw.to_string());
    }

    fn found(&self) -> Option<String> {
        lock(&self.record).flaw.clone()
    }

    fn digest(&self) -> (u64, u64) {
        let record = lock(&self.record);
        (record.digest.finish(), record.events)
    }
}
