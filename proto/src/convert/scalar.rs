//! Fields that every object has: times, addresses, annotations.

use std::str::FromStr;
use std::time::{Duration, SystemTime};

use super::{Error, Within};
use crate::model::{Annotations, Driver, Meta};
use crate::wire;

pub(super) fn required<T>(field: &str, value: Option<T>) -> Result<T, Error> {
    value.ok_or_else(|| Error::missing(field))
}

/// An id that must be there.
pub(super) fn id<T: From<String>>(field: &str, value: String) -> Result<T, Error> {
    if value.is_empty() { Err(Error::missing(field)) } else { Ok(value.into()) }
}

pub(super) fn optional_id<T: From<String>>(value: String) -> Option<T> {
    (!value.is_empty()).then(|| value.into())
}

pub(super) fn parse<T: FromStr>(field: &str, value: &str, expected: &'static str) -> Result<T, Error> {
    value.parse().map_err(|_| Error::invalid(field, value, expected))
}

pub(super) fn parse_optional<T: FromStr>(
    field: &str,
    value: &str,
    expected: &'static str,
) -> Result<Option<T>, Error> {
    if value.is_empty() { Ok(None) } else { parse(field, value, expected).map(Some) }
}

pub(super) fn duration_in(field: &str, value: Option<prost_types::Duration>) -> Result<Duration, Error> {
    optional_duration_in(field, value).map(Option::unwrap_or_default)
}

pub(super) fn optional_duration_in(
    field: &str,
    value: Option<prost_types::Duration>,
) -> Result<Option<Duration>, Error> {
    let Some(value) = value else { return Ok(None) };
    let shown = format!("{}.{:09}s", value.seconds, value.nanos);
    Duration::try_from(value)
        .map(Some)
        .map_err(|_| Error::invalid(field, shown, "a duration that is not negative"))
}

pub(super) fn duration_out(value: Duration) -> Option<prost_types::Duration> {
    // Only durations of more than 292 billion years do not fit.
    prost_types::Duration::try_from(value).ok()
}

pub(super) fn time_in(
    field: &str,
    value: Option<prost_types::Timestamp>,
) -> Result<Option<SystemTime>, Error> {
    let Some(value) = value else { return Ok(None) };
    let seconds = value.seconds;
    SystemTime::try_from(value).map(Some).map_err(|_| Error::invalid(field, seconds, "a time since 1970"))
}

pub(super) fn time_out(value: SystemTime) -> Option<prost_types::Timestamp> {
    Some(value.into())
}

pub(super) fn meta_in(meta: Option<wire::Meta>) -> Result<Meta, Error> {
    let meta = meta.unwrap_or_default();
    Ok(Meta {
        version: version_in(meta.version),
        created_at: time_in("meta.created_at", meta.created_at)?.unwrap_or(SystemTime::UNIX_EPOCH),
        updated_at: time_in("meta.updated_at", meta.updated_at)?.unwrap_or(SystemTime::UNIX_EPOCH),
    })
}

pub(super) fn meta_out(meta: &Meta) -> Option<wire::Meta> {
    Some(wire::Meta {
        version: version_out(meta.version),
        created_at: time_out(meta.created_at),
        updated_at: time_out(meta.updated_at),
    })
}

pub(super) fn version_in(version: Option<wire::Version>) -> u64 {
    version.map_or(0, |version| version.index)
}

pub(super) fn version_out(index: u64) -> Option<wire::Version> {
    Some(wire::Version { index })
}

/// Refuses amounts below zero, which the wire could carry.
pub(super) fn amount(field: &str, value: i64) -> Result<u64, Error> {
    u64::try_from(value).map_err(|_| Error::invalid(field, value, "0 or more"))
}

pub(super) fn amount_out(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn annotations_in(annotations: Option<wire::Annotations>) -> Annotations {
    let annotations = annotations.unwrap_or_default();
    Annotations { name: annotations.name, labels: annotations.labels }
}

pub(super) fn annotations_out(annotations: &Annotations) -> Option<wire::Annotations> {
    Some(wire::Annotations { name: annotations.name.clone(), labels: annotations.labels.clone() })
}

impl From<wire::Driver> for Driver {
    fn from(driver: wire::Driver) -> Self {
        Self { name: driver.name, options: driver.options }
    }
}

impl From<&Driver> for wire::Driver {
    fn from(driver: &Driver) -> Self {
        Self { name: driver.name.clone(), options: driver.options.clone() }
    }
}

/// Converts each element, naming the one that is wrong.
pub(super) fn each<T, U>(
    field: &str,
    values: Vec<T>,
    convert: impl Fn(T) -> Result<U, Error>,
) -> Result<Vec<U>, Error> {
    let numbered = values.into_iter().enumerate();
    numbered.map(|(i, value)| convert(value).within(&format!("{field}[{i}]"))).collect()
}
