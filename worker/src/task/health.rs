//! Decides when a health check runs next, and what its outcomes mean.
//!
//! Pure: outcomes and ages go in. Docker's rules: a container is healthy from the first success on; until then failures
//! within the start period do not count; a success forgets the failures before it.
//!
//! Invariant: what is unhealthy stays so. The task is stopped, and another takes its place.

use std::time::Duration;

use proto::model::{Health, HealthState, Probe};

use crate::runtime::HealthCheck;

/// Runs that are told, and how much of their output.
const KEPT: usize = 3;
const OUTPUT_BYTES: usize = 1024;
/// Of the line of output that explains a failure.
const LINE_BYTES: usize = 200;
/// Least time between two reports that change nothing: each is a write to the managers' log.
const QUIET: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub struct Monitor {
    check: HealthCheck,
    health: Health,
    /// What was told last, and at which age.
    told: (Health, Duration),
}

impl Monitor {
    /// `healthy`: its check has succeeded already, before this process began.
    pub fn new(check: HealthCheck, healthy: bool) -> Self {
        let state = if healthy { HealthState::Healthy } else { HealthState::Starting };
        let health = Health { state, succeeded: healthy, ..Health::default() };
        Self { check, told: (health.clone(), Duration::ZERO), health }
    }

    pub fn check(&self) -> &HealthCheck {
        &self.check
    }

    pub fn health(&self) -> &Health {
        &self.health
    }

    /// From the end of a run, or the container's start, to the next run. `age` is the container's.
    pub fn pause(&self, age: Duration) -> Duration {
        if self.is_coming_up(age) { self.check.start_interval } else { self.check.interval }
    }

    /// A run that began at `age` had this outcome. True if the state is another now.
    pub fn note(&mut self, mut probe: Probe, age: Duration) -> bool {
        let before = self.health.state;
        probe.output.truncate(probe.output.floor_char_boundary(OUTPUT_BYTES));
        match probe.exit_code {
            0 => self.succeed(),
            _ if self.is_coming_up(age) => {}
            _ => self.fail(),
        }
        self.health.probes.push(probe);
        let surplus = self.health.probes.len().saturating_sub(KEPT);
        self.health.probes.drain(..surplus);
        self.health.state != before
    }

    /// Whether others should hear how it goes although the state is the same. Asking means telling.
    pub fn is_news(&mut self, age: Duration) -> bool {
        let (told, at) = &self.told;
        let differs = seen(told) != seen(&self.health);
        // The first failure at once.
        let first = seen(told).is_none();
        if !differs || (!first && age < *at + QUIET) {
            return false;
        }
        self.tell(age);
        true
    }

    pub fn tell(&mut self, age: Duration) {
        self.told = (self.health.clone(), age);
    }

    /// What is wrong, in one line; empty if the last run succeeded, or there was none.
    pub fn complaint(&self) -> String {
        let Some(last) = self.health.probes.last().filter(|probe| probe.exit_code != 0) else {
            return String::new();
        };
        let line = last.output.lines().map(str::trim).rfind(|line| !line.is_empty());
        let mut line: String = match line {
            Some(line) => line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect(),
            None => format!("its check exits with {}", last.exit_code),
        };
        if line.len() > LINE_BYTES {
            line.truncate(line.floor_char_boundary(LINE_BYTES));
            line.push('…');
        }
        let what =
            if self.health.state == HealthState::Unhealthy { "unhealthy container" } else { "health check" };
        format!("{what}: {line}")
    }

    fn is_coming_up(&self, age: Duration) -> bool {
        self.health.state == HealthState::Starting && age < self.check.start_period
    }

    fn succeed(&mut self) {
        if self.health.state == HealthState::Starting {
            (self.health.state, self.health.succeeded) = (HealthState::Healthy, true);
        }
        self.health.failing_streak = 0;
    }

    fn fail(&mut self) {
        self.health.failing_streak += 1;
        if self.health.failing_streak >= self.check.retries {
            self.health.state = HealthState::Unhealthy;
        }
    }
}

/// How the last run failed, for whoever looks.
fn seen(health: &Health) -> Option<(u32, i32, &str)> {
    let last = health.probes.last().filter(|probe| probe.exit_code != 0)?;
    Some((health.failing_streak, last.exit_code, &last.output))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn monitor(start_period: u64) -> Monitor {
        let check = HealthCheck {
            command: vec!["true".into()],
            interval: seconds(30),
            timeout: seconds(30),
            retries: 3,
            start_period: seconds(start_period),
            start_interval: seconds(5),
        };
        Monitor::new(check, false)
    }

    fn probe(exit_code: i32) -> Probe {
        output(exit_code, "")
    }

    fn output(exit_code: i32, output: &str) -> Probe {
        let now = SystemTime::UNIX_EPOCH;
        Probe { started: now, ended: now, exit_code, output: output.into() }
    }

    /// State, streak and pause after each outcome; runs as the pauses say, each taking no time.
    fn course(mut monitor: Monitor, outcomes: &[i32]) -> Vec<(&'static str, u32, u64)> {
        let mut age = monitor.pause(Duration::ZERO);
        let mut course = Vec::new();
        for outcome in outcomes {
            monitor.note(probe(*outcome), age);
            let pause = monitor.pause(age);
            course.push((monitor.health().state.name(), monitor.health().failing_streak, pause.as_secs()));
            age += pause;
        }
        course
    }

    #[test]
    fn so_many_failures_in_a_row_are_too_many() {
        assert_eq!(
            course(monitor(0), &[1, 0, 1, -1, 0, 1, 2, -1]),
            [
                ("starting", 1, 30),
                ("healthy", 0, 30),
                ("healthy", 1, 30),
                ("healthy", 2, 30),
                ("healthy", 0, 30),
                ("healthy", 1, 30),
                ("healthy", 2, 30),
                ("unhealthy", 3, 30),
            ]
        );
        assert_eq!(course(monitor(0), &[1, 1, 1, 0])[2..], [("unhealthy", 3, 30), ("unhealthy", 0, 30)]);
    }

    #[test]
    fn failures_within_the_start_period_do_not_count_until_it_was_healthy() {
        // At 5, 10, 15 and 20 s, and then every 30 s.
        assert_eq!(
            course(monitor(18), &[1, 1, 1, 1, 1, 1]),
            [
                ("starting", 0, 5),
                ("starting", 0, 5),
                ("starting", 0, 5),
                ("starting", 1, 30),
                ("starting", 2, 30),
                ("unhealthy", 3, 30),
            ]
        );
        assert_eq!(
            course(monitor(100), &[1, 0, 1, 1, 1])[1..],
            [("healthy", 0, 30), ("healthy", 1, 30), ("healthy", 2, 30), ("unhealthy", 3, 30)]
        );
    }

    #[test]
    fn one_that_was_healthy_before_is_so_until_its_check_says_otherwise() {
        let before = Monitor::new(monitor(100).check, true);
        assert!(before.health().succeeded);
        assert_eq!(
            course(before, &[1, 1, 1]),
            [("healthy", 1, 30), ("healthy", 2, 30), ("unhealthy", 3, 30)]
        );
    }

    #[test]
    fn one_retry_is_enough_if_so_asked_for() {
        let mut check = monitor(0).check;
        check.retries = 1;
        assert_eq!(course(Monitor::new(check, true), &[1]), [("unhealthy", 1, 30)]);
    }

    #[test]
    fn news_are_the_first_failure_and_now_and_then_what_changed() {
        let mut monitor = monitor(1000);
        let mut is_news = |probe, age| {
            monitor.note(probe, seconds(age));
            monitor.is_news(seconds(age))
        };
        assert!(is_news(output(1, "a"), 1));
        assert!(!is_news(output(1, "b"), 6), "too soon");
        assert!(is_news(output(1, "b"), 11));
        assert!(!is_news(output(1, "b"), 31), "nothing new");
        assert!(is_news(probe(0), 32), "it has recovered");
        assert!(!is_news(probe(0), 99));
    }

    #[test]
    fn the_last_line_of_output_explains() {
        let mut monitor = monitor(0);
        assert_eq!(monitor.complaint(), "");
        monitor.note(output(1, "connecting\n cannot \x1b connect\n\n"), seconds(1));
        assert_eq!(monitor.complaint(), "health check: cannot   connect");
        monitor.note(probe(7), seconds(1));
        assert_eq!(monitor.complaint(), "health check: its check exits with 7");
        monitor.note(output(-1, &"ä".repeat(3000)), seconds(1));
        let complaint = monitor.complaint();
        assert!(complaint.starts_with("unhealthy container: ää") && complaint.len() < 240, "{complaint}");
        assert_eq!(monitor.health().probes.len(), 3);
        assert_eq!(monitor.health().probes[2].output.len(), 1024);
        monitor.note(probe(0), seconds(1));
        assert_eq!((monitor.complaint(), monitor.health().state), (String::new(), HealthState::Unhealthy));
    }
}
