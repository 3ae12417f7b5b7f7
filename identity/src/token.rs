//! Join tokens: `SWMTKN-1-<digest>-<secret>`, as SwarmKit writes them.
//!
//! The digest lets the joining node recognise the swarm before it sends anything; the secret lets the manager recognise
//! the node, and which of the two tokens it is decides the role. There is exactly one way to write a token, so that a
//! changed character is always either an invalid format, another digest or another secret.

use std::fmt;
use std::str::FromStr;

use num_bigint::BigUint;
use ring::rand::{SecureRandom, SystemRandom};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::root::RootDigest;

const PREFIX: &str = "SWMTKN-1-";
/// Digits of 256 bits in base 36.
const DIGEST_DIGITS: usize = 50;
/// Digits of 128 bits in base 36.
const SECRET_DIGITS: usize = 25;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the join token is not valid: {0}")]
pub struct Error(Reason);

/// Says what is wrong without showing any of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    #[error("it must look like SWMTKN-1-<digest>-<secret>")]
    Form,
    #[error("its digest has {0} digits instead of {DIGEST_DIGITS}")]
    DigestLength(usize),
    #[error("its secret has {0} digits instead of {SECRET_DIGITS}")]
    SecretLength(usize),
    #[error("digits are 0-9 and a-z")]
    Digit,
    #[error("its digest or its secret is too large a number")]
    TooLarge,
    #[error("no randomness from the system to make one")]
    Random,
}

#[derive(Clone)]
pub struct JoinToken {
    digest: RootDigest,
    secret: Zeroizing<[u8; 16]>,
}

impl JoinToken {
    /// A token with a new secret for the swarm with this root.
    pub fn generate(digest: RootDigest) -> Result<Self, Error> {
        let mut secret = Zeroizing::new([0; 16]);
        SystemRandom::new().fill(secret.as_mut()).map_err(|_| Error(Reason::Random))?;
        Ok(Self { digest, secret })
    }

    /// The digest of the root certificate of the swarm that the token is for.
    pub const fn root_digest(&self) -> RootDigest {
        self.digest
    }

    /// Whether both are the same token; the time it takes says nothing about the secret.
    pub fn matches(&self, other: &Self) -> bool {
        let secrets_match: bool = self.secret.as_slice().ct_eq(other.secret.as_slice()).into();
        secrets_match && self.digest == other.digest
    }

    /// Whether `text`, which came over the wire, is this token.
    pub fn matches_text(&self, text: &str) -> bool {
        text.parse().is_ok_and(|other| self.matches(&other))
    }
}

impl FromStr for JoinToken {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).map_err(Error)
    }
}

/// The token in full: who prints it gives it away.
impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = BigUint::from_bytes_be(self.digest.as_bytes()).to_str_radix(36);
        let secret = Zeroizing::new(BigUint::from_bytes_be(self.secret.as_slice()).to_str_radix(36));
        write!(f, "{PREFIX}{digest:0>DIGEST_DIGITS$}-{:0>SECRET_DIGITS$}", secret.as_str())
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({}, [redacted])", self.digest)
    }
}

fn parse(text: &str) -> Result<JoinToken, Reason> {
    let (digest, secret) =
        text.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')).ok_or(Reason::Form)?;
    if digest.len() != DIGEST_DIGITS {
        return Err(Reason::DigestLength(digest.len()));
    }
    if secret.len() != SECRET_DIGITS {
        return Err(Reason::SecretLength(secret.len()));
    }
    Ok(JoinToken { digest: RootDigest::new(number(digest)?), secret: Zeroizing::new(number(secret)?) })
}

fn number<const BYTES: usize>(digits: &str) -> Result<[u8; BYTES], Reason> {
    if !digits.bytes().all(|digit| digit.is_ascii_digit() || digit.is_ascii_lowercase()) {
        return Err(Reason::Digit);
    }
    let number = BigUint::parse_bytes(digits.as_bytes(), 36).ok_or(Reason::Digit)?;
    let bytes = Zeroizing::new(number.to_bytes_be());
    let start = BYTES.checked_sub(bytes.len()).ok_or(Reason::TooLarge)?;
    let mut padded = [0; BYTES];
    padded[start..].copy_from_slice(&bytes);
    Ok(padded)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example of the Docker Engine API's reference.
    const DOCKERS: &str =
        "SWMTKN-1-3pu6hszjas19xyp7ghgosyx9k8atbfcr8p2is99znpy26u2lkl-7p73s1dx5in4tatdymyhg9hu2";

    fn token(digest: [u8; 32], secret: [u8; 16]) -> JoinToken {
        JoinToken { digest: RootDigest::new(digest), secret: Zeroizing::new(secret) }
    }

    fn reason(text: &str) -> Reason {
        text.parse::<JoinToken>().unwrap_err().0
    }

    #[test]
    fn is_written_as_it_was_read() {
        let token: JoinToken = DOCKERS.parse().unwrap();
        assert_eq!(token.to_string(), DOCKERS);
    }

    #[test]
    fn is_padded_to_full_length() {
        let zero = token([0; 32], [0; 16]);
        assert_eq!(zero.to_string(), format!("SWMTKN-1-{}-{}", "0".repeat(50), "0".repeat(25)));
        let top = token([0xff; 32], [0xff; 16]);
        assert_eq!(
            top.to_string(),
            "SWMTKN-1-6dp5qcb22im238nr3wvp0ic7q99w035jmy2iw7i6n43d37jtof-f5lxx1zz5pnorynqglhzmsp33"
        );
        assert!(top.matches_text(&top.to_string()));
    }

    #[test]
    fn says_what_is_wrong() {
        let digest = "0".repeat(50);
        let secret = "0".repeat(25);
        assert_eq!(reason("hello"), Reason::Form);
        assert_eq!(reason(&format!("SWMTKN-2-{digest}-{secret}")), Reason::Form);
        assert_eq!(reason(&format!("SWMTKN-1-0{digest}-{secret}")), Reason::DigestLength(51));
        assert_eq!(reason(&format!("SWMTKN-1-{digest}-{secret}-1")), Reason::SecretLength(27));
        assert_eq!(reason(&DOCKERS.to_uppercase()), Reason::Digit);
        assert_eq!(reason(&format!("SWMTKN-1-{}-{secret}", "z".repeat(50))), Reason::TooLarge);
        assert_eq!(reason(&format!("SWMTKN-1-{digest}-{}", "z".repeat(25))), Reason::TooLarge);
    }

    #[test]
    fn neither_debug_nor_errors_show_the_secret() {
        let token: JoinToken = DOCKERS.parse().unwrap();
        assert!(format!("{token:?}").ends_with("[redacted])"));
        let error = format!("{DOCKERS}x").parse::<JoinToken>().unwrap_err();
        assert!(!error.to_string().contains("7p73s1"));
    }

    proptest! {
        #[test]
        fn round_trips(digest: [u8; 32], secret: [u8; 16]) {
            let token = token(digest, secret);
            let again: JoinToken = token.to_string().parse().unwrap();
            prop_assert!(token.matches(&again));
            prop_assert_eq!(again.root_digest(), RootDigest::new(digest));
        }

        #[test]
        fn one_changed_character_never_matches(
            digest: [u8; 32], secret: [u8; 16], place in 0..85usize, replacement in "[ -~]",
        ) {
            let token = token(digest, secret);
            let mut text = token.to_string();
            prop_assume!(text[place..=place] != replacement);
            text.replace_range(place..=place, &replacement);
            prop_assert!(!token.matches_text(&text));
        }
    }
}
