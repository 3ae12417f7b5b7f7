//! What a runner does about its task's health: finds out whether there is a check, has it run, heeds its outcome.

use std::time::{Duration, SystemTime};

use proto::model::{HealthState, TaskState, TaskStatus};

use super::{RETRY, Runner};
use crate::runtime;
use crate::task::health::Monitor;
use crate::task::probing::Probing;
use crate::task::step::{Failure, Health};

/// How long managers may take to hear that a task is unhealthy before it is stopped all the same.
const HEARING: Duration = Duration::from_secs(5);

impl Runner {
    /// Without a container there is no check; watching it will show that.
    pub(super) async fn examine(&mut self) {
        let Health::Unknown { served, started } = self.seen.health else { return };
        let mut backoff = RETRY;
        let check = loop {
            match self.shared.runtime.health_check(self.id().as_str()).await {
                Ok(check) => break check,
                Err(runtime::Error::NoSuchContainer { .. }) => break None,
                Err(error) => {
                    tracing::warn!(task = %self.id(), error = error.report(), "cannot ask for its health check");
                    tokio::time::sleep(backoff.delay(rand::random())).await;
                }
            }
        };
        let adopted = started != Some(self.since);
        let share = if adopted { rand::random() } else { 1.0 };
        let age = started.and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default();
        self.seen.health = if check.is_none() || served { Health::Good } else { Health::Starting };
        self.probing = check.map(|check| Probing::new(check, served, age, share));
    }

    /// Resolves once its health has changed, which that of a task without a check never does.
    pub(super) async fn probe(&self, probing: Option<&mut Probing>) {
        let Some(probing) = probing else { return std::future::pending().await };
        let tell = |monitor: &Monitor| {
            let mut status = self.status(self.seen.state);
            status.timestamp = self.since;
            if self.seen.state < TaskState::Running {
                status.err = monitor.complaint();
            }
            if let Some(container) = &mut status.container {
                container.health = Some(monitor.health().clone());
            }
            self.shared.statuses.report(self.id(), status);
        };
        probing.run(&*self.shared.runtime, self.id().as_str(), tell).await;
    }

    pub(super) fn heed_health(&mut self) {
        let Some(probing) = &self.probing else { return };
        match probing.health().state {
            HealthState::Starting => {}
            HealthState::Healthy => self.seen.health = Health::Good,
            HealthState::Unhealthy => {
                let complaint = probing.complaint();
                tracing::warn!(task = %self.id(), complaint, "the task is unhealthy");
                if self.seen.health == Health::Good {
                    self.seen.health = Health::Bad;
                }
                let status = self.status(self.seen.state);
                let status = TaskStatus { timestamp: self.since, err: complaint.clone(), ..status };
                self.shared.statuses.report(self.id(), status);
                self.seen.failure = Some(Failure::failed(complaint));
            }
        }
    }

    /// That it shall stop the managers know. That it is unhealthy they have to hear first.
    pub(super) async fn drain(&self) {
        if self.seen.health == Health::Bad {
            let told = self.shared.statuses.told(self.id());
            if tokio::time::timeout(HEARING, told).await.is_err() {
                return;
            }
        }
        self.shared.drains.wait(self.id()).await;
    }
}
