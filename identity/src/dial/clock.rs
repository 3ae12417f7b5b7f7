//! What a handshake tells of clocks that disagree, for people.
//!
//! Certificates begin an hour before they are issued and last for weeks: where one is out of date, most likely a clock
//! is wrong, and the dates on both sides tell which.

use std::time::{Duration, SystemTime};

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error};

/// None if it is about something else.
pub(crate) fn complaint(error: &Error) -> Option<String> {
    let (certificate, now) = match error {
        Error::InvalidCertificate(CertificateError::NotValidYetContext { time, not_before }) => {
            (format!("its certificate is valid only from {} on", date(*not_before)), *time)
        }
        Error::InvalidCertificate(CertificateError::ExpiredContext { time, not_after }) => {
            (format!("its certificate has expired at {}", date(*not_after)), *time)
        }
        Error::AlertReceived(AlertDescription::CertificateExpired) => {
            ("it finds this node's certificate out of date".to_owned(), UnixTime::now())
        }
        _ => return None,
    };
    Some(format!("{certificate}, and this machine's clock says {}: compare the clocks of both", date(now)))
}

fn date(time: UnixTime) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs());
    humantime::format_rfc3339_seconds(time).to_string()
}
