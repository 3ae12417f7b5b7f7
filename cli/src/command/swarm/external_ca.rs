//! `--external-ca`: who signs certificates instead of the managers, in Docker's syntax.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, Result};
use proto::wire;

const SYNTAX: &str = "protocol=cfssl,url=https://<host>[:port]/<path>[,cacert=<file>]";

/// As it is written on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalCa {
    url: String,
    /// The root in whose name it signs.
    pub cacert: Option<PathBuf>,
}

impl FromStr for ExternalCa {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut protocol, mut url, mut cacert) = (None, None, None);
        for field in text.split(',') {
            let (key, value) = field.split_once('=').ok_or_else(|| format!("expected {SYNTAX}"))?;
            let place = match key.to_ascii_lowercase().as_str() {
                "protocol" => &mut protocol,
                "url" => &mut url,
                "cacert" => &mut cacert,
                _ => return Err(format!("{key:?} is no field of it: expected {SYNTAX}")),
            };
            if value.is_empty() || place.replace(value.to_owned()).is_some() {
                return Err(format!("{key} must be given once, with a value"));
            }
        }
        match protocol {
            Some(protocol) if protocol.eq_ignore_ascii_case("cfssl") => {}
            Some(protocol) => return Err(format!("the protocol {protocol:?} is unknown: it must be cfssl")),
            None => return Err(format!("the protocol is missing: expected {SYNTAX}")),
        }
        let url = url.ok_or_else(|| format!("the url is missing: expected {SYNTAX}"))?;
        Ok(Self { url, cacert: cacert.map(PathBuf::from) })
    }
}

impl ExternalCa {
    /// For the root in its `cacert`, else for `otherwise` (PEM; empty: the swarm's).
    pub fn read(&self, otherwise: &[u8]) -> Result<wire::ExternalCa> {
        let ca_cert = self.cacert.as_deref().map_or_else(|| Ok(otherwise.to_vec()), read)?;
        Ok(wire::ExternalCa { url: self.url.clone(), ca_cert, ..wire::ExternalCa::default() })
    }
}

pub fn read_all(given: &[ExternalCa], otherwise: &[u8]) -> Result<Vec<wire::ExternalCa>> {
    given.iter().map(|ca| ca.read(otherwise)).collect()
}

pub fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_syntax_is_read() {
        let parsed: ExternalCa = "protocol=cfssl,url=https://ca:8888/sign?a=b,cacert=ca.pem".parse().unwrap();
        assert_eq!(
            parsed,
            ExternalCa { url: "https://ca:8888/sign?a=b".into(), cacert: Some("ca.pem".into()) }
        );
        let parsed: ExternalCa = "url=https://ca,protocol=CFSSL".parse().unwrap();
        assert_eq!(parsed, ExternalCa { url: "https://ca".into(), cacert: None });
    }

    #[test]
    fn anything_else_is_named() {
        for (text, says) in [
            ("", "expected protocol=cfssl,url="),
            ("https://ca", "expected protocol=cfssl,url="),
            ("url=https://ca", "the protocol is missing"),
            ("protocol=cfssl", "the url is missing"),
            ("protocol=acme,url=https://ca", "\"acme\" is unknown"),
            ("protocol=cfssl,url=https://ca,label=x", "\"label\" is no field"),
            ("protocol=cfssl,url=", "url must be given once"),
            ("protocol=cfssl,url=https://a,url=https://b", "url must be given once"),
        ] {
            let error = text.parse::<ExternalCa>().unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
