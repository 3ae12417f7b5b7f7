//! How people write amounts: `512m`, `0.5` CPUs, `1h30m`, `key=value`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// Bytes with an optional suffix b, k, m, g, t (powers of 1024), upper or lower case, also `kb`, `KiB` and so on.
pub fn bytes(text: &str) -> Result<u64, String> {
    let invalid = || format!("{text:?} is not a size: expected a number with b, k, m, g or t behind it");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let exponent = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        _ => return Err(invalid()),
    };
    let number: f64 = digits.parse().map_err(|_| invalid())?;
    let bytes = number * 1024_f64.powi(exponent);
    // i64 is what the wire carries.
    if !(0.0..9.2e18).contains(&bytes) {
        return Err(invalid());
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
    Ok(bytes as u64)
}

/// CPUs as a decimal, in billionths.
pub fn nano_cpus(text: &str) -> Result<u64, String> {
    let invalid = || format!("{text:?} is not a number of CPUs: expected a decimal such as 0.5");
    let cpus: f64 = text.parse().map_err(|_| invalid())?;
    if !(0.0..1e6).contains(&cpus) {
        return Err(invalid());
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
    Ok((cpus * 1e9).round() as u64)
}

/// `10s`, `1h30m`, `500ms`.
pub fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text).map_err(|_| {
        format!("{text:?} is not a duration: expected a number with a unit, such as 10s or 1h30m")
    })
}

/// `key=value`; a key alone has an empty value.
pub fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() {
        return Err(format!("{text:?} has no key: expected key=value"));
    }
    Ok((key.into(), value.into()))
}

pub fn map(pairs: &[(String, String)]) -> BTreeMap<String, String> {
    pairs.iter().cloned().collect()
}

/// `3 minutes`, as Docker words it.
pub fn age(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if seconds < 1 => "Less than a second".into(),
        () if seconds == 1 => "1 second".into(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".into(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".into(),
        () if hours < 48 => format!("{hours} hours"),
        () if days < 14 => format!("{days} days"),
        () if days < 60 => format!("{} weeks", days / 7),
        () => format!("{} months", days / 30),
    }
}

pub fn ago(time: SystemTime, now: SystemTime) -> String {
    format!("{} ago", age(now.duration_since(time).unwrap_or_default()))
}

/// RFC 3339 in UTC.
pub fn timestamp(time: SystemTime) -> String {
    humantime::format_rfc3339_nanos(time).to_string()
}

/// `12.3MB`, in powers of 1000 as Docker lists images.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    #[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut number = bytes as f64;
    let mut unit = 0;
    while number >= 1000.0 && unit + 1 < UNITS.len() {
        number /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes}B") } else { format!("{number:.1}{}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_suffixes() {
        assert_eq!(bytes("512m"), Ok(512 << 20));
        assert_eq!(bytes("1.5GiB"), Ok(3 << 29));
        assert_eq!(bytes("100"), Ok(100));
        for wrong in ["", "m", "-1m", "1x", "1e30"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn cpus_are_decimals() {
        assert_eq!(nano_cpus("0.5"), Ok(500_000_000));
        assert!(nano_cpus("-1").is_err() && nano_cpus("NaN").is_err() && nano_cpus("two").is_err());
    }

    #[test]
    fn durations_read_as_go_writes_them() {
        assert_eq!(duration("2160h0m0s"), Ok(Duration::from_secs(2160 * 3600)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert!(duration("10").is_err());
    }

    #[test]
    fn ages_and_sizes_are_short() {
        assert_eq!(age(Duration::from_secs(75)), "About a minute");
        assert_eq!(age(Duration::from_secs(3 * 86_400)), "3 days");
        assert_eq!(size(1_234_567), "1.2MB");
        assert_eq!(size(12), "12B");
    }
}
