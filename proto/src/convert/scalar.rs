//! The small parts that messages are made of: ids, amounts, times, annotations, drivers.

use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use super::{Error, Within};
use crate::model::{Annotations, Driver, Meta};
use crate::wire;

const NANOS: u32 = 1_000_000_000;
/// 10,000 years of 365.25 days.
const LONGEST_DURATION: Duration = Duration::from_secs(315_576_000_000);
/// Seconds since 1970 that `google.protobuf.Timestamp` may hold: the years 1 to 9999.
const TIMES: RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

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

/// A number that is wider on the wire than it can be.
pub(super) fn narrow<T: TryFrom<u32>>(field: &str, value: u32, expected: &'static str) -> Result<T, Error> {
    T::try_from(value).map_err(|_| Error::invalid(field, value, expected))
}

/// Reads a duration, none if it is absent. Unlike the conversion of `prost_types` it holds for every input:
/// that one overflows at the most negative number of seconds.
///
/// The longest is the protocol's (`google.protobuf.Duration`), so that a time of today plus any duration is a
/// time.
pub fn duration(field: &str, value: Option<prost_types::Duration>) -> Result<Option<Duration>, Error> {
    let Some(prost_types::Duration { seconds, nanos }) = value else { return Ok(None) };
    let nanos_in = u32::try_from(nanos).ok().filter(|nanos| *nanos < NANOS);
    let parts = u64::try_from(seconds).ok().zip(nanos_in);
    let read = parts.map(|(seconds, nanos)| Duration::new(seconds, nanos));
    let read = read.filter(|duration| *duration <= LONGEST_DURATION);
    let refuse = || Error::invalid(field, format!("{seconds} s {nanos} ns"), "0 s to 10,000 years");
    read.map(Some).ok_or_else(refuse)
}

pub(super) fn duration_or_zero(field: &str, value: Option<prost_types::Duration>) -> Result<Duration, Error> {
    duration(field, value).map(Option::unwrap_or_default)
}

pub(super) fn duration_out(value: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(value.min(LONGEST_DURATION)).ok()
}

pub(super) fn time_in(
    field: &str,
    value: Option<prost_types::Timestamp>,
) -> Result<Option<SystemTime>, Error> {
    let Some(value) = value else { return Ok(None) };
    let shown = format!("{} s {} ns since 1970", value.seconds, value.nanos);
    let is_sound = TIMES.contains(&value.seconds) && (0..NANOS.cast_signed()).contains(&value.nanos);
    let read = Some(value).filter(|_| is_sound).and_then(|value| SystemTime::try_from(value).ok());
    read.map(Some).ok_or_else(|| Error::invalid(field, shown, "a time of the years 1 to 9999"))
}

pub(super) fn time_out(value: SystemTime) -> Option<prost_types::Timestamp> {
    Some(value.into())
}

pub(super) fn meta_in(meta: Option<wire::Meta>) -> Result<Meta, Error> {
    let meta = meta.unwrap_or_default();
    let created_at = time_in("created_at", meta.created_at).within("meta")?;
    let updated_at = time_in("updated_at", meta.updated_at).within("meta")?;
    Ok(Meta {
        version: version_in(meta.version),
        created_at: created_at.unwrap_or(SystemTime::UNIX_EPOCH),
        updated_at: updated_at.unwrap_or(SystemTime::UNIX_EPOCH),
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

/// Converts each element, naming the one that is wrong. An element that has no fields has the empty name.
pub(super) fn each<T, U>(
    field: &str,
    values: Vec<T>,
    convert: impl Fn(T) -> Result<U, Error>,
) -> Result<Vec<U>, Error> {
    let numbered = values.into_iter().enumerate();
    numbered.map(|(i, value)| convert(value).within(&format!("{field}[{i}]"))).collect()
}
