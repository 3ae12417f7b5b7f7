//! A private key: ECDSA on P-256, PKCS#8.
//!
//! Kept as PEM in memory that is wiped when dropped. The copies that rustls and ring hold while a configuration is
//! in use are theirs and are not wiped.

use std::fmt;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("not a P-256 private key in PKCS#8 PEM")]
    Unsupported(#[source] rcgen::Error),
    #[error("cannot generate a private key")]
    Generate(#[source] rcgen::Error),
    #[error("cannot write a certificate signing request")]
    Request(#[source] rcgen::Error),
}

#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey(Zeroizing<String>);

impl PrivateKey {
    pub fn generate() -> Result<Self, Error> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(Error::Generate)?;
        Ok(Self(Zeroizing::new(pair.serialize_pem())))
    }

    /// Takes PKCS#8 PEM; a key of any other kind than P-256 is refused.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        parse(pem)?;
        Ok(Self(Zeroizing::new(pem.to_owned())))
    }

    /// The secret itself, as PKCS#8 PEM.
    pub fn expose_pem(&self) -> &str {
        &self.0
    }

    /// The public half: an uncompressed point, 65 bytes (SEC 1).
    pub fn public_key(&self) -> Vec<u8> {
        self.pair().public_key_raw().to_vec()
    }

    /// A signing request in PEM. It carries the public key and nothing else: the CA sets the subject.
    pub fn signing_request(&self) -> Result<String, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&self.pair()).map_err(Error::Request)?;
        request.pem().map_err(Error::Request)
    }

    pub(crate) fn pair(&self) -> KeyPair {
        parse(&self.0).expect("the PEM was parsed when the key was made")
    }

    pub(crate) fn der(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.pair().serialize_der()).into()
    }
}

fn parse(pem: &str) -> Result<KeyPair, Error> {
    KeyPair::from_pkcs8_pem_and_sign_algo(pem, &PKCS_ECDSA_P256_SHA256).map_err(Error::Unsupported)
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_pem_and_keeps_quiet_in_debug() {
        let key = PrivateKey::generate().unwrap();
        let again = PrivateKey::from_pem(key.expose_pem()).unwrap();
        assert_eq!(key.public_key(), again.public_key());
        assert_eq!(format!("{key:?}"), "PrivateKey([redacted])");
    }

    #[test]
    fn other_curves_and_garbage_are_refused() {
        let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem();
        for pem in [p384.as_str(), "", "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n"] {
            assert!(matches!(PrivateKey::from_pem(pem), Err(Error::Unsupported(_))));
        }
    }
}
