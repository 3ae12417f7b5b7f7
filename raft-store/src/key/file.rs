//! The file `data-key`: 32 bytes that are the only key, in clear, or
//!
//! | head | magic 8, format 4, CRC-32 of what follows 4 |
//! | --- | --- |
//! | envelope | sealed 1, length of the body 4, body: keys of 32 bytes, the newest first |
//!
//! All envelopes hold the same keys: one is enough to read the file. There are two only while one seal takes the
//! place of another. All numbers are little-endian.

use std::path::Path;

use zeroize::Zeroizing;

use super::{Envelope, Error, KEY_BYTES, Ring, Seal};
use crate::disk;

pub(super) const FORMAT: u32 = 2;
const MAGIC: &[u8; 8] = b"SWDATAK\0";
const HEAD_BYTES: usize = 16;

type Keys = Vec<Zeroizing<[u8; KEY_BYTES]>>;

pub(super) struct Found {
    pub(super) keys: Keys,
    /// Nothing but what opened the file opens it.
    pub(super) settled: bool,
}

/// None if there is no file.
pub(super) fn read(path: &Path, seal: Option<&dyn Seal>) -> Result<Option<Found>, Error> {
    let Some(bytes) = disk::read_if_there(path)?.map(Zeroizing::new) else { return Ok(None) };
    let shown = || path.display().to_string();
    let damaged = || Error::Damaged { path: shown() };
    if bytes.len() == KEY_BYTES {
        let keys = keys(&bytes).ok_or_else(damaged)?;
        return Ok(Some(Found { keys, settled: seal.is_none() }));
    }
    let Some((head, body)) =
        bytes.split_first_chunk::<HEAD_BYTES>().filter(|(head, _)| head.starts_with(MAGIC))
    else {
        return Err(Error::Length { path: shown(), found: bytes.len() });
    };
    let [found, checksum] =
        [8, 12].map(|at| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]));
    if found != FORMAT {
        return Err(Error::Format { path: shown(), found });
    }
    if checksum != crc32fast::hash(body) {
        return Err(damaged());
    }
    let (mut rest, mut first) = (body, true);
    while !rest.is_empty() {
        let (sealed, envelope, more) = next(rest).ok_or_else(damaged)?;
        let settled = first && more.is_empty() && sealed == seal.is_some();
        (rest, first) = (more, false);
        let opened = match (sealed, seal) {
            (false, _) => Some(Zeroizing::new(envelope.to_vec())),
            (true, Some(seal)) => seal.open(envelope),
            (true, None) => None,
        };
        if let Some(opened) = opened {
            let keys = keys(&opened).ok_or_else(damaged)?;
            return Ok(Some(Found { keys, settled }));
        }
    }
    Err(Error::Sealed { path: shown() })
}

fn next(bytes: &[u8]) -> Option<(bool, &[u8], &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<5>()?;
    let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
    let (envelope, more) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    Some((head[0] == 1, envelope, more))
}

fn keys(bytes: &[u8]) -> Option<Keys> {
    let (keys, []) = bytes.as_chunks::<KEY_BYTES>() else { return None };
    let keys: Keys = keys.iter().map(|key| Zeroizing::new(*key)).collect();
    (!keys.is_empty()).then_some(keys)
}

/// Durable once it returns.
pub(super) fn write(path: &Path, ring: &Ring, envelopes: &[Envelope]) -> Result<(), Error> {
    let keys = Zeroizing::new(ring.0.iter().flat_map(|key| *key.bytes).collect::<Vec<u8>>());
    if let ([None], KEY_BYTES) = (envelopes, keys.len()) {
        return Ok(disk::write_atomically(path, &keys)?);
    }
    let mut body = Zeroizing::new(Vec::new());
    for envelope in envelopes {
        let sealed = envelope.as_ref().map(|seal| seal.seal(&keys));
        let bytes = sealed.as_deref().unwrap_or(&keys);
        let length = u32::try_from(bytes.len()).expect("there are a few keys");
        body.push(u8::from(sealed.is_some()));
        body.extend_from_slice(&length.to_le_bytes());
        body.extend_from_slice(bytes);
    }
    let head = [&MAGIC[..], &FORMAT.to_le_bytes(), &crc32fast::hash(&body).to_le_bytes()].concat();
    let bytes = Zeroizing::new([head.as_slice(), &body].concat());
    Ok(disk::write_atomically(path, &bytes)?)
}
