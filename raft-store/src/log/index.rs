//! What is in the log, in memory: where each entry lies, and the newest entries themselves.
//!
//! Entries that are not on disk yet are always here, so that they can be read at once. Those that are may be dropped
//! from the front when they take too much.

use std::collections::VecDeque;
use std::fs::File;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use openraft::entry::RaftEntry as _;

use crate::types::{Entry, LogId, Payload, Vote};

/// Entries on disk that are kept in memory too, so that followers and the state machine need not read.
const CACHED_BYTES: usize = 16 << 20;

/// Where a record lies.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) file: Arc<File>,
    pub(super) offset: u64,
    pub(super) bytes: usize,
}

/// An entry in memory or on disk.
#[derive(Debug)]
pub(super) enum Located {
    Here(Entry),
    OnDisk(LogId, Place),
}

struct Slot {
    id: LogId,
    /// Tells the entry from another one that had the same index before a truncation.
    serial: u64,
    place: Option<Place>,
    cached: Option<Entry>,
}

#[derive(Default)]
pub(super) struct Index {
    /// Consecutive.
    slots: VecDeque<Slot>,
    pub(super) purged: Option<LogId>,
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    cached_bytes: usize,
    /// Slots before this position are not cached.
    evicted: usize,
    serial: u64,
}

impl Index {
    pub(super) fn last(&self) -> Option<LogId> {
        self.slots.back().map(|slot| slot.id).or(self.purged)
    }

    /// Takes an entry in and returns its serial number.
    pub(super) fn push(&mut self, entry: &Entry, place: Option<Place>) -> u64 {
        self.serial += 1;
        self.cached_bytes += size(entry);
        let slot = Slot { id: entry.log_id(), serial: self.serial, place, cached: Some(entry.clone()) };
        self.slots.push_back(slot);
        self.serial
    }

    /// The entry is on disk now, unless it was truncated meanwhile.
    pub(super) fn placed(&mut self, index: u64, serial: u64, place: Place) {
        let position = self.position(index);
        if let Some(slot) = position.and_then(|position| self.slots.get_mut(position))
            && slot.serial == serial
        {
            slot.place = Some(place);
        }
    }

    /// Drops entries from memory until the newest ones fit.
    pub(super) fn evict(&mut self) {
        while self.cached_bytes > CACHED_BYTES {
            let Some(slot) = self.slots.get_mut(self.evicted).filter(|slot| slot.place.is_some()) else {
                return;
            };
            if let Some(entry) = slot.cached.take() {
                self.cached_bytes -= size(&entry);
            }
            self.evicted += 1;
        }
    }

    pub(super) fn truncate_after(&mut self, last: Option<u64>) {
        while self.slots.back().is_some_and(|slot| last.is_none_or(|last| slot.id.index > last)) {
            let slot = self.slots.pop_back();
            self.forget(slot);
        }
        self.evicted = self.evicted.min(self.slots.len());
    }

    pub(super) fn purge(&mut self, upto: LogId) {
        while self.slots.front().is_some_and(|slot| slot.id.index <= upto.index) {
            let slot = self.slots.pop_front();
            self.forget(slot);
            self.evicted = self.evicted.saturating_sub(1);
        }
        self.purged = Some(upto);
    }

    fn forget(&mut self, slot: Option<Slot>) {
        let cached = slot.and_then(|slot| slot.cached);
        self.cached_bytes -= cached.as_ref().map_or(0, size);
    }

    /// Entries of the range, up to `max_bytes` but at least one.
    pub(super) fn read(&self, range: impl RangeBounds<u64>, max_bytes: usize) -> Vec<Located> {
        let mut bytes = 0;
        let mut found = Vec::new();
        let start = match range.start_bound() {
            Bound::Included(start) => self.slots.partition_point(|slot| slot.id.index < *start),
            Bound::Excluded(start) => self.slots.partition_point(|slot| slot.id.index <= *start),
            Bound::Unbounded => 0,
        };
        for slot in self.slots.range(start..).take_while(|slot| range.contains(&slot.id.index)) {
            let located = match (&slot.cached, &slot.place) {
                (Some(entry), _) => {
                    bytes += size(entry);
                    Located::Here(entry.clone())
                }
                (None, Some(place)) => {
                    bytes += place.bytes;
                    Located::OnDisk(slot.id, place.clone())
                }
                (None, None) => unreachable!("an entry leaves memory only once it is on disk"),
            };
            if bytes > max_bytes && !found.is_empty() {
                break;
            }
            found.push(located);
        }
        found
    }

    fn position(&self, index: u64) -> Option<usize> {
        let first = self.slots.front()?.id.index;
        index.checked_sub(first).and_then(|position| usize::try_from(position).ok())
    }
}

fn size(entry: &Entry) -> usize {
    const FIXED: usize = 128;
    match &entry.payload {
        Payload::Normal(command) => FIXED + command.0.len(),
        Payload::Blank | Payload::Membership(_) => FIXED,
    }
}
