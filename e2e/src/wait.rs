//! Waiting on a condition, with a bound, never for a guessed time.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// The longest pause between two looks: what a story measures is off by no more than this.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Looks until `look` answers `Ok`, and returns that.
///
/// `look` says in its error what is missing.
///
/// # Panics
///
/// When `bound` has passed, with `what` was waited for and what was missing at the last look.
#[track_caller]
pub fn wait<T, E: Display>(what: &str, bound: Duration, mut look: impl FnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        match look() {
            Ok(found) => return found,
            Err(missing) if start.elapsed() >= bound => panic!("waited {bound:?} for {what}: {missing}"),
            Err(_) => std::thread::sleep(pause),
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
