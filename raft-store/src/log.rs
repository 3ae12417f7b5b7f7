//! The durable log: entries in segment files, vote and purge point in a small file beside them.
//!
//! This module decides what is readable when; `writer` what is on disk when; `record` how it looks there and what a
//! sound file is; `index` where an entry is found.
//!
//! Invariant: what Raft was told is durable is there again after any crash, or opening the log fails by naming the
//! file and the offset.

mod index;
mod record;
mod segment;
mod serving;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::OptionalSend;
use openraft::entry::RaftEntry as _;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tokio::sync::oneshot;

use self::index::{Index, Located};
use self::serving::Serving;
use self::writer::{Request, Writer};
use crate::codec::raft::{get_log_id, get_vote, put_log_id, put_vote};
use crate::giving_way::Alarm;
use crate::hard_state::{self, HardState};
use crate::host::blocking;
use crate::key::DataKey;
use crate::types::{Entry, Group, LogId, Vote};
use crate::{RaftId, disk};

/// Entries that a follower gets in one message.
const MESSAGE_BYTES: usize = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("log")]
    Disk(#[from] disk::Error),
    #[error("log")]
    State(#[from] hard_state::Error),
    #[error(
        "{} is damaged at offset {offset}: entries that were acknowledged are lost; \
         remove this manager from the swarm and join it again",
        .path.display()
    )]
    Damaged { path: PathBuf, offset: u64 },
    #[error("{} was written with another data key, at offset {offset}", .path.display())]
    Key { path: PathBuf, offset: u64 },
    #[error("{} has format {found}, known is {}: it was written by a newer version", .path.display(), record::FORMAT)]
    Format { path: PathBuf, found: u32 },
    #[error("{} begins with entry {found}, expected is {expected}: a file is missing", .path.display())]
    Gap { path: PathBuf, expected: u64, found: u64 },
}

/// Cheap to clone; all clones are the same log.
#[derive(Clone)]
pub(crate) struct Log(Arc<Shared>);

struct Shared {
    raft_id: RaftId,
    key: DataKey,
    index: Arc<Mutex<Index>>,
    oldest_epoch: Arc<AtomicU64>,
    alarm: Alarm,
    serving: Serving,
}

/// How much lies together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// A segment that is longer is followed by another one.
    pub(crate) segment_bytes: u64,
    /// Entries on disk that are kept in memory too, so that followers and the state machine need not read.
    pub(crate) cached_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { segment_bytes: 16 << 20, cached_bytes: 16 << 20 }
    }
}

impl Log {
    /// Opens the log in `dir`, which exists. A log that is new belongs to `new_id`.
    pub(crate) fn open(dir: &Path, key: DataKey, new_id: RaftId, limits: Limits) -> Result<Self, Error> {
        let state_path = dir.join("raft-state");
        let state = match hard_state::load(&state_path)? {
            Some(state) => state,
            None => {
                let state = HardState { raft_id: new_id, vote: None, purged: None };
                hard_state::save(&state_path, &state)?;
                state
            }
        };
        let mut index = Index::new(limits.cached_bytes);
        index.purged = state.purged.map(get_log_id);
        index.vote = get_vote(state.vote).ok();
        let segments = segment::load(dir, &key, &mut index)?;
        index.committed = index.committed.min(index.last());

        let alarm = Alarm::default();
        let index = Arc::new(Mutex::new(index));
        let oldest_epoch = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            dir: dir.into(),
            state_path,
            key: key.clone(),
            index: index.clone(),
            segments,
            segment_bytes: limits.segment_bytes,
            committed: None,
            failed: None,
            alarm: alarm.clone(),
            held: Vec::new(),
            given_up: false,
            oldest_epoch: Arc::clone(&oldest_epoch),
        };
        let serving = Serving::start(writer, dir)?;
        Ok(Self(Arc::new(Shared { raft_id: state.raft_id, key, index, oldest_epoch, alarm, serving })))
    }

    /// Raised when the log cannot be written any more.
    pub(crate) fn alarm(&self) -> Alarm {
        self.0.alarm.clone()
    }

    /// Raft may be told now that the log cannot be written any more.
    pub(crate) fn give_up(&self) {
        // An error means that the thread has ended.
        let _ = self.send(Request::GiveUp);
    }

    /// The oldest epoch of the data key that the log may need, as of the last purge or `pass`.
    pub(crate) fn oldest_epoch(&self) -> u64 {
        self.0.oldest_epoch.load(Ordering::Acquire)
    }

    /// Returns when everything that was asked before is done.
    pub(crate) async fn pass(&self) -> io::Result<()> {
        self.request(|done| Request::Pass { done }).await
    }

    /// The entries that there are.
    pub(crate) fn range(&self) -> std::ops::Range<u64> {
        let index = self.index();
        let next = |id: Option<LogId>| id.map_or(0, |id| id.index + 1);
        next(index.purged)..next(index.last())
    }

    /// What was taken in after the entry with this serial number.
    #[cfg(test)]
    pub(crate) fn newer_than(&self, serial: u64) -> Vec<index::Taken> {
        self.index().newer_than(serial)
    }

    pub(crate) fn raft_id(&self) -> RaftId {
        self.0.raft_id
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.0.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the entry after `previous` has been purged.
    pub(crate) fn lacks_after(&self, previous: Option<&LogId>) -> bool {
        self.index().purged.as_ref() > previous
    }

    fn hard_state(&self, vote: Option<&Vote>, purged: Option<&LogId>) -> HardState {
        HardState { raft_id: self.0.raft_id, vote: vote.map(put_vote), purged: purged.map(put_log_id) }
    }

    fn send(&self, request: Request) -> io::Result<()> {
        self.0.serving.send(request)
    }

    async fn request(
        &self,
        request: impl FnOnce(oneshot::Sender<io::Result<()>>) -> Request,
    ) -> io::Result<()> {
        let (done, result) = oneshot::channel();
        self.send(request(done))?;
        result.await.map_err(|_| io::Error::other("the thread that writes the log has ended"))?
    }

    async fn read(&self, range: impl RangeBounds<u64>, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let located = self.index().read(range, max_bytes);
        if located.iter().all(|located| matches!(located, Located::Here(_))) {
            return fetch(located, &self.0.key);
        }
        let key = self.0.key.clone();
        blocking(move || fetch(located, &key)).await?
    }
}

fn fetch(located: Vec<Located>, key: &DataKey) -> io::Result<Vec<Entry>> {
    let fetch = |located| match located {
        Located::Here(entry) => Ok(entry),
        Located::OnDisk(id, place) => {
            let entry = segment::read_at(&place, key).filter(|entry| entry.log_id == id);
            entry.ok_or_else(|| {
                io::Error::other(format!("log entry {id} at offset {} is damaged", place.offset))
            })
        }
    };
    located.into_iter().map(fetch).collect()
}

impl RaftLogReader<Group> for Log {
    async fn try_get_log_entries<R>(&mut self, range: R) -> io::Result<Vec<Entry>>
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.read(range, usize::MAX).await
    }

    /// What a stream to a follower is about to send may be purged while it waits for its connection: then nothing,
    /// rather than what comes after the gap. `transport::client` ends the stream, and its follower gets a snapshot.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let entries = self.read(start..end, MESSAGE_BYTES).await?;
        let complete = entries.first().is_some_and(|first| first.index() == start);
        Ok(if complete { entries } else { Vec::new() })
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.index().vote)
    }
}

impl RaftLogStorage<Group> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Group>> {
        let index = self.index();
        Ok(LogState { last_purged_log_id: index.purged, last_log_id: index.last() })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let state = self.hard_state(Some(vote), self.index().purged.as_ref());
        self.request(|done| Request::State { state, done }).await?;
        self.index().vote = Some(*vote);
        Ok(())
    }

    /// On disk a moment later: after a crash the state machine may be behind until there is a leader.
    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let Some(committed) = committed else { return Ok(()) };
        self.index().committed = Some(committed);
        self.send(Request::Commit(committed))
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.index().committed)
    }

    async fn append<I>(&mut self, entries: I, done: IOFlushed<Group>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = {
            let mut index = self.index();
            entries.into_iter().map(|entry| (index.push(&entry, None), entry)).collect()
        };
        self.send(Request::Append { entries, done })
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let after = last.map(|last| last.index);
        self.index().truncate_after(after);
        self.request(|done| Request::Truncate { after, done }).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let state = self.hard_state(self.index().vote.as_ref(), Some(&upto));
        self.request(|done| Request::Purge { upto: upto.index, state, done }).await?;
        self.index().purge(upto);
        Ok(())
    }
}
