//! The thread that writes the log.
//!
//! Requests are done in the order in which they came. All entries that wait when the thread turns to them are
//! written together and made durable by one fdatasync, so that many writers share its cost and the Raft core never
//! waits for a disk.
//!
//! Invariant: nothing is answered before it is durable, and after an error nothing more is written: what a failed
//! fsync has left on disk is unknown until the log is opened again. That entries could not be written is told only when
//! `giving_way` has done its part.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::entry::RaftEntry as _;
use openraft::storage::IOFlushed;
use prost::Message;
use tokio::sync::oneshot;

use super::index::{Index, Place};
use super::record::{self, Kind};
use super::segment::Segment;
use crate::codec;
use crate::disk::{self, at};
use crate::giving_way::Alarm;
use crate::hard_state::{self, HardState};
use crate::key::DataKey;
use crate::types::{Entry, Group, LogId};

/// Requests that are looked at together.
const BATCH: usize = 1024;

/// How long the commit index may be on its way to disk when nothing else is written.
const IDLE: Duration = Duration::from_millis(50);

pub(super) enum Request {
    /// Entries with their serial numbers.
    Append { entries: Vec<(u64, Entry)>, done: IOFlushed<Group> },
    /// Everything up to here is committed. May be lost.
    Commit(LogId),
    /// Replaces the hard state.
    State { state: HardState, done: oneshot::Sender<io::Result<()>> },
    /// Drops all entries after this index.
    Truncate { after: Option<u64>, done: oneshot::Sender<io::Result<()>> },
    /// Drops all segments that hold nothing after this index; the hard state says so first.
    Purge { upto: u64, state: HardState, done: oneshot::Sender<io::Result<()>> },
    /// After an error: the entries that could not be written are waited for no more.
    GiveUp,
    /// Nothing: what was asked before is done when this is.
    Pass { done: oneshot::Sender<io::Result<()>> },
}

pub(super) struct Writer {
    pub(super) dir: PathBuf,
    pub(super) state_path: PathBuf,
    pub(super) key: DataKey,
    pub(super) index: Arc<Mutex<Index>>,
    pub(super) segments: Vec<Segment>,
    pub(super) segment_bytes: u64,
    pub(super) committed: Option<LogId>,
    pub(super) failed: Option<String>,
    pub(super) alarm: Alarm,
    /// Of entries that could not be written, until it is given up.
    pub(super) held: Vec<IOFlushed<Group>>,
    pub(super) given_up: bool,
    /// Of all segments; the largest number if there are none.
    pub(super) oldest_epoch: Arc<AtomicU64>,
}

/// Entries that are written by one fdatasync.
#[derive(Default)]
struct Batch {
    entries: Vec<(u64, Entry)>,
    done: Vec<IOFlushed<Group>>,
}

impl Writer {
    /// Until all senders are gone.
    pub(super) fn run(mut self, requests: &Receiver<Request>) {
        loop {
            let first = match requests.recv_timeout(IDLE) {
                Ok(request) => request,
                Err(RecvTimeoutError::Timeout) => {
                    self.flush(Batch::default());
                    // Nothing is pending: sleep until there is work.
                    match requests.recv() {
                        Ok(request) => request,
                        Err(_) => return,
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return self.flush(Batch::default()),
            };
            let more = std::iter::from_fn(|| requests.try_recv().ok());
            self.serve(std::iter::once(first).chain(more).take(BATCH).collect());
        }
    }

    /// The same as a task of a simulated machine. Only what waits here differs.
    #[cfg(test)]
    pub(super) async fn run_simulated(
        mut self,
        requests: Receiver<Request>,
        task: crate::simulation::LogTask,
    ) {
        use std::sync::mpsc::TryRecvError;
        loop {
            let first = match requests.try_recv() {
                Ok(request) => request,
                Err(TryRecvError::Disconnected) => return self.flush(Batch::default()),
                Err(TryRecvError::Empty) => {
                    let idle = self.committed.map(|_| IDLE);
                    if !task.woken(idle).await {
                        self.flush(Batch::default());
                    }
                    continue;
                }
            };
            task.disk_turns().await;
            let more = std::iter::from_fn(|| requests.try_recv().ok());
            self.serve(std::iter::once(first).chain(more).take(BATCH).collect());
        }
    }

    fn serve(&mut self, requests: Vec<Request>) {
        let mut batch = Batch::default();
        for request in requests {
            match request {
                Request::Append { entries, done } => {
                    batch.entries.extend(entries);
                    batch.done.push(done);
                }
                Request::Commit(id) => self.committed = Some(id),
                Request::GiveUp => self.give_up(),
                barrier => {
                    self.flush(std::mem::take(&mut batch));
                    self.barrier(barrier);
                }
            }
        }
        if !batch.done.is_empty() {
            self.flush(batch);
        }
    }

    fn barrier(&mut self, request: Request) {
        let (result, done) = match request {
            Request::State { state, done } => (self.attempt(|w| w.save(&state)), done),
            Request::Truncate { after, done } => (self.attempt(|w| w.truncate(after)), done),
            Request::Purge { upto, state, done } => (self.attempt(|w| w.purge(upto, &state)), done),
            Request::Pass { done } => (Ok(()), done),
            Request::Append { .. } | Request::Commit(_) | Request::GiveUp => {
                unreachable!("these are no barriers")
            }
        };
        let oldest = self.segments.iter().map(|segment| segment.epoch).min();
        self.oldest_epoch.store(oldest.unwrap_or(u64::MAX), Ordering::Release);
        // The asker may be gone: the store is being dropped.
        let _ = done.send(result);
    }

    fn attempt<T: Default>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, disk::Error>,
    ) -> io::Result<T> {
        if let Some(failed) = &self.failed {
            return Err(io::Error::other(failed.clone()));
        }
        work(self).map_err(|error| {
            let text = format!("cannot write the log: {error}: {}", error.source);
            tracing::error!("{text}");
            self.failed = Some(text.clone());
            self.alarm.raise();
            io::Error::new(error.source.kind(), text)
        })
    }

    /// Writes the batch and the commit index, if there are any.
    fn flush(&mut self, batch: Batch) {
        if batch.entries.is_empty() && self.committed.is_none() {
            return;
        }
        let placed = self.attempt(|writer| writer.write(&batch.entries));
        let result = match placed {
            Ok(places) => {
                let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
                for ((serial, entry), place) in batch.entries.iter().zip(places) {
                    index.placed(entry.index(), *serial, place);
                }
                index.evict();
                Ok(())
            }
            Err(_) if !self.given_up => return self.held.extend(batch.done),
            Err(error) => Err((error.kind(), error.to_string())),
        };
        for done in batch.done {
            done.io_completed(result.clone().map_err(|(kind, text)| io::Error::new(kind, text)));
        }
    }

    fn give_up(&mut self) {
        let Some(failed) = &self.failed else { return };
        self.given_up = true;
        for done in self.held.drain(..) {
            done.io_completed(Err(io::Error::other(failed.clone())));
        }
    }

    /// Durable once it returns.
    fn write(&mut self, entries: &[(u64, Entry)]) -> Result<Vec<Place>, disk::Error> {
        let mut places = Vec::with_capacity(entries.len());
        let mut rest = entries;
        while let Some((_, first)) = rest.first() {
            self.make_room(first.index())?;
            let segment_bytes = self.segment_bytes;
            let segment = self.segments.last_mut().expect("there is room");
            let room = segment_bytes.saturating_sub(segment.bytes);
            let mut bytes = Vec::new();
            let mut starts = Vec::new();
            // At least one entry, so that one longer than a segment is written too.
            while let Some(((_, entry), more)) = rest.split_first() {
                let consecutive = entry.index() == segment.next() + starts.len() as u64;
                if !starts.is_empty() && (bytes.len() as u64 >= room || !consecutive) {
                    break;
                }
                let start = bytes.len();
                let plaintext = codec::raft::put_entry(entry).encode_to_vec();
                record::write(&mut bytes, &self.key, Kind::Entry, entry.index(), segment.bytes, &plaintext);
                let offset = segment.bytes + start as u64;
                places.push(Place { file: segment.file.clone(), offset, bytes: bytes.len() - start });
                starts.push(offset);
                rest = more;
            }
            if rest.is_empty() {
                put_committed(&mut bytes, &self.key, segment.bytes, self.committed.take());
            }
            append(segment, &bytes, starts)?;
        }
        if let (Some(segment), Some(id)) = (self.segments.last_mut(), self.committed.take()) {
            let mut bytes = Vec::new();
            put_committed(&mut bytes, &self.key, segment.bytes, Some(id));
            append(segment, &bytes, Vec::new())?;
        }
        Ok(places)
    }

    /// A segment in which `index` is the next entry and that is not full yet.
    fn make_room(&mut self, index: u64) -> Result<(), disk::Error> {
        let epoch = self.key.epoch();
        let fits = |segment: &Segment| {
            segment.next() == index && segment.bytes < self.segment_bytes && segment.epoch == epoch
        };
        if self.segments.last().is_some_and(fits) {
            return Ok(());
        }
        // An empty one would have the same name, or a misleading one.
        if let Some(empty) = self.segments.pop_if(|segment| segment.starts.is_empty()) {
            empty.remove()?;
        }
        self.segments.push(Segment::create(&self.dir, index, epoch)?);
        Ok(())
    }

    fn save(&mut self, state: &HardState) -> Result<(), disk::Error> {
        hard_state::save(&self.state_path, state)
    }

    fn truncate(&mut self, after: Option<u64>) -> Result<(), disk::Error> {
        let next = after.map_or(0, |after| after + 1);
        // From the end, so that a crash in between leaves no gap.
        while let Some(segment) = self.segments.pop_if(|segment| segment.first >= next) {
            segment.remove()?;
            disk::sync_dir(&self.dir)?;
        }
        // What said how far the log is committed may be cut off too.
        self.committed = self.index.lock().unwrap_or_else(PoisonError::into_inner).committed;
        self.segments.last_mut().map_or(Ok(()), |segment| segment.truncate_from(next))
    }

    fn purge(&mut self, upto: u64, state: &HardState) -> Result<(), disk::Error> {
        self.save(state)?;
        let whole = self.segments.iter().take_while(|segment| segment.next() <= upto + 1).count();
        for segment in self.segments.drain(..whole) {
            segment.remove()?;
        }
        disk::sync_dir(&self.dir)
    }
}

fn put_committed(out: &mut Vec<u8>, key: &DataKey, durable: u64, committed: Option<LogId>) {
    if let Some(id) = committed {
        let plaintext = codec::raft::put_log_id(&id).encode_to_vec();
        record::write(out, key, Kind::Committed, id.index, durable, &plaintext);
    }
}

fn append(segment: &mut Segment, bytes: &[u8], starts: Vec<u64>) -> Result<(), disk::Error> {
    let write = || {
        segment.file.write_all_at(bytes, segment.bytes)?;
        disk::sync(&segment.file, &segment.path)
    };
    write().map_err(at(&segment.path))?;
    segment.bytes += bytes.len() as u64;
    segment.starts.extend(starts);
    Ok(())
}
