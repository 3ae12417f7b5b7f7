//! What a service's health check may be. Which program the image has for it only the node knows.

use std::time::Duration;

use proto::convert;
use proto::wire::HealthConfig;

use crate::api::limits;
use crate::error::Error;

/// Docker's bound: less is taken for a mistake of units.
const SHORTEST: Duration = Duration::from_millis(1);

pub fn check(field: &str, health: &HealthConfig) -> Result<(), Error> {
    let at = |name: &str| format!("{field}.{name}");
    check_test(&at("test"), &health.test)?;
    for (name, time) in [
        ("interval", health.interval),
        ("timeout", health.timeout),
        ("start_period", health.start_period),
        ("start_interval", health.start_interval),
    ] {
        check_time(&at(name), time)?;
    }
    if health.retries < 0 {
        return Err(Error::invalid(
            at("retries"),
            health.retries,
            "0 (the image's number, else 3) or more is needed",
        ));
    }
    Ok(())
}

fn check_test(field: &str, test: &[String]) -> Result<(), Error> {
    let Some((kind, rest)) = test.split_first() else { return Ok(()) };
    limits::count(field, test.len())?;
    for (i, word) in test.iter().enumerate() {
        limits::length(&format!("{field}[{i}]"), word)?;
        if word.contains('\0') {
            return Err(Error::invalid(
                format!("{field}[{i}]"),
                word.escape_debug(),
                "a zero byte is not allowed",
            ));
        }
    }
    let remedy = match (kind.as_str(), rest) {
        ("NONE", []) => return Ok(()),
        ("NONE", _) => "nothing may follow NONE",
        ("CMD", [program, ..]) if !program.is_empty() => return Ok(()),
        ("CMD", _) => "a program must follow CMD",
        ("CMD-SHELL", [line]) if !line.is_empty() => return Ok(()),
        ("CMD-SHELL", _) => "one line for the shell must follow CMD-SHELL",
        _ => "NONE, CMD or CMD-SHELL must come first",
    };
    Err(Error::invalid(field, test.join(" "), remedy))
}

fn check_time(field: &str, time: Option<prost_types::Duration>) -> Result<(), Error> {
    match convert::duration(field, time)? {
        Some(time) if !time.is_zero() && time < SHORTEST => Err(Error::invalid(
            field,
            format!("{time:?}"),
            "at least 1ms is needed, or 0 for the image's, else the default",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(words: &[&str]) -> HealthConfig {
        HealthConfig { test: words.iter().map(|word| (*word).to_owned()).collect(), ..Default::default() }
    }

    fn refusal(health: &HealthConfig) -> String {
        check("healthcheck", health).unwrap_err().to_string()
    }

    #[test]
    fn checks_that_can_be_run_are_accepted() {
        for words in
            [&[][..], &["NONE"], &["CMD", "true"], &["CMD", "wget", "-q", ""], &["CMD-SHELL", "a || b"]]
        {
            check("healthcheck", &test(words)).unwrap();
        }
        let interval = prost_types::Duration { seconds: 0, nanos: 1_000_000 };
        check("healthcheck", &HealthConfig { interval: Some(interval), ..test(&["CMD", "true"]) }).unwrap();
    }

    #[test]
    fn others_are_refused_by_field_and_value() {
        for (words, says) in [
            (&["NONE", "x"][..], "nothing may follow"),
            (&["CMD"], "a program"),
            (&["CMD", ""], "a program"),
            (&["CMD-SHELL", "a", "b"], "one line"),
            (&["curl", "x"], "CMD-SHELL"),
        ] {
            let refused = refusal(&test(words));
            assert!(
                refused.starts_with("healthcheck.test has the value") && refused.contains(says),
                "{refused}"
            );
        }
        assert!(refusal(&test(&["CMD", "a\0b"])).starts_with("healthcheck.test[1]"));
        assert_eq!(
            refusal(&HealthConfig { retries: -1, ..Default::default() }),
            r#"healthcheck.retries has the value "-1": 0 (the image's number, else 3) or more is needed"#,
        );
        let short = prost_types::Duration { seconds: 0, nanos: 500_000 };
        let refused = refusal(&HealthConfig { timeout: Some(short), ..Default::default() });
        assert!(refused.starts_with(r#"healthcheck.timeout has the value "500µs""#), "{refused}");
        let negative = prost_types::Duration { seconds: -1, nanos: 0 };
        assert!(
            refusal(&HealthConfig { interval: Some(negative), ..Default::default() }).contains("interval")
        );
    }
}
