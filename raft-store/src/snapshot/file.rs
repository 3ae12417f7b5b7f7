//! Frames on disk.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Error;
use crate::disk::{self, File, at};
use crate::host::random;
use crate::key::{DataKey, NONCE_BYTES, Ring};

pub(crate) const FORMAT: u32 = 1;
const MAGIC: &[u8; 8] = b"SWSNAP\0\0";
const HEAD_BYTES: u64 = 12;
const FRAME_HEAD_BYTES: usize = 8;

/// What is gathered before it is written.
const WRITE_BYTES: usize = 1 << 20;

/// A finished snapshot. One that is not kept is removed when it is dropped.
#[derive(Debug)]
pub struct SnapshotFile {
    path: PathBuf,
    file: Arc<File>,
    temporary: bool,
}

impl SnapshotFile {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let file = disk::open(path).map_err(at(path))?;
        Ok(Self { path: path.into(), file: Arc::new(file), temporary: false })
    }

    pub(super) fn rename(mut self, to: &Path) -> Result<Self, Error> {
        disk::rename(&self.path, to)?;
        self.temporary = false;
        Ok(Self { path: to.into(), file: self.file.clone(), temporary: false })
    }

    /// Of this file and no other, also when somebody else has written it: the nonce of its first frame.
    pub(crate) fn id(&self) -> Result<[u8; NONCE_BYTES], Error> {
        let mut id = [0; NONCE_BYTES];
        self.file.read_exact_at(&mut id, HEAD_BYTES + FRAME_HEAD_BYTES as u64).map_err(at(&self.path))?;
        Ok(id)
    }

    pub(super) fn reader(&self, key: &DataKey) -> Result<Reader, Error> {
        let mut head = [0; HEAD_BYTES as usize];
        let read = self.file.read_exact_at(&mut head, 0);
        if read.is_err() || head[..8] != *MAGIC {
            return Err(Error::Damaged { path: self.path.clone(), frame: 0 });
        }
        let found = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
        if found != FORMAT {
            return Err(Error::Format { path: self.path.clone(), found });
        }
        let (path, file, key) = (self.path.clone(), self.file.clone(), key.pinned());
        Ok(Reader { path, file, key, frame: 0, offset: HEAD_BYTES })
    }
}

impl Drop for SnapshotFile {
    fn drop(&mut self) {
        if self.temporary {
            // If it stays, the next start removes it.
            let _ = disk::remove(&self.path);
        }
    }
}

/// Authenticates a frame's place.
fn purpose(frame: u64, last: bool) -> [u8; 16] {
    let mut purpose = *b"snapshot________";
    purpose[7] = u8::from(last);
    purpose[8..].copy_from_slice(&frame.to_le_bytes());
    purpose
}

pub(crate) struct Writer {
    /// Removed again unless the file is finished.
    target: SnapshotFile,
    /// Not yet written.
    pending: Vec<u8>,
    /// Where that goes.
    offset: u64,
    key: Arc<Ring>,
    frame: u64,
}

impl Writer {
    pub(super) fn create(dir: &Path, key: &DataKey) -> Result<Self, Error> {
        let path = dir.join(format!("snapshot-{:016x}.tmp", random::<u64>()));
        let file = Arc::new(disk::create(&path).map_err(at(&path))?);
        let target = SnapshotFile { path, file, temporary: true };
        let pending = [&MAGIC[..], &FORMAT.to_le_bytes()].concat();
        Ok(Self { target, pending, offset: 0, key: key.pinned(), frame: 0 })
    }

    /// Of the data key that it writes with.
    pub(crate) fn epoch(&self) -> u64 {
        self.key.epoch()
    }

    pub(crate) fn push(&mut self, chunk: &[u8]) -> Result<(), Error> {
        self.put(chunk, false)
    }

    /// Durable once it returns.
    pub(crate) fn finish(mut self) -> Result<SnapshotFile, Error> {
        self.put(&[], true)?;
        self.write()?;
        disk::sync(&self.target.file, &self.target.path).map_err(at(&self.target.path))?;
        Ok(self.target)
    }

    fn put(&mut self, chunk: &[u8], last: bool) -> Result<(), Error> {
        let body = self.key.seal(&purpose(self.frame, last), chunk);
        let length = u32::try_from(body.len()).expect("chunks are bounded far below 4 GiB");
        let checksum = crc32fast::hash(&body);
        self.frame += 1;
        self.pending.extend_from_slice(&length.to_le_bytes());
        self.pending.extend_from_slice(&checksum.to_le_bytes());
        self.pending.extend_from_slice(&body);
        if self.pending.len() < WRITE_BYTES { Ok(()) } else { self.write() }
    }

    fn write(&mut self) -> Result<(), Error> {
        let written: io::Result<()> = self.target.file.write_all_at(&self.pending, self.offset);
        written.map_err(at(&self.target.path))?;
        self.offset += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }
}

pub(crate) struct Reader {
    path: PathBuf,
    file: Arc<File>,
    key: Arc<Ring>,
    frame: u64,
    offset: u64,
}

impl Reader {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// None after the last one.
    pub(crate) fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let damaged = || Error::Damaged { path: self.path.clone(), frame: self.frame };
        let body = self.body().ok_or_else(damaged)?;
        self.offset += (FRAME_HEAD_BYTES + body.len()) as u64;
        let chunk = self.key.open(&purpose(self.frame, false), &body);
        if chunk.is_none() && self.key.open(&purpose(self.frame, true), &body).is_none() {
            return Err(damaged());
        }
        self.frame += 1;
        Ok(chunk)
    }

    fn body(&self) -> Option<Vec<u8>> {
        let mut head = [0; FRAME_HEAD_BYTES];
        self.file.read_exact_at(&mut head, self.offset).ok()?;
        let [length, checksum] =
            [0, 4].map(|i| u32::from_le_bytes([head[i], head[i + 1], head[i + 2], head[i + 3]]));
        let end = self.offset + FRAME_HEAD_BYTES as u64 + u64::from(length);
        if end > self.file.len().ok()? {
            return None;
        }
        let mut body = vec![0; length as usize];
        self.file.read_exact_at(&mut body, self.offset + FRAME_HEAD_BYTES as u64).ok()?;
        (crc32fast::hash(&body) == checksum).then_some(body)
    }
}
