//! The certificate of one root signed with the key of another: what is issued under the new root is then good under
//! the old one too.
//!
//! Subject, key and validity are taken byte by byte, as names are compared so (RFC 5280, section 7.1). Of the
//! extensions it has those that every CA needs, and no other.

use rcgen::SigningKey as _;
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;

use crate::PrivateKey;

/// ecdsa-with-SHA256 (RFC 5758).
const ALGORITHM: &[u8] = &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const VERSION_3: &[u8] = &[0xa0, 0x03, 0x02, 0x01, 0x02];
/// Basic constraints: a CA; key usage: signs certificates and revocation lists. Both critical.
const EXTENSIONS: &[u8] = &[
    0x30, 0x0f, 0x06, 0x03, 0x55, 0x1d, 0x13, 0x01, 0x01, 0xff, 0x04, 0x05, 0x30, 0x03, 0x01, 0x01,
    0xff, //
    0x30, 0x0e, 0x06, 0x03, 0x55, 0x1d, 0x0f, 0x01, 0x01, 0xff, 0x04, 0x04, 0x03, 0x02, 0x01, 0x06,
];
/// Of requests (RFC 2986).
const VERSION_1: &[u8] = &[0x02, 0x01, 0x00];
/// The attribute with the extensions that a request asks for (RFC 2985, section 5.4.2).
const EXTENSION_REQUEST: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e];
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const CONTEXT_0: u8 = 0xa0;
const CONTEXT_3: u8 = 0xa3;

/// `serial` is positive. None if `of` or `by` is no certificate.
pub(crate) fn cross_sign(
    of: &CertificateDer<'_>,
    by: &CertificateDer<'_>,
    key: &PrivateKey,
    serial: &[u8],
) -> Option<Vec<u8>> {
    let (_, subject) = x509_parser::parse_x509_certificate(of).ok()?;
    let (_, issuer) = x509_parser::parse_x509_certificate(by).ok()?;
    let to_be_signed = element(
        SEQUENCE,
        &[
            VERSION_3,
            &element(INTEGER, &[serial]),
            ALGORITHM,
            issuer.subject().as_raw(),
            validity(of, &subject)?,
            subject.subject().as_raw(),
            subject.public_key().raw,
            &element(CONTEXT_3, &[&element(SEQUENCE, &[EXTENSIONS])]),
        ],
    );
    signed(&to_be_signed, key)
}

/// A signing request (PEM) for the certificate `of` a root with this key. None if that is no certificate.
pub(crate) fn request(of: &CertificateDer<'_>, key: &PrivateKey) -> Option<String> {
    let (_, subject) = x509_parser::parse_x509_certificate(of).ok()?;
    let extensions = element(SET, &[&element(SEQUENCE, &[EXTENSIONS])]);
    let attribute = element(SEQUENCE, &[EXTENSION_REQUEST, &extensions]);
    let to_be_signed = element(
        SEQUENCE,
        &[
            VERSION_1,
            subject.subject().as_raw(),
            subject.public_key().raw,
            &element(CONTEXT_0, &[&attribute]),
        ],
    );
    let request = signed(&to_be_signed, key)?;
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    Some(pem::encode_config(&pem::Pem::new("CERTIFICATE REQUEST", request), config))
}

fn signed(to_be_signed: &[u8], key: &PrivateKey) -> Option<Vec<u8>> {
    let signature = key.pair().sign(to_be_signed).ok()?;
    let signature = element(BIT_STRING, &[&[0], &signature]);
    Some(element(SEQUENCE, &[to_be_signed, ALGORITHM, &signature]))
}

/// What lies between issuer and subject.
fn validity<'a>(der: &'a [u8], certificate: &X509Certificate<'_>) -> Option<&'a [u8]> {
    let place = |part: &[u8]| (part.as_ptr() as usize).checked_sub(der.as_ptr() as usize);
    let issuer = certificate.issuer().as_raw();
    der.get(place(issuer)? + issuer.len()..place(certificate.subject().as_raw())?)
}

fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = content.len().to_be_bytes();
    let length: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
    let mut out = vec![tag];
    match length.as_slice() {
        [] => out.push(0),
        [short @ 0..0x80] => out.push(*short),
        long => {
            out.push(0x80 | u8::try_from(long.len()).expect("a length has 8 bytes at most"));
            out.extend_from_slice(long);
        }
    }
    out.extend_from_slice(&content);
    out
}
