//! Delays between attempts: each twice the last up to a limit, and none exactly as long as another's.

use std::time::Duration;

#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    limit: Duration,
    next: Duration,
}

impl Backoff {
    pub const fn new(first: Duration, limit: Duration) -> Self {
        Self { first, limit, next: first }
    }

    /// The delay before the next attempt: between half of the step and all of it, as `random` in 0..1 says.
    pub fn delay(&mut self, random: f64) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.limit);
        step.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }

    /// An attempt succeeded: the next delay is the shortest again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_limit_and_starts_again() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(8));
        let longest: Vec<u64> = (0..9).map(|_| backoff.delay(1.0).as_millis() as u64).collect();
        assert_eq!(longest, [100, 200, 400, 800, 1600, 3200, 6400, 8000, 8000]);
        backoff.reset();
        assert_eq!(backoff.delay(0.0), Duration::from_millis(50));
    }
}
