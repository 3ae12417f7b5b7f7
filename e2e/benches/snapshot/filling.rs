//! Creates many objects, and tells how that went.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::writers::Group;

/// Between looks whether a snapshot is being built.
const LOOK: Duration = Duration::from_millis(2);

#[derive(Clone, Copy, Debug)]
pub struct Filling {
    /// Created a second.
    pub first_tenth: f64,
    pub last_tenth: f64,
    /// Between two answers, of whichever clients.
    pub longest_silence_ms: f64,
    pub longest_silence_building_ms: f64,
    pub building_percent: f64,
}

impl Filling {
    /// By `clients` clients at a time, each of which takes turns between all members.
    pub fn run(
        runtime: &Runtime,
        group: &Group,
        objects: usize,
        clients: usize,
        building: impl Fn() -> bool + Sync,
    ) -> Self {
        let begun = Instant::now();
        let over = AtomicBool::new(false);
        let (answers, spells) = std::thread::scope(|scope| {
            let watcher = scope.spawn(|| spells(&building, &over));
            let answers = runtime.block_on(fill(group, objects, clients));
            over.store(true, Ordering::Relaxed);
            (answers, watcher.join().unwrap_or_default())
        });
        Self::of(begun, &answers, &spells)
    }

    /// Of the moments of all answers, in order, and of when snapshots were being built.
    fn of(begun: Instant, answers: &[Instant], spells: &[(Instant, Instant)]) -> Self {
        let tenth = answers.len() / 10;
        let per_second = |from: Instant, to: Instant| tenth as f64 / (to - from).as_secs_f64();
        let last = answers.len() - 1;
        let milliseconds = |duration: Duration| duration.as_secs_f64() * 1e3;
        let silences = || answers.windows(2).map(|pair| (pair[0], pair[1]));
        let built =
            |(from, to): &(Instant, Instant)| spells.iter().any(|spell| spell.0 < *to && *from < spell.1);
        let longest = |silences: &mut dyn Iterator<Item = (Instant, Instant)>| {
            milliseconds(silences.map(|(from, to)| to - from).max().unwrap_or_default())
        };
        let total: Duration = spells.iter().map(|(from, to)| *to - *from).sum();
        Self {
            first_tenth: per_second(begun, answers[tenth]),
            last_tenth: per_second(answers[last - tenth], answers[last]),
            longest_silence_ms: longest(&mut silences()),
            longest_silence_building_ms: longest(&mut silences().filter(built)),
            building_percent: 100.0 * total.as_secs_f64() / (answers[last] - begun).as_secs_f64(),
        }
    }
}

/// When `building` held, until it is over.
fn spells(building: impl Fn() -> bool, over: &AtomicBool) -> Vec<(Instant, Instant)> {
    let (mut spells, mut since) = (Vec::new(), None);
    while !over.load(Ordering::Relaxed) {
        match (building(), since) {
            (true, None) => since = Some(Instant::now()),
            (false, Some(from)) => {
                spells.push((from, Instant::now()));
                since = None;
            }
            _ => {}
        }
        std::thread::sleep(LOOK);
    }
    spells.extend(since.map(|from| (from, Instant::now())));
    spells
}

/// The moments of the answers.
async fn fill(group: &Group, objects: usize, clients: usize) -> Vec<Instant> {
    let (next, mut writers) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
    for client in 0..clients {
        writers.spawn(write(group.clone(), client, Arc::clone(&next), objects));
    }
    let mut answers = writers.join_all().await.concat();
    answers.sort();
    answers
}

async fn write(group: Group, client: usize, next: Arc<AtomicUsize>, objects: usize) -> Vec<Instant> {
    let mut connections = Vec::new();
    for number in 0..group.sockets.len() {
        let connection = group.connect(number).await;
        connections.push(connection.unwrap_or_else(|error| panic!("{}: {error}", group.name)));
    }
    let (mut answers, members) = (Vec::new(), connections.len());
    for turn in client.. {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= objects {
            break;
        }
        let created = connections[turn % members].create(&format!("object-{number}")).await;
        created.unwrap_or_else(|error| panic!("{} refused object-{number}: {error}", group.name));
        answers.push(Instant::now());
    }
    answers
}
