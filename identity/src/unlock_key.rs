//! The unlock key of an autolocked swarm, and what it seals: `SWMKEY-1-<32 bytes in base 64>`, as SwarmKit writes it.
//!
//! XChaCha20-Poly1305 with a random nonce each time: 192 bits never repeat. What a sealed text is for is
//! authenticated with it, so that one file cannot be put in another one's place.
//!
//! Invariant: the key is shown by `Display` only, which is for who asked to see it.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

const PREFIX: &str = "SWMKEY-1-";
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;

/// Says nothing of what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the unlock key is not valid: it must look like {PREFIX}<43 characters>")]
pub struct Error;

#[derive(Clone)]
pub struct UnlockKey(Zeroizing<[u8; KEY_BYTES]>);

impl UnlockKey {
    pub fn generate() -> Self {
        Self(Zeroizing::new(rand::random()))
    }

    /// From the cluster object.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        if bytes.len() != KEY_BYTES {
            return Err(Error);
        }
        key.copy_from_slice(bytes);
        Ok(Self(key))
    }

    /// The secret itself.
    pub fn expose_bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// Whether both are the same key; the time it takes says nothing about them.
    pub fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(other.0.as_slice()).into()
    }

    /// Nonce and ciphertext.
    pub fn seal(&self, purpose: &[u8], plaintext: &[u8]) -> Vec<u8> {
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let sealed = self.cipher().encrypt(&XNonce::from(nonce), Payload { msg: plaintext, aad: purpose });
        [&nonce[..], &sealed.expect("only plaintexts beyond 256 GiB cannot be encrypted")].concat()
    }

    /// None if it was sealed with another key or for another purpose, or was changed.
    pub fn open(&self, purpose: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, ciphertext) = sealed.split_at_checked(NONCE_BYTES)?;
        let payload = Payload { msg: ciphertext, aad: purpose };
        self.cipher().decrypt(XNonce::from_slice(nonce), payload).ok().map(Zeroizing::new)
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new_from_slice(self.0.as_slice()).expect("it has the length of a key")
    }
}

impl FromStr for UnlockKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let digits = text.trim().strip_prefix(PREFIX).ok_or(Error)?;
        let bytes = Zeroizing::new(STANDARD_NO_PAD.decode(digits).map_err(|_| Error)?);
        Self::from_bytes(&bytes)
    }
}

/// The key in full: who prints it gives it away.
impl fmt::Display for UnlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = Zeroizing::new(STANDARD_NO_PAD.encode(self.0.as_slice()));
        write!(f, "{PREFIX}{}", digits.as_str())
    }
}

impl fmt::Debug for UnlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UnlockKey([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_as_it_was_written() {
        // The example of Docker's manual.
        let text = "SWMKEY-1-7c37Cc8654o6p38HnroywCi19pllOnGtbdZEgtKxZu8";
        let key: UnlockKey = text.parse().unwrap();
        assert_eq!(key.to_string(), text);
        assert!(key.matches(&UnlockKey::from_bytes(key.expose_bytes()).unwrap()));
        assert!(!key.matches(&UnlockKey::generate()));
        assert_eq!(format!("{key:?}"), "UnlockKey([redacted])");
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_shown() {
        let short = format!("{PREFIX}7c37");
        for text in
            ["", "hello", "SWMTKN-1-a-b", &short, "SWMKEY-1-????Cc8654o6p38HnroywCi19pllOnGtbdZEgtKxZu8"]
        {
            let error = text.parse::<UnlockKey>().unwrap_err();
            assert!(!error.to_string().contains("7c37"), "{error}");
        }
    }

    #[test]
    fn opens_what_it_sealed_for_the_same_purpose_only() {
        let key = UnlockKey::generate();
        let sealed = key.seal(b"a", b"secret");
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        assert_eq!(key.open(b"a", &sealed).unwrap().as_slice(), b"secret");
        assert!(key.open(b"b", &sealed).is_none());
        assert!(UnlockKey::generate().open(b"a", &sealed).is_none());
        assert!(key.open(b"a", &sealed[1..]).is_none());
        assert!(key.open(b"a", b"").is_none());
    }
}
