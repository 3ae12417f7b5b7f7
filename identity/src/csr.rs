//! Checks what a stranger asks to have signed.
//!
//! Only the public key of a request is ever used, so nothing else in it needs to be understood: names and extensions
//! that it asks for are ignored, as SwarmKit does.

use rcgen::SubjectPublicKeyInfo;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY};
use x509_parser::prelude::FromDer;

/// Far above any P-256 request (about 500 bytes), far below what would be a burden.
const LONGEST_PEM: usize = 16 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the certificate signing request is {0} bytes long; at most {LONGEST_PEM} are allowed")]
    TooLong(usize),
    #[error("the certificate signing request is not a PEM block of type CERTIFICATE REQUEST")]
    Pem,
    #[error("the certificate signing request is not a PKCS#10 request")]
    Malformed,
    #[error("the key of the certificate signing request is not on the curve P-256")]
    KeyType,
    #[error("the signature of the certificate signing request is wrong")]
    Signature,
}

/// The public key of a request whose sender has proved to hold the private one.
pub fn public_key(pem: &str) -> Result<SubjectPublicKeyInfo, Error> {
    if pem.len() > LONGEST_PEM {
        return Err(Error::TooLong(pem.len()));
    }
    let block = pem::parse(pem).map_err(|_| Error::Pem)?;
    if !matches!(block.tag(), "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST") {
        return Err(Error::Pem);
    }
    let (rest, request) =
        X509CertificationRequest::from_der(block.contents()).map_err(|_| Error::Malformed)?;
    if !rest.is_empty() {
        return Err(Error::Malformed);
    }

    let key = &request.certification_request_info.subject_pki;
    let curve = key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
    if key.algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY || curve != Some(OID_EC_P256) {
        return Err(Error::KeyType);
    }
    request.verify_signature().map_err(|_| Error::Signature)?;
    SubjectPublicKeyInfo::from_der(key.raw).map_err(|_| Error::KeyType)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

    use super::*;
    use crate::PrivateKey;

    #[test]
    fn a_request_yields_its_key() {
        let key = PrivateKey::generate().unwrap();
        let found = public_key(&key.signing_request().unwrap()).unwrap();
        assert_eq!(rcgen::PublicKeyData::der_bytes(&found), key.public_key());
    }

    #[test]
    fn other_kinds_of_keys_are_refused() {
        for algorithm in [&PKCS_ED25519, &PKCS_ECDSA_P384_SHA384] {
            let pair = KeyPair::generate_for(algorithm).unwrap();
            let request = CertificateParams::default().serialize_request(&pair).unwrap().pem().unwrap();
            assert!(matches!(public_key(&request), Err(Error::KeyType)));
        }
    }

    #[test]
    fn a_changed_byte_breaks_the_signature() {
        let request = PrivateKey::generate().unwrap().signing_request().unwrap();
        let mut der = pem::parse(&request).unwrap().into_contents();
        *der.last_mut().unwrap() ^= 1;
        let forged = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", der));
        assert!(matches!(public_key(&forged), Err(Error::Signature)));
    }

    #[test]
    fn what_is_no_request_is_named() {
        let certificate = pem::encode(&pem::Pem::new("CERTIFICATE", [0]));
        assert!(matches!(public_key("hello"), Err(Error::Pem)));
        assert!(matches!(public_key(&certificate), Err(Error::Pem)));
        let empty = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", [0x30, 0]));
        assert!(matches!(public_key(&empty), Err(Error::Malformed)));
        assert!(matches!(public_key(&" ".repeat(LONGEST_PEM + 1)), Err(Error::TooLong(_))));
    }
}
