//! Runs the health check of one running task, as `health` says when.
//!
//! A run that nothing can be learned from (containerd is away, the container has just ended) counts for nothing and is
//! repeated after the usual pause. May be dropped at any time; a run under way is then ended by the next.

use std::time::{Duration, SystemTime};

use proto::model::{Health, Probe};
use tokio::time::{Instant, sleep_until};

use super::health::Monitor;
use crate::runtime::{HealthCheck, Probed, Runtime};

pub struct Probing {
    monitor: Monitor,
    /// When the container started.
    started: Instant,
    next: Instant,
}

impl Probing {
    /// `age` is the container's. `share` of the first pause is waited for: what a node adopts all at once is not to be
    /// checked all at once.
    pub fn new(check: HealthCheck, healthy: bool, age: Duration, share: f64) -> Self {
        let (monitor, now) = (Monitor::new(check, healthy), Instant::now());
        let next = now + monitor.pause(age).mul_f64(share.clamp(0.0, 1.0));
        Self { monitor, started: now.checked_sub(age).unwrap_or(now), next }
    }

    pub fn health(&self) -> &Health {
        self.monitor.health()
    }

    pub fn complaint(&self) -> String {
        self.monitor.complaint()
    }

    /// Returns when the state has changed. What else is worth telling is told meanwhile.
    pub async fn run(&mut self, runtime: &dyn Runtime, id: &str, tell: impl Fn(&Monitor)) {
        loop {
            sleep_until(self.next).await;
            let (age, began) = (self.started.elapsed(), SystemTime::now());
            let probed = runtime.probe(id, self.monitor.check()).await;
            let changed = match probed {
                Ok(probed) => self.monitor.note(read(probed, began), age),
                Err(error) => {
                    tracing::debug!(task = id, error = error.report(), "the health check says nothing");
                    false
                }
            };
            self.next = Instant::now() + self.monitor.pause(self.started.elapsed());
            if changed {
                return self.monitor.tell(age);
            }
            if self.monitor.is_news(age) {
                tell(&self.monitor);
            }
        }
    }
}

fn read(probed: Probed, started: SystemTime) -> Probe {
    let exit_code = probed.exit_code.map_or(-1, |code| i32::try_from(code).unwrap_or(i32::MAX));
    Probe { started, ended: SystemTime::now(), exit_code, output: probed.output }
}
