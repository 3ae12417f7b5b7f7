//! A machine, and the lives of the manager on it.
//!
//! A life ends at any moment, with all its tasks and without a word; nothing that it was about to do happens any more.

use std::future::Future;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use proto::model::NodeId;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint};

use super::disk::Disk;
use super::{World, files, lock, world};
use crate::{Dial, Options, Store, Timing};

tokio::task_local! {
    static LIFE: Arc<Life>;
}

pub(crate) struct Machine {
    pub(super) index: usize,
    pub(super) disk: Arc<Disk>,
    /// How far its clock is off, and how much slower it runs.
    ahead: Duration,
    slowness: f64,
    /// Milliseconds that the disk takes at most.
    disk_ms: AtomicU64,
    lives: AtomicU32,
    /// When it starts again.
    rests_until: Mutex<Option<Instant>>,
    life: Mutex<Option<Arc<Life>>>,
    store: Mutex<Option<Store>>,
}

pub(crate) struct Life {
    pub(super) machine: usize,
    number: u32,
    alive: AtomicBool,
    /// It was told to end.
    ending: AtomicBool,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl Life {
    /// Whose code runs now.
    pub(crate) fn now() -> Option<Arc<Self>> {
        LIFE.try_with(Arc::clone).ok()
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    pub(super) fn alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    #[allow(clippy::disallowed_methods, reason = "the life owns the task, and ends it")]
    pub(crate) fn spawn<T>(self: &Arc<Self>, future: T) -> JoinHandle<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        let task = tokio::task::spawn(LIFE.scope(self.clone(), unpanicked(self.machine, future)));
        let mut tasks = lock(&self.tasks);
        if tasks.len().is_multiple_of(256) {
            tasks.retain(|task| !task.is_finished());
        }
        tasks.push(task.abort_handle());
        if !self.alive() {
            task.abort();
        }
        task
    }

    /// Until the disk gets to it. For ever if the machine has no power any more.
    pub(super) async fn disk_turns(&self) {
        let world = world().expect("a life is part of a simulation");
        let most = world.machines[self.machine].disk_ms.load(Ordering::Relaxed);
        sleep(world.millis(0..most + 1)).await;
        if !self.alive() {
            std::future::pending::<()>().await;
        }
    }

    /// Nothing of it is left once this returns.
    async fn end(&self) {
        self.alive.store(false, Ordering::Relaxed);
        loop {
            let mut tasks = lock(&self.tasks).clone();
            tasks.retain(|task| !task.is_finished());
            if tasks.is_empty() {
                return;
            }
            tasks.iter().for_each(AbortHandle::abort);
            tokio::task::yield_now().await;
        }
    }
}

/// A task that panics is a flaw, whoever started it: openraft's own tasks too, whose panics nobody would hear of.
async fn unpanicked<T: Future>(machine: usize, future: T) -> T::Output {
    match AssertUnwindSafe(future).catch_unwind().await {
        Ok(output) => output,
        Err(panic) => {
            let reason = panic.downcast_ref::<String>().map(String::as_str);
            let reason = reason.or(panic.downcast_ref::<&str>().copied()).unwrap_or("of some kind");
            world().iter().for_each(|world| world.flaw(format_args!("m{machine} panics: {reason}")));
            resume_unwind(panic)
        }
    }
}

/// A connection is made by the simulated network, never by this.
struct NoDial;

impl Dial for NoDial {
    fn channel(&self, _: &str) -> Channel {
        Endpoint::from_static("http://nobody.invalid").connect_lazy()
    }
}

impl Machine {
    pub(super) fn new(index: usize, seed: u64) -> Self {
        // The first one's clock is right.
        let skew = (seed >> (8 * index)) as u8 % 8 * u8::from(index > 0);
        Self {
            index,
            disk: Arc::new(Disk::new(index)),
            ahead: Duration::from_secs(3600 * u64::from(skew).pow(4)),
            slowness: 1.0 + f64::from(skew) / 40.0,
            disk_ms: AtomicU64::new(2),
            lives: AtomicU32::new(0),
            rests_until: Mutex::default(),
            life: Mutex::default(),
            store: Mutex::default(),
        }
    }

    pub(super) fn addr(&self) -> String {
        format!("m{}:2377", self.index)
    }

    pub(super) fn dir(&self) -> PathBuf {
        Path::new(files::ROOT).join(self.index.to_string())
    }

    pub(super) fn node_id(&self) -> NodeId {
        format!("m{}", self.index).into()
    }

    pub(super) fn life(&self) -> Option<Arc<Life>> {
        lock(&self.life).clone().filter(|life| life.alive())
    }

    /// None while it starts, or is dead.
    pub(super) fn store(&self) -> Option<Store> {
        self.life()?;
        lock(&self.store).clone()
    }

    pub(super) fn set_disk(&self, most: Duration) {
        let most = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
        self.disk_ms.store(most, Ordering::Relaxed);
    }

    /// At this very moment; what is left of it is cleared away by `clear`.
    pub(super) fn kill(&self) {
        if let Some(life) = self.life() {
            life.alive.store(false, Ordering::Relaxed);
            world().iter().for_each(|world| world.note(format_args!("m{} dies", self.index)));
        }
    }

    /// In order.
    pub(super) fn shut_down(&self, world: &Arc<World>) {
        let (world, index) = (world.clone(), self.index);
        world.note(format_args!("m{index} is to stop"));
        if let Some((life, store)) = self.life().zip(self.store()) {
            life.ending.store(true, Ordering::Relaxed);
            life.spawn(async move {
                store.shutdown().await;
                world.machines[index].kill();
            });
        }
    }

    pub(super) fn hand_over(&self) {
        if let Some((life, store)) = self.life().zip(self.store()) {
            life.spawn(async move { drop(store.membership().transfer_leadership().await) });
        }
    }

    /// The store has stopped by itself, which it does when its disk fails.
    pub(super) fn failed(&self, world: &World, life: &Life, reason: &str) {
        if !life.alive() || life.ending.load(Ordering::Relaxed) {
            return;
        }
        world.note(format_args!("m{} has stopped: {reason}", self.index));
        if !reason.contains("no storage space") {
            world.flaw(format_args!("m{} has stopped: {reason}", self.index));
        }
        self.kill();
    }

    pub(super) fn rest(&self, world: &World) {
        *lock(&self.rests_until) = Some(Instant::now() + world.millis(20..4000));
    }

    /// It never starts again.
    pub(super) fn stay_down(&self) {
        *lock(&self.rests_until) = Some(Instant::now() + Duration::from_secs(1 << 30));
    }

    pub(super) fn has_rested(&self) -> bool {
        lock(&self.rests_until).is_none_or(|until| until <= Instant::now())
    }

    /// Dead, and not cleared away.
    pub(super) fn is_dead(&self) -> bool {
        lock(&self.life).as_ref().is_some_and(|life| !life.alive())
    }

    pub(super) fn is_empty(&self) -> bool {
        lock(&self.life).is_none()
    }

    pub(super) async fn clear(&self) {
        let life = lock(&self.life).clone();
        if let Some(life) = life {
            life.end().await;
            world()
                .iter()
                .for_each(|world| world.note(format_args!("m{} ends life {}", self.index, life.number)));
        }
        let store = lock(&self.store).take();
        drop(store);
        lock(&self.life).take();
        // Whoever was woken by that has its turn.
        sleep(Duration::from_millis(1)).await;
    }

    /// Starts the manager; `then` runs in its life once its store is open.
    pub(super) fn boot<F>(
        &self,
        world: &Arc<World>,
        then: impl FnOnce(Store, Arc<Life>) -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        self.disk.power_on();
        let number = self.lives.fetch_add(1, Ordering::Relaxed);
        let life = Arc::new(Life {
            machine: self.index,
            number,
            alive: AtomicBool::new(true),
            ending: AtomicBool::new(false),
            tasks: Mutex::default(),
        });
        *lock(&self.life) = Some(life.clone());
        world.note(format_args!("m{} begins life {number}", self.index));
        let (options, index, world) = (self.options(world), self.index, world.clone());
        let alive = life.clone();
        life.spawn(async move {
            match Box::pin(Store::open(options)).await {
                Ok(store) => {
                    *lock(&world.machines[index].store) = Some(store.clone());
                    world.network.serve(&alive, &store);
                    then(store, alive).await;
                }
                Err(error) => world.machines[index].did_not_start(&world, &alive, &error),
            }
        });
    }

    fn did_not_start(&self, world: &World, life: &Life, error: &crate::Error) {
        if !life.alive() {
            return;
        }
        life.alive.store(false, Ordering::Relaxed);
        if self.disk.is_full() {
            world.note(format_args!("m{} does not start: {error:?}", self.index));
        } else {
            world.flaw(format_args!("m{} does not start: {error:?}", self.index));
        }
    }

    fn options(&self, world: &Arc<World>) -> Options {
        let mut options = Options::new(self.dir(), self.node_id(), self.addr(), Arc::new(NoDial));
        let (ahead, slowness, started) = (self.ahead, self.slowness, world.started);
        let epoch = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + ahead;
        options.clock = Arc::new(move || epoch + (Instant::now() - started).div_f64(slowness));
        let slower = |duration: Duration| duration.mul_f64(slowness);
        let Timing { heartbeat, election_min, election_max } = Timing::default();
        options.timing = Timing {
            heartbeat: slower(heartbeat),
            election_min: slower(election_min),
            election_max: slower(election_max),
        };
        options.segment_bytes = 4 << 10;
        options.cached_bytes = 8 << 10;
        options
    }
}

/// The task that stands in for the thread that writes the log.
#[derive(Clone)]
pub(crate) struct LogTask {
    life: Arc<Life>,
    woken: Arc<Notify>,
}

impl LogTask {
    /// None where nothing is simulated.
    pub(crate) fn new() -> Option<Self> {
        Life::now().map(|life| Self { life, woken: Arc::default() })
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.life.spawn(task);
    }

    pub(crate) fn wake(&self) {
        self.woken.notify_one();
    }

    /// False if nobody woke it for so long.
    pub(crate) async fn woken(&self, within: Option<Duration>) -> bool {
        match within {
            Some(within) => timeout(within, self.woken.notified()).await.is_ok(),
            None => {
                self.woken.notified().await;
                true
            }
        }
    }

    pub(crate) async fn disk_turns(&self) {
        self.life.disk_turns().await;
    }
}
