//! For how long a signer is left alone that does not work.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Failure;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(5);
/// Signers of other settings are forgotten.
const MOST: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Pauses(Mutex<HashMap<String, Pause>>);

#[derive(Debug)]
struct Pause {
    length: Duration,
    until: Instant,
    reason: String,
}

impl Pauses {
    fn known(&self) -> MutexGuard<'_, HashMap<String, Pause>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why it is not asked now, if it is not.
    pub(super) fn of(&self, url: &str) -> Option<String> {
        let known = self.known();
        let pause = known.get(url).filter(|pause| pause.until > Instant::now());
        pause.map(|pause| pause.reason.clone())
    }

    /// A signer that refuses one request may sign the next: only one that does not work is left alone.
    pub(super) fn note(&self, url: &str, failure: Option<&Failure>) {
        let mut known = self.known();
        let Some(failure) = failure.filter(|failure| failure.is_outage()) else {
            known.remove(url);
            return;
        };
        if known.len() >= MOST {
            known.clear();
        }
        let length = known.get(url).map_or(FIRST, |pause| (pause.length * 2).min(LONGEST));
        let until = Instant::now() + length;
        known.insert(url.into(), Pause { length, until, reason: failure.to_string() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_signer_that_does_not_work_is_left_alone_for_a_while() {
        let (pauses, url) = (Pauses::default(), "https://a");
        assert_eq!(pauses.of(url), None);
        for length in [FIRST, FIRST * 2, FIRST * 4, FIRST * 8, LONGEST, LONGEST] {
            pauses.note(url, Some(&Failure::Timeout));
            assert_eq!(pauses.of(url), Some(Failure::Timeout.to_string()));
            tokio::time::advance(length - Duration::from_millis(1)).await;
            assert!(pauses.of(url).is_some(), "{length:?}");
            tokio::time::advance(Duration::from_millis(1)).await;
            assert_eq!(pauses.of(url), None, "{length:?}");
        }
        pauses.note(url, Some(&Failure::Refused("bad request".into())));
        assert_eq!(pauses.of(url), None, "it works");
        pauses.note(url, Some(&Failure::Timeout));
        tokio::time::advance(FIRST).await;
        assert_eq!(pauses.of(url), None, "the pauses begin anew");
    }
}
