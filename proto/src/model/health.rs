//! What a health check says of a task.

use std::time::SystemTime;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HealthState {
    /// It has not succeeded yet.
    #[default]
    Starting,
    Healthy,
    /// It has failed too often: the task is about to be stopped.
    Unhealthy,
}

impl HealthState {
    /// Docker's words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    pub state: HealthState,
    /// Failures in a row that count.
    pub failing_streak: u32,
    /// It has succeeded at least once.
    pub succeeded: bool,
    /// The last ones, oldest first.
    pub probes: Vec<Probe>,
}

/// One run of the check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// By the node's clock, as is the end.
    pub started: SystemTime,
    pub ended: SystemTime,
    /// -1: it ran out of time, or could not be started.
    pub exit_code: i32,
    pub output: String,
}
