//! Health of tasks.

use std::time::SystemTime;

use super::Error;
use super::enums::enum_in;
use super::scalar::{each, time_in, time_out};
use crate::health;
use crate::model::{Health, Probe};

impl TryFrom<health::Health> for Health {
    type Error = Error;

    fn try_from(health: health::Health) -> Result<Self, Error> {
        Ok(Self {
            state: enum_in::<health::health::State, _>("state", health.state)?,
            failing_streak: health.failing_streak,
            succeeded: health.succeeded,
            probes: each("probes", health.probes, Probe::try_from)?,
        })
    }
}

impl From<&Health> for health::Health {
    fn from(health: &Health) -> Self {
        Self {
            state: health::health::State::from(health.state).into(),
            failing_streak: health.failing_streak,
            succeeded: health.succeeded,
            probes: health.probes.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<health::Probe> for Probe {
    type Error = Error;

    fn try_from(probe: health::Probe) -> Result<Self, Error> {
        let time = |field, at| Ok(time_in(field, at)?.unwrap_or(SystemTime::UNIX_EPOCH));
        Ok(Self {
            started: time("started", probe.started)?,
            ended: time("ended", probe.ended)?,
            exit_code: probe.exit_code,
            output: probe.output,
        })
    }
}

impl From<&Probe> for health::Probe {
    fn from(probe: &Probe) -> Self {
        Self {
            started: time_out(probe.started),
            ended: time_out(probe.ended),
            exit_code: probe.exit_code,
            output: probe.output.clone(),
        }
    }
}
