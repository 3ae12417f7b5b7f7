//! Health checks: what is asked for, what the image brings, and what comes of both.
//!
//! When a check runs and what its outcome means is the task's affair.

use std::time::Duration;

use serde::{Deserialize, Serialize};

const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// A check as it is asked for. What is empty or zero is taken from the image, else Docker's default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HealthSettings {
    /// `NONE`; `CMD` and a program with its arguments; `CMD-SHELL` and a line for the image's shell.
    pub test: Vec<String>,
    pub interval: Duration,
    pub timeout: Duration,
    pub start_period: Duration,
    pub start_interval: Duration,
    pub retries: u32,
}

/// A check with everything settled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    pub command: Vec<String>,
    /// From the end of one run to the next.
    pub interval: Duration,
    pub timeout: Duration,
    /// Failures in a row that make the container unhealthy.
    pub retries: u32,
    /// From the container's start.
    pub start_period: Duration,
    pub start_interval: Duration,
}

/// How one run went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probed {
    /// None if it ran out of time or could not be started; `output` says so.
    pub exit_code: Option<u32>,
    /// The beginning of what it wrote.
    pub output: String,
}

impl Probed {
    pub fn succeeded(&self) -> bool {
        self.exit_code == Some(0)
    }
}

impl HealthSettings {
    /// Completes them field by field, as Docker does. None if nothing is to be checked.
    pub(super) fn settle(&self, image: &Self, shell: Option<&[String]>) -> Option<HealthCheck> {
        let test = if self.test.is_empty() { &image.test } else { &self.test };
        let time = |field: fn(&Self) -> Duration, default| {
            [field(self), field(image)].into_iter().find(|time| !time.is_zero()).unwrap_or(default)
        };
        Some(HealthCheck {
            command: command(test, shell)?,
            interval: time(|settings| settings.interval, INTERVAL),
            timeout: time(|settings| settings.timeout, TIMEOUT),
            start_period: time(|settings| settings.start_period, Duration::ZERO),
            start_interval: time(|settings| settings.start_interval, START_INTERVAL),
            retries: [self.retries, image.retries].into_iter().find(|n| *n > 0).unwrap_or(RETRIES),
        })
    }
}

/// A kind that is unknown, which only an image can have, is no check.
fn command(test: &[String], shell: Option<&[String]>) -> Option<Vec<String>> {
    let (kind, rest) = test.split_first()?;
    let command = match kind.as_str() {
        "CMD" => rest.to_vec(),
        "CMD-SHELL" => match shell {
            Some(shell) if !shell.is_empty() => [shell, rest].concat(),
            _ => [&SHELL.map(str::to_owned)[..], rest].concat(),
        },
        _ => return None,
    };
    (!rest.is_empty()).then_some(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(words: &[&str]) -> HealthSettings {
        HealthSettings { test: words.iter().map(|word| (*word).to_owned()).collect(), ..Default::default() }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn settings_and_image_merge_field_by_field() {
        let image = HealthSettings {
            interval: seconds(7),
            timeout: seconds(2),
            retries: 9,
            ..test(&["CMD", "from-image"])
        };
        let own = HealthSettings { interval: seconds(1), start_period: seconds(4), ..Default::default() };
        let check = own.settle(&image, None).unwrap();
        assert_eq!(check.command, ["from-image"]);
        assert_eq!((check.interval, check.timeout, check.retries), (seconds(1), seconds(2), 9));
        assert_eq!((check.start_period, check.start_interval), (seconds(4), seconds(5)));

        let check = test(&["CMD", "own"]).settle(&HealthSettings::default(), None).unwrap();
        assert_eq!(check.command, ["own"]);
        assert_eq!((check.interval, check.timeout, check.retries), (seconds(30), seconds(30), 3));
        assert_eq!(check.start_period, Duration::ZERO);
    }

    #[test]
    fn what_is_run_and_when_nothing_is() {
        let image = test(&["CMD-SHELL", "curl x || exit 1"]);
        let own = HealthSettings::default();
        assert_eq!(own.settle(&image, None).unwrap().command, ["/bin/sh", "-c", "curl x || exit 1"]);
        let shell = ["/bin/ash".to_owned(), "-ec".to_owned()];
        assert_eq!(
            own.settle(&image, Some(&shell)).unwrap().command,
            ["/bin/ash", "-ec", "curl x || exit 1"]
        );
        for own in [test(&["NONE"]), test(&["SOMETHING", "x"]), test(&["CMD"])] {
            assert_eq!(own.settle(&image, None), None, "{own:?}");
        }
        assert_eq!(own.settle(&own, None), None);
    }
}
