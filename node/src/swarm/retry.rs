//! When to try again what has failed: each pause is twice the one before, until things went well for a while.

use std::time::Duration;

use tokio::time::Instant;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Retry {
    not_before: Instant,
    pause: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { not_before: Instant::now(), pause: FIRST }
    }
}

impl Retry {
    pub fn failed(&mut self) {
        let now = Instant::now();
        if now.duration_since(self.not_before) > LONGEST {
            self.pause = FIRST;
        }
        self.not_before = now + self.pause;
        self.pause = (self.pause * 2).min(LONGEST);
    }

    /// For something that is given this time before it counts as a failure.
    pub fn at_earliest(&mut self, time: Instant) {
        self.not_before = self.not_before.max(time);
    }

    pub fn is_due(&self) -> bool {
        self.not_before <= Instant::now()
    }

    /// Resolves when the next attempt is due; not at all if it is already.
    pub async fn becomes_due(&self) {
        if self.is_due() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep_until(self.not_before).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_double_until_all_went_well_for_long() {
        let mut retry = Retry::default();
        assert!(retry.is_due());
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            let start = Instant::now();
            retry.failed();
            assert!(!retry.is_due());
            retry.becomes_due().await;
            assert_eq!(start.elapsed().as_secs(), seconds);
        }
        tokio::time::sleep(LONGEST + FIRST).await;
        let start = Instant::now();
        retry.failed();
        retry.becomes_due().await;
        assert_eq!(start.elapsed().as_secs(), 1);
    }
}
