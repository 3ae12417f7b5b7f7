//! One line of a log file: `{"log":"…","stream":"stdout","time":"…"}`, as Docker's `json-file` driver writes it.
//!
//! Output that is not UTF-8 is kept whole in a further field, `raw` (base64); `log` then has replacement
//! characters, which is all that Docker keeps.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::borrow::Cow;
use std::time::SystemTime;

use super::{LogLine, LogSource, timestamp};

#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    log: Cow<'a, str>,
    #[serde(borrow)]
    stream: Cow<'a, str>,
    #[serde(borrow)]
    time: Cow<'a, str>,
    #[serde(default, borrow)]
    raw: Option<Cow<'a, str>>,
}

/// `None` if it is no record: a line torn by a crash.
pub(super) fn parse(line: &[u8]) -> Option<LogLine> {
    let record: Record<'_> = serde_json::from_slice(line).ok()?;
    let source = match &*record.stream {
        "stdout" => LogSource::Stdout,
        "stderr" => LogSource::Stderr,
        _ => return None,
    };
    let data = match record.raw {
        Some(raw) => STANDARD.decode(raw.as_bytes()).ok()?,
        None => record.log.into_owned().into_bytes(),
    };
    Some(LogLine { time: timestamp::parse(&record.time)?, source, data })
}

/// Appends the record of `data` to `out`.
pub(super) fn format(source: LogSource, data: &[u8], time: SystemTime, out: &mut Vec<u8>) {
    let text = String::from_utf8_lossy(data);
    out.extend(b"{\"log\":\"");
    escape(&text, out);
    let stream = match source {
        LogSource::Stdout => "stdout",
        LogSource::Stderr => "stderr",
    };
    out.extend(format!("\",\"stream\":\"{stream}\",\"time\":\"{}\"", timestamp::format(time)).bytes());
    if matches!(text, Cow::Owned(_)) {
        out.extend(format!(",\"raw\":\"{}\"", STANDARD.encode(data)).bytes());
    }
    out.extend(b"}\n");
}

fn escape(text: &str, out: &mut Vec<u8>) {
    for byte in text.bytes() {
        match byte {
            b'"' => out.extend(b"\\\""),
            b'\\' => out.extend(b"\\\\"),
            b'\n' => out.extend(b"\\n"),
            b'\r' => out.extend(b"\\r"),
            b'\t' => out.extend(b"\\t"),
            0..0x20 => out.extend(format!("\\u{byte:04x}").bytes()),
            _ => out.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn looks_like_dockers() {
        let mut out = Vec::new();
        format(LogSource::Stderr, b"say \"hi\"\t\n", UNIX_EPOCH + Duration::from_millis(1500), &mut out);
        let expected =
            r#"{"log":"say \"hi\"\t\n","stream":"stderr","time":"1970-01-01T00:00:01.500000000Z"}"#;
        assert_eq!(String::from_utf8(out).unwrap(), format!("{expected}\n"));
        assert_eq!(parse(&expected.as_bytes()[..40]), None);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_come_back(data in proptest::collection::vec(0u8.., 0..100)) {
            let mut out = Vec::new();
            let time = UNIX_EPOCH + Duration::from_nanos(1);
            format(LogSource::Stdout, &data, time, &mut out);
            proptest::prop_assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
            let expected = LogLine { time, source: LogSource::Stdout, data };
            proptest::prop_assert_eq!(parse(&out), Some(expected));
        }
    }
}
