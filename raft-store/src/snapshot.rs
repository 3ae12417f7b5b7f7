//! Snapshot files: built from persistent tables while writes go on, installed at once or not at all.
//!
//! | head | magic 8, format 4 |
//! | --- | --- |
//! | frame | length of the body 4, CRC-32 of the body 4, body |
//!
//! The first frame holds the meta data, the others hold whole records, the last one is empty. Bodies are encrypted;
//! their place, and whether they are the last, is authenticated. To a follower go the same chunks in clear: it has a
//! key of its own.

mod file;
mod state;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use self::file::{FORMAT, Reader, SnapshotFile, Writer};
use crate::codec::Malformed;
use crate::disk;
use crate::key::DataKey;
use crate::state_machine::State;
use crate::types::SnapshotMeta;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("snapshot")]
    Disk(#[from] disk::Error),
    #[error(
        "snapshot {} is damaged in frame {frame}; remove this manager from the swarm and join it again",
        .path.display()
    )]
    Damaged { path: PathBuf, frame: u64 },
    #[error("snapshot {} has format {found}, known is {FORMAT}: it was written by a newer version", .path.display())]
    Format { path: PathBuf, found: u32 },
    #[error("snapshot {}: {reason}", .path.display())]
    Content { path: PathBuf, reason: String },
}

impl Error {
    fn content(path: &Path) -> impl Fn(Malformed) -> Self + '_ {
        move |reason| Self::Content { path: path.into(), reason: reason.to_string() }
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Disk(error) => Self::new(error.source.kind(), format!("{error}: {}", error.source)),
            other => Self::other(other.to_string()),
        }
    }
}

/// Where a member keeps its snapshot. There is at most one that counts.
#[derive(Clone, Debug)]
pub(crate) struct Snapshots {
    dir: Arc<Path>,
    key: DataKey,
}

impl Snapshots {
    /// `dir` exists. What an earlier run left unfinished is removed.
    pub(crate) fn new(dir: &Path, key: DataKey) -> Result<Self, disk::Error> {
        let unfinished = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "tmp");
        disk::list(dir)?.iter().filter(unfinished).try_for_each(|path| disk::remove(path))?;
        Ok(Self { dir: dir.into(), key })
    }

    /// The newest one.
    pub(crate) fn latest(&self) -> Result<Option<(SnapshotMeta, SnapshotFile)>, Error> {
        let Some(path) = self.list()?.pop() else { return Ok(None) };
        let file = SnapshotFile::open(&path)?;
        let meta = state::read_meta(&mut file.reader(&self.key)?)?;
        Ok(Some((meta, file)))
    }

    /// Durable once it returns, but not yet the one that counts.
    pub(crate) fn build(&self, meta: &SnapshotMeta, state: &State) -> Result<SnapshotFile, Error> {
        let mut writer = self.writer()?;
        state::write(&mut writer, meta, state)?;
        writer.finish()
    }

    pub(crate) fn restore(&self, file: &SnapshotFile) -> Result<(SnapshotMeta, State), Error> {
        state::read(&mut file.reader(&self.key)?)
    }

    /// A new file for chunks that come from elsewhere.
    pub(crate) fn writer(&self) -> Result<Writer, Error> {
        Writer::create(&self.dir, &self.key)
    }

    pub(crate) fn reader(&self, file: &SnapshotFile) -> Result<Reader, Error> {
        file.reader(&self.key)
    }

    /// Makes `file` the one that counts, and removes the others.
    pub(crate) fn keep(&self, meta: &SnapshotMeta, file: SnapshotFile) -> Result<SnapshotFile, Error> {
        let path = self.dir.join(file_name(meta));
        let file = file.rename(&path)?;
        for other in self.list()?.iter().filter(|other| **other != path) {
            disk::remove(other)?;
        }
        Ok(file)
    }

    /// In the order of their indexes.
    fn list(&self) -> Result<Vec<PathBuf>, disk::Error> {
        let is_one = |name: &str| name.starts_with("snapshot-") && !name.contains('.');
        let mut paths = disk::list(&self.dir)?;
        paths.retain(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(is_one));
        Ok(paths)
    }
}

pub(crate) fn file_name(meta: &SnapshotMeta) -> String {
    format!("snapshot-{:020}", meta.last_log_id.map_or(0, |last| last.index))
}
