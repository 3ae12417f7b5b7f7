//! What a member must not forget beside its log: who it is, for whom it voted, what it dropped from the log.

use std::path::Path;

use prost::Message;

use crate::disk;

const MAGIC: &[u8; 8] = b"SWSTATE\0";
const FORMAT: u32 = 1;
const HEAD_BYTES: usize = 16;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Disk(#[from] disk::Error),
    #[error("{path} is damaged")]
    Damaged { path: String },
    #[error("{path} has format {found}, known is {FORMAT}: it was written by a newer version")]
    Format { path: String, found: u32 },
}

pub(crate) type HardState = proto::store::HardState;

/// None if there is none yet.
pub(crate) fn load(path: &Path) -> Result<Option<HardState>, Error> {
    let Some(bytes) = disk::read_if_there(path)? else { return Ok(None) };
    let damaged = || Error::Damaged { path: path.display().to_string() };
    let (head, body) = bytes.split_first_chunk::<HEAD_BYTES>().ok_or_else(damaged)?;
    let [found, checksum] =
        [8, 12].map(|at| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]));
    if head[..8] != *MAGIC {
        return Err(damaged());
    }
    if found != FORMAT {
        return Err(Error::Format { path: path.display().to_string(), found });
    }
    if checksum != crc32fast::hash(body) {
        return Err(damaged());
    }
    HardState::decode(body).map(Some).map_err(|_| damaged())
}

/// Durable once it returns.
pub(crate) fn save(path: &Path, state: &HardState) -> Result<(), disk::Error> {
    let body = state.encode_to_vec();
    let mut bytes = Vec::with_capacity(HEAD_BYTES + body.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    bytes.extend_from_slice(&body);
    disk::write_atomically(path, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_loaded_and_damage_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        assert_eq!(load(&path).unwrap(), None);
        let state = HardState { raft_id: 7, vote: None, purged: None };
        save(&path, &state).unwrap();
        assert_eq!(load(&path).unwrap(), Some(state));

        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(matches!(load(&path), Err(Error::Damaged { .. })));
        bytes[8] = 2;
        std::fs::write(&path, &bytes).unwrap();
        assert!(matches!(load(&path), Err(Error::Format { found: 2, .. })));
    }
}
