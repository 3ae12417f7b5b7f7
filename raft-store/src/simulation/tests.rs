//! Seeds: more than a hundred in every run of the tests, others on demand.
//!
//! `SWARMD_SIM_SEED=<seed>` with `replay` shows one seed, event by event; `SWARMD_SIM_SEEDS=<first>..<end>` with
//! `many` runs as many as one likes (`make sim`).

use std::time::Instant;

use super::story::{Report, run};

/// Seeds of one test: small enough that tests spread over the processors.
const EACH: u64 = 12;

fn try_seed(seed: u64) -> Result<Report, String> {
    let outcome = std::panic::catch_unwind(|| run(seed, false));
    let flaw = match outcome {
        Ok(Ok(report)) => return Ok(report),
        Ok(Err(flaw)) => flaw,
        Err(_) => "the simulation panicked".into(),
    };
    Err(format!("seed {seed}: {flaw}\n    {}", replay_with(seed)))
}

fn run_or_panic(seed: u64) -> Report {
    try_seed(seed).unwrap_or_else(|flaw| panic!("{flaw}"))
}

fn replay_with(seed: u64) -> String {
    format!(
        "SWARMD_SIM_SEED={seed} cargo nextest run -p raft-store --run-ignored all --no-capture -E 'test(=simulation::tests::replay)'"
    )
}

fn all_of(seeds: std::ops::Range<u64>) {
    let (started, count) = (Instant::now(), seeds.end - seeds.start);
    let reports: Vec<Report> = seeds.map(run_or_panic).collect();
    let acknowledged: u64 = reports.iter().map(|report| report.acknowledged).sum();
    let simulated: std::time::Duration = reports.iter().map(|report| report.simulated).sum();
    assert!(acknowledged > 50 * count, "only {acknowledged} writes in {count} runs: nothing was tried");
    println!("{count} seeds, {simulated:?} in {:?}, {acknowledged} writes", started.elapsed());
}

#[test]
fn a_run_depends_on_its_seed_alone() {
    for seed in [1, 2, 3] {
        let (first, second) = (run_or_panic(seed), run_or_panic(seed));
        assert_eq!(first, second, "seed {seed} does not replay");
    }
}

macro_rules! seeds {
    ($($name:ident = $number:literal;)*) => {
        $(
            #[test]
            fn $name() {
                all_of($number * EACH..($number + 1) * EACH);
            }
        )*
    };
}

seeds! {
    seeds_0 = 0;
    seeds_1 = 1;
    seeds_2 = 2;
    seeds_3 = 3;
    seeds_4 = 4;
    seeds_5 = 5;
    seeds_6 = 6;
    seeds_7 = 7;
    seeds_8 = 8;
    seeds_9 = 9;
}

#[test]
#[ignore = "for one seed: SWARMD_SIM_SEED"]
fn replay() {
    let seed = std::env::var("SWARMD_SIM_SEED").expect("SWARMD_SIM_SEED says which seed");
    let report = run(seed.parse().expect("a seed is a number"), true);
    println!("{report:?}");
    report.unwrap();
}

#[test]
#[ignore = "for as many as one likes: SWARMD_SIM_SEEDS"]
fn many() {
    let seeds = std::env::var("SWARMD_SIM_SEEDS").expect("SWARMD_SIM_SEEDS says which seeds: <first>..<end>");
    let (first, end) = seeds.split_once("..").expect("<first>..<end>");
    let (first, end): (u64, u64) = (first.parse().unwrap(), end.parse().unwrap());
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let run_share = |thread: u64| {
        let share = (first..end).filter(|seed| seed % threads == thread);
        share.filter_map(|seed| try_seed(seed).err()).inspect(|flaw| println!("{flaw}")).count()
    };
    let failed: usize = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || run_share(thread))).collect();
        running.into_iter().map(|thread| thread.join().expect("panics are caught")).sum()
    });
    assert_eq!(failed, 0, "so many of {} seeds failed", end - first);
}
