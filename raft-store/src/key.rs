//! The data key: everything that a manager writes about the swarm's state is encrypted with it.
//!
//! XChaCha20-Poly1305 with a random nonce each time: 192 bits never repeat. What a ciphertext is for is
//! authenticated with it, so that it cannot be taken for another one. Each manager has a key of its own.
//!
//! A key can be replaced while everything goes on: the newest one encrypts, the ones before still decrypt until
//! `rekey` has seen to it that nothing needs them. On disk they may be sealed ([`file`]); with what is the owner's
//! business ([`Seal`]).
//!
//! Invariant: what encrypts is on disk before it is used first.

mod file;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use crate::disk;
use crate::host::random;

const KEY_BYTES: usize = 32;
pub(crate) const NONCE_BYTES: usize = 24;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("data key")]
    Disk(#[from] disk::Error),
    #[error("data key {path}: {found} bytes where {KEY_BYTES} are expected")]
    Length { path: String, found: usize },
    #[error("data key {path} is damaged; remove this manager from the swarm and join it again")]
    Damaged { path: String },
    #[error(
        "data key {path} has format {found}, known is {}: it was written by a newer version",
        file::FORMAT
    )]
    Format { path: String, found: u32 },
    #[error("data key {path} is sealed, and not with the unlock key that this node has")]
    Sealed { path: String },
}

/// Seals the data key on disk.
pub trait Seal: Send + Sync {
    fn seal(&self, plaintext: &[u8]) -> Vec<u8>;
    /// None if something else has sealed it.
    fn open(&self, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>>;
}

/// None: in clear.
pub(crate) type Envelope = Option<Arc<dyn Seal>>;

/// Cheap to clone; all clones are the same keys.
#[derive(Clone)]
pub(crate) struct DataKey(Arc<Shared>);

struct Shared {
    path: PathBuf,
    ring: RwLock<Arc<Ring>>,
    /// What is on disk: the same keys in each. Held while the file is replaced.
    envelopes: Mutex<Vec<Envelope>>,
    /// Rings that encrypt no more, for as long as somebody holds them.
    replaced: Mutex<Vec<Weak<Ring>>>,
}

/// Keys, the newest first; never empty.
#[derive(Clone)]
pub(crate) struct Ring(Vec<Key>);

#[derive(Clone)]
struct Key {
    bytes: Zeroizing<[u8; KEY_BYTES]>,
    /// Numbers the keys that this process has; those that it has found begin at 0.
    epoch: u64,
}

impl DataKey {
    /// Reads the key in clear, or makes one that only the owner may read.
    #[cfg(test)]
    pub(crate) fn load_or_create(path: &Path) -> Result<Self, Error> {
        Self::load(path, None)
    }

    /// Reads the key, which may be sealed, or makes one.
    pub(crate) fn load(path: &Path, seal: Envelope) -> Result<Self, Error> {
        let found = file::read(path, seal.as_deref())?;
        let (is_new, is_settled) = (found.is_none(), found.as_ref().is_none_or(|found| found.settled));
        let keys = found.map_or_else(|| vec![Zeroizing::new(random())], |found| found.keys);
        let newest = keys.len().saturating_sub(1) as u64;
        let numbered = keys.into_iter().zip((0..=newest).rev());
        let ring = Ring(numbered.map(|(bytes, epoch)| Key { bytes, epoch }).collect());
        let envelopes = vec![seal.clone()];
        if is_new {
            file::write(path, &ring, &envelopes)?;
        }
        let key = Self(Arc::new(Shared {
            path: path.into(),
            ring: RwLock::new(Arc::new(ring)),
            envelopes: Mutex::new(envelopes),
            replaced: Mutex::default(),
        }));
        if !is_settled {
            // A change of the seal was interrupted.
            key.enclose(seal)?;
        }
        Ok(key)
    }

    fn ring(&self) -> Arc<Ring> {
        self.0.ring.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn envelopes(&self) -> MutexGuard<'_, Vec<Envelope>> {
        self.0.envelopes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These keys as they are now, for a file that must be written with one of them from its beginning to its end.
    pub(crate) fn pinned(&self) -> Arc<Ring> {
        self.ring()
    }

    /// Whether there are such files that were begun before `epoch`.
    pub(crate) fn is_pinned_before(&self, epoch: u64) -> bool {
        let mut replaced = self.0.replaced.lock().unwrap_or_else(PoisonError::into_inner);
        replaced.retain(|ring| ring.strong_count() > 0);
        replaced.iter().filter_map(Weak::upgrade).any(|ring| ring.epoch() < epoch)
    }

    /// Of the key that encrypts.
    pub(crate) fn epoch(&self) -> u64 {
        self.ring().epoch()
    }

    /// Whether keys are kept that encrypt no more.
    pub(crate) fn is_changing(&self) -> bool {
        self.ring().0.len() > 1
    }

    /// Whoever can open `envelope` can open the file too, from now on.
    pub(crate) fn admit(&self, envelope: Envelope) -> Result<(), Error> {
        let mut envelopes = self.envelopes();
        let mut both = envelopes.clone();
        both.push(envelope);
        file::write(&self.0.path, &self.ring(), &both)?;
        *envelopes = both;
        Ok(())
    }

    /// Only who can open `envelope` can open the file, from now on. What is written then has a new key, unless the
    /// file is in clear.
    pub(crate) fn enclose(&self, envelope: Envelope) -> Result<(), Error> {
        let mut envelopes = self.envelopes();
        let mut ring = Ring::clone(&self.ring());
        if envelope.is_some() {
            let key = Key { bytes: Zeroizing::new(random()), epoch: ring.0[0].epoch + 1 };
            ring.0.insert(0, key);
        }
        self.replace(ring, &mut envelopes, vec![envelope])
    }

    /// Forgets the keys before `epoch`: nothing that counts is encrypted with them.
    pub(crate) fn retire(&self, epoch: u64) -> Result<(), Error> {
        let mut envelopes = self.envelopes();
        let mut ring = Ring::clone(&self.ring());
        ring.0.retain(|key| key.epoch >= epoch);
        let same = envelopes.clone();
        self.replace(ring, &mut envelopes, same)
    }

    fn replace(
        &self,
        ring: Ring,
        current: &mut Vec<Envelope>,
        envelopes: Vec<Envelope>,
    ) -> Result<(), Error> {
        file::write(&self.0.path, &ring, &envelopes)?;
        *current = envelopes;
        let mut replaced = self.0.replaced.lock().unwrap_or_else(PoisonError::into_inner);
        let mut now = self.0.ring.write().unwrap_or_else(PoisonError::into_inner);
        replaced.push(Arc::downgrade(&now));
        *now = Arc::new(ring);
        Ok(())
    }

    /// One that is on no disk.
    pub(crate) fn of(bytes: &[u8; KEY_BYTES]) -> Self {
        let key = Key { bytes: Zeroizing::new(*bytes), epoch: 0 };
        Self(Arc::new(Shared {
            path: PathBuf::new(),
            ring: RwLock::new(Arc::new(Ring(vec![key]))),
            envelopes: Mutex::new(vec![None]),
            replaced: Mutex::default(),
        }))
    }

    /// Nonce and ciphertext.
    pub(crate) fn seal(&self, purpose: &[u8], plaintext: &[u8]) -> Vec<u8> {
        self.ring().seal(purpose, plaintext)
    }

    /// None if it was sealed with another key or for another purpose, or was changed.
    pub(crate) fn open(&self, purpose: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        self.ring().open(purpose, sealed)
    }
}

impl Ring {
    /// Nonce and ciphertext, with the newest key.
    pub(crate) fn seal(&self, purpose: &[u8], plaintext: &[u8]) -> Vec<u8> {
        let nonce: [u8; NONCE_BYTES] = random();
        let payload = Payload { msg: plaintext, aad: purpose };
        let sealed = self.0[0].cipher().encrypt(&XNonce::from(nonce), payload);
        let sealed = sealed.expect("only plaintexts beyond 256 GiB cannot be encrypted");
        [&nonce[..], &sealed].concat()
    }

    pub(crate) fn open(&self, purpose: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, ciphertext) = sealed.split_at_checked(NONCE_BYTES)?;
        let payload = || Payload { msg: ciphertext, aad: purpose };
        self.0.iter().find_map(|key| key.cipher().decrypt(XNonce::from_slice(nonce), payload()).ok())
    }

    /// Of the newest key.
    pub(crate) fn epoch(&self) -> u64 {
        self.0[0].epoch
    }
}

impl Key {
    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new_from_slice(self.bytes.as_slice()).expect("it has the length of a key")
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests;
