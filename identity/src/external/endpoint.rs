//! Where a signer is: an `https` URL, to which requests are posted as it is.

use std::fmt;
use std::str::FromStr;

use http::Uri;
use rustls::pki_types::ServerName;

const LONGEST: usize = 2048;
const PORT: u16 = 443;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("it is longer than {LONGEST} bytes")]
    TooLong,
    #[error("expected https://<host>[:port]/<path>")]
    Malformed,
    #[error("only https is allowed")]
    Insecure,
    #[error("a user or password in it is not supported")]
    User,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    url: String,
    pub(super) uri: Uri,
    /// What its certificate must be for.
    pub(super) name: ServerName<'static>,
    pub(super) host: String,
    pub(super) port: u16,
}

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(url: &str) -> Result<Self, Error> {
        if url.len() > LONGEST {
            return Err(Error::TooLong);
        }
        let uri: Uri = url.parse().map_err(|_| Error::Malformed)?;
        match uri.scheme_str() {
            Some("https") => {}
            Some("http") => return Err(Error::Insecure),
            _ => return Err(Error::Malformed),
        }
        let authority = uri.authority().ok_or(Error::Malformed)?;
        if authority.as_str().contains('@') {
            return Err(Error::User);
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        // A port that is none must not become the usual one.
        let has_port = authority.as_str().len() > authority.host().len();
        let port = authority.port_u16();
        if has_port && port.is_none() {
            return Err(Error::Malformed);
        }
        let name = ServerName::try_from(host.clone()).map_err(|_| Error::Malformed)?;
        Ok(Self { url: url.to_owned(), name, host, port: port.unwrap_or(PORT), uri })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_https_url_is_an_endpoint() {
        for (url, host, port) in [
            ("https://ca.example/api/v1/cfssl/sign", "ca.example", 443),
            ("https://192.168.77.1:8888/sign?x=1", "192.168.77.1", 8888),
            ("https://[fd00::1]:8888", "fd00::1", 8888),
        ] {
            let endpoint: Endpoint = url.parse().unwrap();
            assert_eq!(
                (endpoint.host.as_str(), endpoint.port, endpoint.to_string()),
                (host, port, url.into())
            );
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for (url, error) in [
            ("", Error::Malformed),
            ("ca.example", Error::Malformed),
            ("/sign", Error::Malformed),
            ("ftp://ca.example", Error::Malformed),
            ("https://ca.example:x/", Error::Malformed),
            ("https://ca.example:99999/", Error::Malformed),
            ("https://ca example/", Error::Malformed),
            ("http://ca.example/sign", Error::Insecure),
            ("https://user:secret@ca.example/", Error::User),
            (&format!("https://ca.example/{}", "x".repeat(LONGEST)), Error::TooLong),
        ] {
            assert_eq!(url.parse::<Endpoint>().unwrap_err(), error, "{url}");
        }
    }
}
