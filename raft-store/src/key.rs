//! The data key: everything that a manager writes about the swarm's state is encrypted with it.
//!
//! XChaCha20-Poly1305 with a random nonce each time: 192 bits never repeat. What a ciphertext is for is
//! authenticated with it, so that it cannot be taken for another one. Each manager has a key of its own.

use std::fmt;
use std::path::Path;

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use crate::disk;

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("data key")]
    Disk(#[from] disk::Error),
    #[error("data key {path}: {found} bytes where {KEY_BYTES} are expected")]
    Length { path: String, found: usize },
}

#[derive(Clone)]
pub(crate) struct DataKey(XChaCha20Poly1305);

impl DataKey {
    /// Reads the key, or makes one that only the owner may read.
    pub(crate) fn load_or_create(path: &Path) -> Result<Self, Error> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => Zeroizing::new(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let bytes = Zeroizing::new(rand::random::<[u8; KEY_BYTES]>().to_vec());
                disk::write_atomically(path, &bytes)?;
                bytes
            }
            Err(error) => return Err(disk::at(path)(error).into()),
        };
        let cipher = XChaCha20Poly1305::new_from_slice(&bytes);
        let length = |_| Error::Length { path: path.display().to_string(), found: bytes.len() };
        cipher.map(Self).map_err(length)
    }

    /// Nonce and ciphertext.
    pub(crate) fn seal(&self, purpose: &[u8], plaintext: &[u8]) -> Vec<u8> {
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let payload = Payload { msg: plaintext, aad: purpose };
        let sealed = self.0.encrypt(&XNonce::from(nonce), payload);
        let sealed = sealed.expect("only plaintexts beyond 256 GiB cannot be encrypted");
        [&nonce[..], &sealed].concat()
    }

    /// None if it was sealed with another key or for another purpose, or was changed.
    pub(crate) fn open(&self, purpose: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, ciphertext) = sealed.split_at_checked(NONCE_BYTES)?;
        self.0.decrypt(XNonce::from_slice(nonce), Payload { msg: ciphertext, aad: purpose }).ok()
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_read_by_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data-key");
        let key = DataKey::load_or_create(&path).unwrap();
        let sealed = key.seal(b"entry 1", b"hello");
        assert!(!sealed.windows(5).any(|window| window == b"hello"));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        let again = DataKey::load_or_create(&path).unwrap();
        assert_eq!(again.open(b"entry 1", &sealed).unwrap(), b"hello");
        assert_eq!(again.open(b"entry 2", &sealed), None);
        assert_eq!(again.open(b"entry 1", &sealed[1..]), None);
    }
}
