//! Snapshot files: built from persistent tables while writes go on, installed at once or not at all.
//!
//! | head | magic 8, format 4 |
//! | --- | --- |
//! | frame | length of the body 4, CRC-32 of the body 4, body |
//!
//! The first frame holds the meta data, the others hold whole records, the last one is empty. Bodies are encrypted;
//! their place, and whether they are the last, is authenticated. To a follower go the same chunks in clear, inside the
//! managers' TLS: it has a key of its own.

mod file;
mod state;
#[cfg(test)]
mod tests;

use std::ops::Range;
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

/// Where a member keeps its snapshots. The newest one counts; older ones are for the case that it is damaged.
#[derive(Clone, Debug)]
pub(crate) struct Snapshots {
    dir: Arc<Path>,
    key: DataKey,
}

/// A snapshot that was read.
pub(crate) struct Loaded {
    pub(crate) meta: SnapshotMeta,
    pub(crate) state: State,
    pub(crate) file: SnapshotFile,
}

impl Snapshots {
    /// `dir` exists. What an earlier run left unfinished is removed.
    pub(crate) fn new(dir: &Path, key: DataKey) -> Result<Self, disk::Error> {
        let unfinished = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "tmp");
        disk::list(dir)?.iter().filter(unfinished).try_for_each(|path| disk::remove(path))?;
        Ok(Self { dir: dir.into(), key })
    }

    /// What a start begins from: the newest one. If that is damaged, the newest sound one with which `log`, the entries
    /// that there are, makes the same state again; the damaged ones are put aside then.
    pub(crate) fn load(&self, log: Range<u64>) -> Result<Option<Loaded>, Error> {
        let mut paths = self.list()?;
        let Some(newest) = paths.pop() else { return Ok(None) };
        let refusal = match self.read(&newest) {
            Err(damaged @ Error::Damaged { .. }) => damaged,
            read => return read.map(Some),
        };
        // What a snapshot of a leader's held, and was acknowledged with it, is nowhere else.
        let covers = index_of(&newest).is_some_and(|index| log.contains(&index));
        paths.retain(|path| covers && index_of(path).is_some_and(|index| index + 1 >= log.start));
        let mut damaged = vec![newest];
        while let Some(path) = paths.pop() {
            match self.read(&path) {
                Err(Error::Damaged { .. }) => damaged.push(path),
                Err(error) => return Err(error),
                Ok(loaded) => {
                    damaged.iter().try_for_each(|damaged| put_aside(damaged, &path))?;
                    return Ok(Some(loaded));
                }
            }
        }
        Err(refusal)
    }

    fn read(&self, path: &Path) -> Result<Loaded, Error> {
        let file = SnapshotFile::open(path)?;
        let (meta, state) = self.restore(&file)?;
        Ok(Loaded { meta, state, file })
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

    /// Makes `file` the one that counts, and keeps so many older ones beside it.
    pub(crate) fn keep(
        &self,
        meta: &SnapshotMeta,
        file: SnapshotFile,
        older: u64,
    ) -> Result<SnapshotFile, Error> {
        let file = file.rename(&self.dir.join(file_name(meta)))?;
        self.trim(older)?;
        let damaged = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == DAMAGED);
        disk::list(&self.dir)?.iter().filter(damaged).try_for_each(|path| disk::remove(path))?;
        Ok(file)
    }

    /// Removes all but the newest and so many older ones.
    pub(crate) fn trim(&self, older: u64) -> Result<(), Error> {
        let older = usize::try_from(older).unwrap_or(usize::MAX);
        let paths = self.list()?;
        let surplus = paths.len().saturating_sub(older.saturating_add(1));
        paths[..surplus].iter().try_for_each(|path| disk::remove(path))?;
        Ok(())
    }

    /// Up to which entry the oldest one reaches.
    pub(crate) fn oldest(&self) -> Result<Option<u64>, Error> {
        Ok(self.list()?.first().and_then(|path| index_of(path)))
    }

    /// In the order of their indexes.
    fn list(&self) -> Result<Vec<PathBuf>, disk::Error> {
        let mut paths = disk::list(&self.dir)?;
        paths.retain(|path| index_of(path).is_some());
        Ok(paths)
    }
}

/// Of a snapshot that is damaged and not started from, until there is a newer one.
const DAMAGED: &str = "damaged";

fn put_aside(damaged: &Path, instead: &Path) -> Result<(), disk::Error> {
    tracing::error!(
        damaged = %damaged.display(),
        instead = %instead.display(),
        "a snapshot is damaged: goes on from an older one and the log"
    );
    disk::rename(damaged, &damaged.with_extension(DAMAGED))
}

/// None if it is none that counts.
fn index_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("snapshot-")?.parse().ok()
}

pub(crate) fn file_name(meta: &SnapshotMeta) -> String {
    format!("snapshot-{:020}", meta.last_log_id.map_or(0, |last| last.index))
}
