//! Snapshots that come from a leader: what has come is kept when the connection breaks, and the next call goes on there.
//!
//! A snapshot is known by the id of its file, and a chunk by its number: whichever call brings the next one, it is
//! written once. So it does no harm that an earlier call is still served here while the leader has given it up long ago.
//! One unfinished snapshot is kept at most. It is gone when another one begins, when the log has caught up with it, when
//! the data key is replaced, and after a start.
//!
//! Invariant: a finished file holds all chunks, in order, each once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crc32fast::Hasher;

use crate::host::blocking;
use crate::snapshot::{self, SnapshotFile, Snapshots, Writer};

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    File(#[from] snapshot::Error),
    #[error("chunk {found} of the snapshot comes where {expected} is expected")]
    Gap { expected: u64, found: u64 },
    #[error("the snapshot is incomplete or was altered on its way")]
    Incomplete,
    #[error("another call has finished the snapshot, or failed to")]
    Over,
    #[error(transparent)]
    Thread(#[from] std::io::Error),
}

#[derive(Default)]
pub(crate) struct Incoming(Mutex<Option<Kept>>);

/// The unfinished snapshot.
struct Kept {
    id: Vec<u8>,
    /// The last entry that is in it.
    last: u64,
    /// Of the data key that it is written with.
    epoch: u64,
    filling: Filling,
}

/// A snapshot that is being written. Cheap to clone; all clones are the same one.
#[derive(Clone)]
pub(super) struct Filling(Arc<Mutex<State>>);

struct State {
    /// None once it is over.
    writer: Option<Writer>,
    chunks: u64,
    checksum: Hasher,
}

impl Incoming {
    fn kept(&self) -> MutexGuard<'_, Option<Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn filling(&self, id: &[u8]) -> Option<Filling> {
        self.kept().as_ref().filter(|kept| kept.id == id).map(|kept| kept.filling.clone())
    }

    /// How many chunks of the snapshot are here.
    pub(super) async fn progress(&self, id: &[u8]) -> Result<u64, Error> {
        match self.filling(id) {
            Some(filling) => Ok(blocking(move || filling.state().chunks).await?),
            None => Ok(0),
        }
    }

    /// The snapshot to be filled, as far as it has come. One without an id is not kept.
    pub(super) fn begin(&self, snapshots: &Snapshots, id: &[u8], last: u64) -> Result<Filling, Error> {
        if let Some(filling) = self.filling(id) {
            return Ok(filling);
        }
        let writer = snapshots.writer()?;
        let epoch = writer.epoch();
        let state = State { writer: Some(writer), chunks: 0, checksum: Hasher::new() };
        let filling = Filling(Arc::new(Mutex::new(state)));
        if !id.is_empty() {
            *self.kept() = Some(Kept { id: id.into(), last, epoch, filling: filling.clone() });
        }
        Ok(filling)
    }

    /// It is finished, or cannot be.
    pub(super) fn end(&self, filling: &Filling) {
        self.forget_if(|kept| Arc::ptr_eq(&kept.filling.0, &filling.0));
    }

    /// Nobody needs what is not newer than the entries that are applied.
    pub(crate) fn forget_up_to(&self, applied: u64) {
        self.forget_if(|kept| kept.last <= applied);
    }

    /// Nobody may need a data key from before `epoch`.
    pub(crate) fn forget_before(&self, epoch: u64) {
        self.forget_if(|kept| kept.epoch < epoch);
    }

    fn forget_if(&self, condition: impl FnOnce(&Kept) -> bool) {
        let forgotten = self.kept().take_if(|kept| condition(kept));
        // Removes the file, unless a call is still at it.
        drop(forgotten);
    }
}

impl Filling {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// On a thread where that stops nobody. It is done, or not, also if nobody waits for it any more.
    pub(super) async fn push(
        &self,
        number: u64,
        chunk: impl AsRef<[u8]> + Send + 'static,
    ) -> Result<(), Error> {
        let filling = self.clone();
        blocking(move || filling.state().push(number, chunk.as_ref())).await?
    }

    /// Durable once it returns. `checksum` is that of all chunks, if the sender tells it.
    pub(super) async fn finish(&self, chunks: u64, checksum: Option<u32>) -> Result<SnapshotFile, Error> {
        let filling = self.clone();
        blocking(move || filling.state().finish(chunks, checksum)).await?
    }
}

impl State {
    fn push(&mut self, number: u64, chunk: &[u8]) -> Result<(), Error> {
        if number < self.chunks {
            return Ok(());
        }
        if number > self.chunks {
            return Err(Error::Gap { expected: self.chunks, found: number });
        }
        let mut writer = self.writer.take().ok_or(Error::Over)?;
        // After an error nobody knows what of it is there.
        writer.push(chunk)?;
        self.writer = Some(writer);
        self.checksum.update(chunk);
        self.chunks += 1;
        Ok(())
    }

    fn finish(&mut self, chunks: u64, checksum: Option<u32>) -> Result<SnapshotFile, Error> {
        let sound = checksum.is_none_or(|checksum| checksum == self.checksum.clone().finalize());
        let writer = self.writer.take().ok_or(Error::Over)?;
        if chunks == self.chunks && sound { Ok(writer.finish()?) } else { Err(Error::Incomplete) }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::key::DataKey;

    fn snapshots(dir: &Path) -> Snapshots {
        Snapshots::new(dir, DataKey::load_or_create(&dir.join("data-key")).unwrap()).unwrap()
    }

    fn chunks(count: u8) -> Vec<Vec<u8>> {
        (0..count).map(|number| vec![number; usize::from(number) * 7 + 1]).collect()
    }

    fn checksum(chunks: &[Vec<u8>]) -> Option<u32> {
        Some(crc32fast::hash(&chunks.concat()))
    }

    fn unfinished(dir: &Path) -> usize {
        let paths = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "tmp")).count()
    }

    fn content(snapshots: &Snapshots, file: &SnapshotFile) -> Vec<Vec<u8>> {
        let mut reader = snapshots.reader(file).unwrap();
        std::iter::from_fn(|| reader.next().unwrap()).collect()
    }

    /// Several calls at a time, each from where the receiver says that it is; they break off anywhere.
    #[tokio::test]
    async fn whatever_breaks_off_the_file_has_each_chunk_once() {
        for seed in 0..200 {
            let mut chance = StdRng::seed_from_u64(seed);
            let dir = tempfile::tempdir().unwrap();
            let (snapshots, incoming) = (snapshots(dir.path()), Incoming::default());
            let all = chunks(chance.random_range(0..20));
            let mut calls: Vec<(Filling, u64)> = Vec::new();
            let file = loop {
                if calls.is_empty() || chance.random_bool(0.2) {
                    let first = incoming.progress(b"one").await.unwrap();
                    calls.push((incoming.begin(&snapshots, b"one", 9).unwrap(), first));
                }
                let picked = chance.random_range(0..calls.len());
                if chance.random_bool(0.2) {
                    calls.swap_remove(picked);
                    continue;
                }
                let (filling, next) = &mut calls[picked];
                match all.get(*next as usize) {
                    Some(chunk) => filling.push(*next, chunk.clone()).await.unwrap(),
                    None => break filling.finish(all.len() as u64, checksum(&all)).await.unwrap(),
                }
                *next += 1;
            };
            assert_eq!(content(&snapshots, &file), all, "seed {seed}");
            for (filling, _) in &calls {
                incoming.end(filling);
                assert!(matches!(filling.finish(0, None).await, Err(Error::Over)));
            }
            drop((calls, file));
            assert_eq!((incoming.progress(b"one").await.unwrap(), unfinished(dir.path())), (0, 0));
        }
    }

    #[tokio::test]
    async fn one_is_kept_and_no_longer_than_it_is_of_use() {
        let dir = tempfile::tempdir().unwrap();
        let (snapshots, incoming) = (snapshots(dir.path()), Incoming::default());
        let begin = async |id: &[u8], last| {
            let filling = incoming.begin(&snapshots, id, last).unwrap();
            filling.push(0, b"chunk").await.unwrap();
            incoming.progress(id).await.unwrap()
        };
        let left = async |id: &[u8]| (incoming.progress(id).await.unwrap(), unfinished(dir.path()));
        assert_eq!(begin(b"one", 5).await, 1);
        assert_eq!(begin(b"two", 9).await, 1);
        assert_eq!((left(b"one").await, left(b"two").await), ((0, 1), (1, 1)));
        // One that cannot be told from others is gone with its call.
        assert_eq!(begin(b"", 9).await, 0);
        assert_eq!(left(b"two").await, (1, 1));
        incoming.forget_up_to(8);
        incoming.forget_before(0);
        assert_eq!(left(b"two").await, (1, 1));
        incoming.forget_up_to(9);
        assert_eq!(left(b"two").await, (0, 0));
        begin(b"two", 9).await;
        incoming.forget_before(1);
        assert_eq!(left(b"two").await, (0, 0));
    }

    #[tokio::test]
    async fn what_is_missing_or_altered_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (snapshots, incoming) = (snapshots(dir.path()), Incoming::default());
        let all = chunks(3);
        for (last, sum) in [(2, checksum(&all)), (3, checksum(&all[..2])), (4, None)] {
            let filling = incoming.begin(&snapshots, b"one", 9).unwrap();
            assert!(matches!(filling.push(1, b"").await, Err(Error::Gap { expected: 0, found: 1 })));
            for (number, chunk) in (0..).zip(&all) {
                filling.push(number, chunk.clone()).await.unwrap();
            }
            assert!(matches!(filling.finish(last, sum).await, Err(Error::Incomplete)));
            incoming.end(&filling);
        }
        assert_eq!(unfinished(dir.path()), 0);
    }
}
