//! Options for the health check of a service's tasks.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use proto::wire;

use crate::units;

#[derive(Debug, Args)]
pub struct Health {
    /// Line for the shell that finds out whether a task works; an empty one: the image's check
    #[arg(long, value_name = "COMMAND")]
    health_cmd: Option<String>,
    /// Time between checks, 0: the image's, else 30s
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    health_interval: Option<Duration>,
    /// Time that a check may take, 0: the image's, else 30s
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    health_timeout: Option<Duration>,
    /// Failures in a row that make a task unhealthy, 0: the image's number, else 3
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    health_retries: Option<i32>,
    /// Time after its start in which a task's failures do not count, 0: the image's, else none
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    health_start_period: Option<Duration>,
    /// Time between checks in the start period, 0: the image's, else 5s
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    health_start_interval: Option<Duration>,
    /// No health check, not even the image's
    #[arg(long)]
    no_healthcheck: bool,
}

impl Health {
    /// Writes what was given into the container.
    pub fn apply(&self, container: &mut wire::ContainerSpec) -> Result<()> {
        let given = self.given();
        if self.no_healthcheck {
            if let Some(option) = given {
                bail!("--no-healthcheck conflicts with {option}: give one of them");
            }
            let none = wire::HealthConfig { test: vec!["NONE".into()], ..Default::default() };
            container.healthcheck = Some(none);
        }
        if given.is_some() {
            self.change(container.healthcheck.get_or_insert_default());
        }
        Ok(())
    }

    fn given(&self) -> Option<&'static str> {
        let options = [
            (self.health_cmd.is_some(), "--health-cmd"),
            (self.health_interval.is_some(), "--health-interval"),
            (self.health_timeout.is_some(), "--health-timeout"),
            (self.health_retries.is_some(), "--health-retries"),
            (self.health_start_period.is_some(), "--health-start-period"),
            (self.health_start_interval.is_some(), "--health-start-interval"),
        ];
        options.into_iter().find(|(given, _)| *given).map(|(_, option)| option)
    }

    fn change(&self, health: &mut wire::HealthConfig) {
        // As in Docker: whoever sets a part of a check wants one.
        if health.test.first().is_some_and(|kind| kind == "NONE") {
            health.test.clear();
        }
        match self.health_cmd.as_deref() {
            None => {}
            Some("") => health.test.clear(),
            Some(line) => health.test = vec!["CMD-SHELL".into(), line.into()],
        }
        let times = [
            (&mut health.interval, self.health_interval),
            (&mut health.timeout, self.health_timeout),
            (&mut health.start_period, self.health_start_period),
            (&mut health.start_interval, self.health_start_interval),
        ];
        for (field, given) in times {
            if let Some(time) = given {
                *field = time.try_into().ok();
            }
        }
        health.retries = self.health_retries.unwrap_or(health.retries);
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        health: Health,
    }

    fn apply(container: &mut wire::ContainerSpec, options: &[&str]) -> Result<()> {
        let options = [&["line"], options].concat();
        Line::try_parse_from(options).unwrap().health.apply(container)
    }

    fn test(container: &wire::ContainerSpec) -> &[String] {
        container.healthcheck.as_ref().map_or(&[], |health| &health.test)
    }

    #[test]
    fn what_was_given_is_changed_and_nothing_else() {
        let mut container = wire::ContainerSpec::default();
        apply(&mut container, &[]).unwrap();
        assert_eq!(container.healthcheck, None);
        apply(
            &mut container,
            &["--health-cmd", "a || b", "--health-interval", "2s", "--health-retries", "1"],
        )
        .unwrap();
        assert_eq!(test(&container), ["CMD-SHELL", "a || b"]);
        apply(&mut container, &["--health-start-period", "1m"]).unwrap();
        let health = container.healthcheck.clone().unwrap();
        assert_eq!((health.interval.unwrap().seconds, health.retries), (2, 1));
        assert_eq!(health.start_period.unwrap().seconds, 60);
        apply(&mut container, &["--health-cmd", ""]).unwrap();
        assert!(test(&container).is_empty(), "the image's again");
        apply(&mut container, &["--no-healthcheck"]).unwrap();
        assert_eq!(test(&container), ["NONE"]);
        apply(&mut container, &["--health-timeout", "0"]).unwrap();
        assert!(test(&container).is_empty());
    }

    #[test]
    fn none_and_some_exclude_each_other() {
        let refused =
            apply(&mut wire::ContainerSpec::default(), &["--no-healthcheck", "--health-retries", "2"]);
        assert_eq!(
            refused.unwrap_err().to_string(),
            "--no-healthcheck conflicts with --health-retries: give one of them"
        );
    }
}
