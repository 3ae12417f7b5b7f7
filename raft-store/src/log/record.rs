//! How entries lie in a segment file, and how a torn end is told from damage.
//!
//! A segment is a head and then records. All numbers are little-endian.
//!
//! | head | magic 8, format 4, CRC-32 of what follows 4, index of the first entry 8 |
//! | --- | --- |
//! | record | magic 4, CRC-32 of what follows 4, length of the body 4, kind 1, zeros 3, index 8, durable 8, body |
//!
//! The body is encrypted; kind and index are authenticated with it. `durable` is the offset up to which the file
//! had been made durable when the record was written. A bad record that a later record knows to have been durable is
//! damage: something that was acknowledged is lost. A bad record of which nobody knows that was being written when
//! the power went, and was never acknowledged.

use crate::key::DataKey;

pub(super) const FORMAT: u32 = 1;
pub(super) const HEAD_BYTES: usize = 24;
const SEGMENT_MAGIC: &[u8; 8] = b"SWLOG\0\0\0";
const RECORD_MAGIC: u32 = 0x5257_5353;
pub(super) const RECORD_HEAD_BYTES: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A `swarm.store.v1.Entry`.
    Entry = 1,
    /// A `swarm.store.v1.LogId`: everything up to it is committed.
    Committed = 2,
}

/// A record as it was found.
#[derive(Debug)]
pub(super) struct Found<'a> {
    pub(super) kind: Kind,
    pub(super) index: u64,
    pub(super) durable: u64,
    pub(super) body: &'a [u8],
}

pub(super) fn segment_head(first: u64) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(SEGMENT_MAGIC);
    head[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    head[12..16].copy_from_slice(&crc32fast::hash(&first.to_le_bytes()).to_le_bytes());
    head[16..].copy_from_slice(&first.to_le_bytes());
    head
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    First(u64),
    Format(u32),
    Damaged,
}

pub(super) fn read_segment_head(bytes: &[u8]) -> Head {
    let Some(head) = bytes.first_chunk::<HEAD_BYTES>() else { return Head::Damaged };
    if head[..8] != *SEGMENT_MAGIC {
        return Head::Damaged;
    }
    let format = u32_at(head, 8);
    if format != FORMAT {
        return Head::Format(format);
    }
    if u32_at(head, 12) != crc32fast::hash(&head[16..]) {
        return Head::Damaged;
    }
    Head::First(u64_at(head, 16))
}

/// Appends a record to `out`.
pub(super) fn write(
    out: &mut Vec<u8>,
    key: &DataKey,
    kind: Kind,
    index: u64,
    durable: u64,
    plaintext: &[u8],
) {
    let body = key.seal(&purpose(kind, index), plaintext);
    let start = out.len();
    let length = u32::try_from(body.len()).expect("entries are bounded far below 4 GiB");
    out.extend_from_slice(&RECORD_MAGIC.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&[kind as u8, 0, 0, 0]);
    out.extend_from_slice(&index.to_le_bytes());
    out.extend_from_slice(&durable.to_le_bytes());
    out.extend_from_slice(&body);
    let checksum = crc32fast::hash(&out[start + 8..]);
    out[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
}

/// The record at the start of `bytes`; none if there is no whole and sound one.
pub(super) fn read(bytes: &[u8]) -> Option<Found<'_>> {
    let head = bytes.first_chunk::<RECORD_HEAD_BYTES>()?;
    if u32_at(head, 0) != RECORD_MAGIC {
        return None;
    }
    let end = RECORD_HEAD_BYTES.checked_add(u32_at(head, 8) as usize)?;
    let body = bytes.get(RECORD_HEAD_BYTES..end)?;
    if u32_at(head, 4) != crc32fast::hash(&bytes[8..end]) {
        return None;
    }
    let kind = match head[12] {
        1 => Kind::Entry,
        2 => Kind::Committed,
        _ => return None,
    };
    Some(Found { kind, index: u64_at(head, 16), durable: u64_at(head, 24), body })
}

pub(super) fn decrypt(key: &DataKey, found: &Found<'_>) -> Option<Vec<u8>> {
    key.open(&purpose(found.kind, found.index), found.body)
}

/// Whether a sound record behind `offset` was written when `offset` had been durable already.
pub(super) fn known_durable(bytes: &[u8], offset: usize) -> bool {
    let magic = RECORD_MAGIC.to_le_bytes();
    let candidates = bytes[offset + 1..].windows(4).enumerate().filter(|(_, window)| **window == magic);
    let mut records = candidates.filter_map(|(skipped, _)| read(&bytes[offset + 1 + skipped..]));
    records.any(|record| record.durable > offset as u64)
}

fn purpose(kind: Kind, index: u64) -> [u8; 16] {
    let mut purpose = *b"log\0\0\0\0\0________";
    purpose[4] = kind as u8;
    purpose[8..].copy_from_slice(&index.to_le_bytes());
    purpose
}

fn u32_at<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}
