//! The whole state in one file that can be kept elsewhere, and a swarm be begun from again.
//!
//! | head | magic 8, format 4, kind 1, zeros 3, time in s 8, salt 32, check 16; little-endian |
//! | --- | --- |
//! | rest | a snapshot file (`snapshot`), encrypted with a key that follows from head and passphrase |
//!
//! The key is Argon2id (RFC 9106: 64 MiB, 3 passes) of the passphrase, with everything before the check as its salt; without a
//! passphrase, of an empty one. So each byte is authenticated: what was cut short or altered is told, and of a sealed file
//! nothing can be read without its passphrase. The check tells a wrong passphrase from damage.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use argon2::{Algorithm, Argon2, Params, Version};
use zeroize::Zeroizing;

use crate::disk::{self, at};
use crate::key::DataKey;
use crate::refound::Origin;
use crate::snapshot::{self, Loaded, Snapshots};
use crate::state_machine::State;
use crate::types::{SnapshotMeta, log_id, term};
use crate::{Store, Tables, Term, View};

const MAGIC: &[u8; 8] = b"SWBACKUP";
const FORMAT: u32 = 1;
const SALT_BYTES: usize = 32;
const KEY_BYTES: usize = 32;
const CHECK_BYTES: usize = 16;
const SALTED_BYTES: usize = 16 + 8 + SALT_BYTES;
const HEAD_BYTES: usize = SALTED_BYTES + CHECK_BYTES;

const OPEN: u8 = 0;
const SEALED: u8 = 1;

/// What is copied at a time.
const COPIED_BYTES: usize = 256 << 10;

/// KiB and passes of Argon2id.
const MEMORY_KIB: u32 = 64 << 10;
const PASSES: u32 = 3;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the file is no snapshot of a swarm")]
    Foreign,
    #[error("the snapshot has format {found}, known is {FORMAT}: it was written by a newer version")]
    Format { found: u32 },
    #[error("the snapshot is sealed: its passphrase is needed")]
    Sealed,
    #[error("the snapshot is not sealed: it has no passphrase")]
    Unsealed,
    #[error("the passphrase is not the one with which the snapshot was sealed")]
    Passphrase,
    #[error("the snapshot is damaged: it was cut short or altered")]
    Damaged,
    #[error("the snapshot holds no swarm")]
    Empty,
    #[error("snapshot")]
    Disk(#[from] disk::Error),
    #[error(transparent)]
    Content(snapshot::Error),
}

impl From<snapshot::Error> for Error {
    fn from(error: snapshot::Error) -> Self {
        match error {
            snapshot::Error::Damaged { .. } => Self::Damaged,
            snapshot::Error::Disk(error) => Self::Disk(error),
            other => Self::Content(other),
        }
    }
}

/// A backup that was read.
pub struct Backup {
    pub(crate) origin: Origin,
    /// Whether a passphrase was needed.
    pub sealed: bool,
    pub taken_at: SystemTime,
}

impl Backup {
    /// What it holds.
    pub fn view(&self) -> View {
        View::from(self.origin.state.tables.clone())
    }

    /// Writes a backup of what `store` has, sealed if the passphrase is not empty. `scratch` is a directory for this alone;
    /// it is made, and gone afterwards.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(store: &Store, passphrase: &str, scratch: &Path, out: &mut impl Write) -> Result<(), Error> {
        let (view, term, now) = (store.view(), store.term(), store.now());
        let head = head(passphrase, now);
        let derived = Derived::of(&head, passphrase);
        let scratch = Scratch::make(scratch)?;
        let snapshots = Snapshots::new(&scratch.0, derived.key())?;
        let state = State { tables: Tables::clone(&view), ..State::default() };
        let last_log_id = Some(log_id(term, view.index()));
        let meta = SnapshotMeta { last_log_id, ..SnapshotMeta::default() };
        snapshots.keep(&meta, snapshots.build(&meta, &state)?, 0)?;
        let path = scratch.file(&meta);
        let mut file = File::open(&path).map_err(at(&path))?;
        let mut copy = || {
            out.write_all(&head)?;
            out.write_all(derived.check())?;
            io::copy(&mut file, out)
        };
        copy().map_err(at(&path))?;
        Ok(())
    }

    /// Reads a backup. `passphrase` is empty if there is none.
    ///
    /// # Errors
    /// It is no backup, is damaged, or was sealed with another passphrase.
    pub fn read(from: &mut impl Read, passphrase: &str, scratch: &Path) -> Result<Self, Error> {
        let sealed = |head: &[u8]| head[12] == SEALED;
        let head = read_head(from)?;
        match (sealed(&head), passphrase) {
            (true, "") => return Err(Error::Sealed),
            (false, given) if !given.is_empty() => return Err(Error::Unsealed),
            _ => {}
        }
        let (salted, found) = head.split_at(SALTED_BYTES);
        let derived = Derived::of(salted, passphrase);
        if derived.check() != found {
            return Err(if sealed(&head) { Error::Passphrase } else { Error::Damaged });
        }
        let scratch = Scratch::make(scratch)?;
        let path = scratch.file(&SnapshotMeta::default());
        copy(from, &path).map_err(at(&path))?;
        let snapshots = Snapshots::new(&scratch.0, derived.key())?;
        let Loaded { meta, state, .. } = snapshots.load(0..0)?.ok_or(Error::Damaged)?;
        if state.tables.cluster().is_none() {
            return Err(Error::Empty);
        }
        let term = meta.last_log_id.map_or(Term(0), |last| term(&last));
        let seconds = u64::from_le_bytes(*head[16..].first_chunk().expect("the head is longer"));
        let taken_at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        Ok(Self { origin: Origin { state, term }, sealed: sealed(&head), taken_at })
    }
}

fn copy(from: &mut impl Read, path: &Path) -> io::Result<()> {
    let file = disk::create(path)?;
    let (mut chunk, mut offset) = (vec![0; COPIED_BYTES], 0);
    loop {
        let read = from.read(&mut chunk)?;
        if read == 0 {
            return Ok(());
        }
        file.write_all_at(&chunk[..read], offset)?;
        offset += read as u64;
    }
}

fn head(passphrase: &str, now: SystemTime) -> [u8; SALTED_BYTES] {
    let mut head = [0; SALTED_BYTES];
    head[..8].copy_from_slice(MAGIC);
    head[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    head[12] = if passphrase.is_empty() { OPEN } else { SEALED };
    let taken = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    head[16..24].copy_from_slice(&taken.as_secs().to_le_bytes());
    head[24..].copy_from_slice(&rand::random::<[u8; SALT_BYTES]>());
    head
}

fn read_head(from: &mut impl Read) -> Result<[u8; HEAD_BYTES], Error> {
    let mut head = [0; HEAD_BYTES];
    from.read_exact(&mut head).map_err(|_| Error::Foreign)?;
    if head[..8] != *MAGIC {
        return Err(Error::Foreign);
    }
    let found = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
    if found != FORMAT {
        return Err(Error::Format { found });
    }
    Ok(head)
}

/// Key and check.
struct Derived(Zeroizing<[u8; KEY_BYTES + CHECK_BYTES]>);

impl Derived {
    fn of(salted: &[u8], passphrase: &str) -> Self {
        let mut derived = Zeroizing::new([0; KEY_BYTES + CHECK_BYTES]);
        let params = Params::new(MEMORY_KIB, PASSES, 1, Some(derived.len()));
        let params = params.expect("these are within the bounds of RFC 9106");
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let hashed = argon.hash_password_into(passphrase.as_bytes(), salted, &mut derived[..]);
        hashed.expect("salt and output have lengths that RFC 9106 allows");
        Self(derived)
    }

    fn key(&self) -> DataKey {
        DataKey::of(self.0.first_chunk().expect("the key comes first"))
    }

    fn check(&self) -> &[u8] {
        &self.0[KEY_BYTES..]
    }
}

/// A directory that goes with what is in it.
struct Scratch(PathBuf);

impl Scratch {
    fn make(path: &Path) -> Result<Self, Error> {
        let scratch = Self(path.into());
        scratch.remove();
        disk::create_dir(path)?;
        Ok(scratch)
    }

    fn file(&self, meta: &SnapshotMeta) -> PathBuf {
        self.0.join(snapshot::file_name(meta))
    }

    fn remove(&self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::error!(path = %self.0.display(), %error, "what a snapshot was made of cannot be removed");
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Transaction;
    use crate::fixtures::cluster;

    async fn written(passphrase: &str) -> (tempfile::TempDir, Vec<u8>) {
        let store = Store::in_memory();
        let create = |tx: &mut Transaction| {
            tx.create(cluster());
            Ok::<_, std::convert::Infallible>(())
        };
        store.update(create).await.unwrap();
        let (dir, mut out) = (tempfile::tempdir().unwrap(), Vec::new());
        Backup::write(&store, passphrase, &dir.path().join("scratch"), &mut out).unwrap();
        (dir, out)
    }

    fn read(dir: &tempfile::TempDir, bytes: &[u8], passphrase: &str) -> Result<Backup, Error> {
        let read = Backup::read(&mut &bytes[..], passphrase, &dir.path().join("scratch"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "something is left");
        read
    }

    #[tokio::test]
    async fn what_was_written_is_read_with_the_passphrase_alone() {
        for passphrase in ["", "correct horse"] {
            let (dir, bytes) = written(passphrase).await;
            let backup = read(&dir, &bytes, passphrase).unwrap();
            assert_eq!((backup.origin.term, backup.sealed), (Term(1), !passphrase.is_empty()));
            assert_eq!(backup.view().cluster().unwrap().id, cluster().id);
            let name = cluster().spec.annotations.name;
            assert!(!bytes.windows(name.len()).any(|window| window == name.as_bytes()));
        }
        let (dir, bytes) = written("correct horse").await;
        assert!(matches!(read(&dir, &bytes, ""), Err(Error::Sealed)));
        assert!(matches!(read(&dir, &bytes, "wrong horse"), Err(Error::Passphrase)));
        let (dir, bytes) = written("").await;
        assert!(matches!(read(&dir, &bytes, "any"), Err(Error::Unsealed)));
    }

    #[tokio::test]
    async fn what_was_cut_short_or_altered_is_told() {
        let (dir, bytes) = written("").await;
        for length in [0, 7, HEAD_BYTES - 1] {
            assert!(matches!(read(&dir, &bytes[..length], ""), Err(Error::Foreign)), "{length}");
        }
        for length in [HEAD_BYTES, HEAD_BYTES + 20, bytes.len() / 2, bytes.len() - 1] {
            assert!(matches!(read(&dir, &bytes[..length], ""), Err(Error::Damaged)), "{length}");
        }
        let altered = |at: usize| {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            read(&dir, &altered, "")
        };
        assert!(matches!(altered(0), Err(Error::Foreign)));
        assert!(matches!(altered(8), Err(Error::Format { .. })));
        // Each derivation takes a while, so not every byte.
        for at in [13, 20, SALTED_BYTES, HEAD_BYTES, HEAD_BYTES + 30, bytes.len() / 2, bytes.len() - 1] {
            assert!(matches!(altered(at), Err(Error::Damaged)), "{at}");
        }
    }
}
