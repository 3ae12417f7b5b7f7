//! Segment files: what is in them at start, and which of them go.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::entry::RaftEntry as _;
use prost::Message;

use super::index::{Index, Place};
use super::record::{self, HEAD_BYTES, Head, Kind, RECORD_HEAD_BYTES};
use super::{Error, record::Found};
use crate::codec;
use crate::disk::{self, File, at};
use crate::key::DataKey;
use crate::types::Entry;

/// An open file of consecutive entries.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) file: Arc<File>,
    pub(super) first: u64,
    /// Offset of each entry.
    pub(super) starts: Vec<u64>,
    pub(super) bytes: u64,
    /// Of the data key when it was begun: nothing in it has an older one.
    pub(super) epoch: u64,
}

impl Segment {
    /// Durable once it returns.
    pub(super) fn create(dir: &Path, first: u64, epoch: u64) -> Result<Self, disk::Error> {
        let path = dir.join(format!("log-{first:020}"));
        let make = || {
            let file = disk::create(&path)?;
            file.write_all_at(&record::segment_head(first), 0)?;
            disk::sync(&file, &path)?;
            Ok(file)
        };
        let file = Arc::new(make().map_err(at(&path))?);
        disk::sync_dir(dir)?;
        Ok(Self { path, file, first, starts: Vec::new(), bytes: HEAD_BYTES as u64, epoch })
    }

    /// Index of the entry that comes next.
    pub(super) fn next(&self) -> u64 {
        self.first + self.starts.len() as u64
    }

    pub(super) fn remove(self) -> Result<(), disk::Error> {
        disk::remove(&self.path)
    }

    /// Cuts off the entries from `index` on. Durable once it returns.
    pub(super) fn truncate_from(&mut self, index: u64) -> Result<(), disk::Error> {
        let keep = usize::try_from(index.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let Some(&bytes) = self.starts.get(keep) else { return Ok(()) };
        self.starts.truncate(keep);
        self.cut(bytes)
    }

    fn cut(&mut self, bytes: u64) -> Result<(), disk::Error> {
        let cut = self.file.set_len(bytes).and_then(|()| disk::sync(&self.file, &self.path));
        cut.map_err(at(&self.path))?;
        self.bytes = bytes;
        Ok(())
    }
}

/// Opens all segments and fills `index`, whose `purged` is known already.
pub(super) fn load(dir: &Path, key: &DataKey, index: &mut Index) -> Result<Vec<Segment>, Error> {
    let paths = list(dir)?;
    let mut segments = Vec::with_capacity(paths.len());
    for (position, path) in paths.iter().enumerate() {
        let last = position + 1 == paths.len();
        if let Some(segment) = load_one(path, key, last, index)? {
            segments.push(segment);
        }
    }
    if let Some(last) = segments.last() {
        // A process that was killed may have left entries here that are in the system's cache only. From now on they
        // count as written, so they must be.
        disk::sync(&last.file, &last.path).map_err(at(&last.path))?;
    }
    disk::sync_dir(dir)?;
    index.evict();
    Ok(segments)
}

/// In the order of their entries.
fn list(dir: &Path) -> Result<Vec<PathBuf>, disk::Error> {
    let is_one = |name: &str| name.starts_with("log-") && !name.contains('.');
    let mut paths = disk::list(dir)?;
    paths.retain(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(is_one));
    Ok(paths)
}

/// None if the file was being made when the power went.
fn load_one(path: &Path, key: &DataKey, last: bool, index: &mut Index) -> Result<Option<Segment>, Error> {
    let file = disk::open(path).map_err(at(path))?;
    let bytes = disk::read(path).map_err(at(path))?;
    let first = match record::read_segment_head(&bytes) {
        Head::First(first) => first,
        Head::Format(found) => return Err(Error::Format { path: path.into(), found }),
        Head::Damaged if last && bytes.len() <= HEAD_BYTES => {
            disk::remove(path)?;
            return Ok(None);
        }
        Head::Damaged => return Err(Error::Damaged { path: path.into(), offset: 0 }),
    };
    let mut segment = Segment {
        path: path.into(),
        file: Arc::new(file),
        first,
        starts: Vec::new(),
        bytes: HEAD_BYTES as u64,
        epoch: 0,
    };
    while let Some(found) = record::read(&bytes[offset(&segment)..]) {
        take_in(&mut segment, &found, key, index)?;
    }
    let end = offset(&segment);
    if end < bytes.len() {
        if !last || record::known_durable(&bytes, end) {
            return Err(Error::Damaged { path: path.into(), offset: segment.bytes });
        }
        tracing::warn!(path = %path.display(), offset = end, "cut off a torn end: it was never acknowledged");
        segment.cut(segment.bytes)?;
    }
    Ok(Some(segment))
}

fn offset(segment: &Segment) -> usize {
    usize::try_from(segment.bytes).expect("segments fit in memory")
}

fn take_in(segment: &mut Segment, found: &Found<'_>, key: &DataKey, index: &mut Index) -> Result<(), Error> {
    let damaged = |segment: &Segment| Error::Damaged { path: segment.path.clone(), offset: segment.bytes };
    let plaintext = record::decrypt(key, found)
        .ok_or_else(|| Error::Key { path: segment.path.clone(), offset: segment.bytes })?;
    let bytes = RECORD_HEAD_BYTES + found.body.len();
    match found.kind {
        Kind::Committed => {
            let id = proto::store::LogId::decode(&plaintext[..]).map_err(|_| damaged(segment))?;
            index.committed = index.committed.max(Some(codec::raft::get_log_id(id)));
        }
        Kind::Entry => {
            let entry = decode(&plaintext).filter(|entry| entry.index() == found.index);
            let entry =
                entry.filter(|entry| entry.index() == segment.next()).ok_or_else(|| damaged(segment))?;
            let expected = index.last().map_or(0, |last| last.index + 1);
            if entry.index() > expected {
                return Err(Error::Gap { path: segment.path.clone(), expected, found: entry.index() });
            }
            if entry.index() == expected {
                let place = Place { file: segment.file.clone(), offset: segment.bytes, bytes };
                index.push(&entry, Some(place));
            }
            segment.starts.push(segment.bytes);
        }
    }
    segment.bytes += bytes as u64;
    Ok(())
}

/// Reads an entry back.
pub(super) fn read_at(place: &Place, key: &DataKey) -> Option<Entry> {
    let mut bytes = vec![0; place.bytes];
    place.file.read_exact_at(&mut bytes, place.offset).ok()?;
    let plaintext = record::decrypt(key, &record::read(&bytes)?)?;
    decode(&plaintext)
}

fn decode(plaintext: &[u8]) -> Option<Entry> {
    codec::raft::get_entry(proto::store::Entry::decode(plaintext).ok()?).ok()
}
