//! Credentials for a registry, in the form in which they come with a service.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde::Deserialize;

use super::Error;

/// What Docker's client sends as `X-Registry-Auth`.
#[derive(Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default, rename_all = "lowercase")]
pub struct RegistryAuth {
    pub username: String,
    pub password: String,
    /// Base64 of `username:password`: what Docker's configuration file has instead of the two.
    auth: String,
    #[serde(rename = "serveraddress")]
    pub server_address: String,
    /// An OAuth2 refresh token, in place of a password.
    #[serde(rename = "identitytoken")]
    pub identity_token: String,
    /// A bearer token, used as it is.
    #[serde(rename = "registrytoken")]
    pub registry_token: String,
}

impl RegistryAuth {
    pub fn basic(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self { username: username.into(), password: password.into(), ..Self::default() }
    }

    /// Reads base64 (URL-safe or not) of JSON, or JSON. Nothing in it is `None`.
    pub fn parse(text: &str) -> Result<Option<Self>, Error> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        let invalid =
            || Error::config("registry credentials", "no base64 of JSON with username and password");
        let json = match text.starts_with('{') {
            true => text.as_bytes().to_vec(),
            false => URL_SAFE.decode(text).or_else(|_| STANDARD.decode(text)).map_err(|_| invalid())?,
        };
        let mut auth: Self = serde_json::from_slice(&json).map_err(|_| invalid())?;
        auth.split_auth().ok_or_else(invalid)?;
        Ok((auth != Self::default()).then_some(auth))
    }

    fn split_auth(&mut self) -> Option<()> {
        if self.username.is_empty() && !self.auth.is_empty() {
            let pair = String::from_utf8(STANDARD.decode(&self.auth).ok()?).ok()?;
            let (username, password) = pair.split_once(':')?;
            (self.username, self.password) = (username.into(), password.trim_end_matches('\0').into());
        }
        self.auth.clear();
        Some(())
    }
}

impl fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryAuth").field("username", &self.username).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_docker_sends() {
        let json = r#"{"username":"u","password":"p","serveraddress":"r:5000"}"#;
        for text in [json.to_owned(), STANDARD.encode(json), URL_SAFE.encode(json)] {
            let auth = RegistryAuth::parse(&text).unwrap().unwrap();
            assert_eq!((auth.username.as_str(), auth.password.as_str()), ("u", "p"));
            assert!(!format!("{auth:?}").contains("\"p\""));
        }
        let auth = RegistryAuth::parse(r#"{"auth":"dTpw"}"#).unwrap().unwrap();
        assert_eq!(auth, RegistryAuth::basic("u", "p"));
        assert_eq!(RegistryAuth::parse("").unwrap(), None);
        assert_eq!(RegistryAuth::parse("e30=").unwrap(), None);
        assert!(RegistryAuth::parse("???").is_err());
    }
}
