//! What is in the log, in memory: where each entry lies, and the newest entries themselves.
//!
//! Entries that are not on disk yet are always here, so that they can be read at once. Those that are may be dropped
//! from the front when they take too much.

use std::collections::VecDeque;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use openraft::entry::RaftEntry as _;

use crate::disk::File;
use crate::types::{Entry, LogId, Payload, Vote};

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

/// What is known of an entry.
#[cfg(test)]
pub(crate) struct Taken {
    pub(crate) serial: u64,
    pub(crate) index: u64,
    pub(crate) term: u64,
    /// None if it is not in memory.
    pub(crate) checksum: Option<u32>,
    pub(crate) term_before: Option<u64>,
}

pub(super) struct Index {
    /// Consecutive.
    slots: VecDeque<Slot>,
    pub(super) purged: Option<LogId>,
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    cached_bytes: usize,
    cached_bytes_max: usize,
    /// Slots before this position are not cached.
    evicted: usize,
    serial: u64,
}

impl Index {
    pub(super) fn new(cached_bytes_max: usize) -> Self {
        Self {
            slots: VecDeque::new(),
            purged: None,
            vote: None,
            committed: None,
            cached_bytes: 0,
            cached_bytes_max,
            evicted: 0,
            serial: 0,
        }
    }

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
        while self.cached_bytes > self.cached_bytes_max {
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

    #[cfg(test)]
    pub(super) fn newer_than(&self, serial: u64) -> Vec<Taken> {
        let newer = |position: &usize| self.slots[*position].serial > serial;
        let taken = |position: usize| {
            let slot = &self.slots[position];
            let before = position.checked_sub(1).map(|before| self.slots[before].id).or(self.purged);
            let before = before.filter(|before| before.index + 1 == slot.id.index);
            let checksum = slot.cached.as_ref().map(|entry| match &entry.payload {
                Payload::Normal(command) => crc32fast::hash(&command.0),
                other => crc32fast::hash(other.to_string().as_bytes()),
            });
            Taken {
                serial: slot.serial,
                index: slot.id.index,
                term: slot.id.committed_leader_id().term,
                checksum,
                term_before: before.map(|before| before.committed_leader_id().term),
            }
        };
        (0..self.slots.len()).filter(newer).map(taken).collect()
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
