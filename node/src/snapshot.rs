//! Snapshots as files that come from clients and go to them, in parts.
//!
//! What is in one is the store's. It is read and written on a thread of its own, one at a time, as each may take
//! hundreds of megabytes. The desk owns these threads: it waits for them when the daemon stops, and cuts them short.

use std::io::{self, BufWriter, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use proto::local::{InspectSnapshotResponse, SaveSnapshotResponse};
use raft_store::Store;
use raft_store::backup::Backup;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Status, Streaming};

use crate::error::Error;

/// Bytes of a part.
const PART_BYTES: usize = 256 << 10;
/// Parts that wait for the other side.
const WAITING: usize = 8;
/// Largest file that is read.
const LARGEST_BYTES: u64 = 4 << 30;

pub type Parts = ReceiverStream<Result<SaveSnapshotResponse, Status>>;

/// A message with a part of a file.
pub trait Part {
    fn into_data(self) -> Vec<u8>;
}

#[derive(Clone)]
pub struct Desk {
    scratch: PathBuf,
    turn: Arc<Mutex<()>>,
    threads: TaskTracker,
    stop: CancellationToken,
}

impl Desk {
    /// Works until `stop`.
    pub fn new(scratch: PathBuf, stop: CancellationToken) -> Self {
        Self { scratch, turn: Arc::default(), threads: TaskTracker::new(), stop }
    }

    /// Waits for what was under way. After `stop`.
    pub async fn ended(&self) {
        self.threads.close();
        self.threads.wait().await;
    }

    /// Begins to write what `store` has.
    pub async fn save(&self, store: Store, passphrase: String) -> Parts {
        let (parts, stream) = mpsc::channel(WAITING);
        let (turn, scratch) = (self.turn().await, self.scratch.clone());
        let outgoing = Outgoing { parts: parts.clone(), stop: self.stop.clone(), runtime: Handle::current() };
        // Ends with the stream, at the latest: then nothing more can be sent.
        self.threads.spawn_blocking(move || {
            let _turn = turn;
            let mut out = BufWriter::with_capacity(PART_BYTES, outgoing);
            let written = Backup::write(&store, &passphrase, &scratch, &mut out);
            let flushed = written
                .map_err(Error::from)
                .map_err(Status::from)
                .and_then(|()| out.flush().map_err(|error| Status::internal(error.to_string())));
            if let Err(status) = flushed {
                // A client that has gone, or does not listen, needs no reason.
                let _ = parts.try_send(Err(status));
            }
        });
        ReceiverStream::new(stream)
    }

    /// Reads a file whose first part has come.
    pub async fn read<T: Part>(
        &self,
        passphrase: String,
        first: Vec<u8>,
        mut rest: Streaming<T>,
    ) -> Result<Backup, Status> {
        let (parts, stream) = mpsc::channel(WAITING);
        let (turn, scratch) = (self.turn().await, self.scratch.clone());
        let reading = self.threads.spawn_blocking(move || {
            let _turn = turn;
            let incoming = Incoming { parts: stream, part: io::Cursor::new(first) };
            Backup::read(&mut incoming.take(LARGEST_BYTES), &passphrase, &scratch)
        });
        while let Some(part) = rest.message().await? {
            // What is wrong with those before, the reader says.
            if parts.send(part.into_data()).await.is_err() {
                break;
            }
        }
        drop(parts);
        let read = reading.await.map_err(|error| Status::internal(error.to_string()))?;
        Ok(read.map_err(Error::from)?)
    }

    async fn turn(&self) -> OwnedMutexGuard<()> {
        self.turn.clone().lock_owned().await
    }
}

pub fn describe(backup: &Backup) -> InspectSnapshotResponse {
    let view = backup.view();
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    InspectSnapshotResponse {
        sealed: backup.sealed,
        taken_at: Some(backup.taken_at.into()),
        cluster_id: view.cluster().map(|cluster| cluster.id.to_string()).unwrap_or_default(),
        index: view.index(),
        managers: count(view.nodes().filter(|node| node.manager.is_some()).count()),
        nodes: count(view.nodes().count()),
        services: count(view.services().count()),
        tasks: count(view.tasks().count()),
        networks: count(view.networks().count()),
    }
}

struct Outgoing {
    parts: mpsc::Sender<Result<SaveSnapshotResponse, Status>>,
    stop: CancellationToken,
    runtime: Handle,
}

impl Write for Outgoing {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let part = SaveSnapshotResponse { data: data.to_vec() };
        let sent = self.runtime.block_on(self.stop.run_until_cancelled(self.parts.send(Ok(part))));
        match sent {
            Some(Ok(())) => Ok(data.len()),
            // Nobody listens any more, or shall.
            Some(Err(_)) | None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Incoming {
    parts: mpsc::Receiver<Vec<u8>>,
    part: io::Cursor<Vec<u8>>,
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.part.read(buffer)? {
                0 => match self.parts.blocking_recv() {
                    Some(part) => self.part = io::Cursor::new(part),
                    None => return Ok(0),
                },
                read => return Ok(read),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_nobody_takes_does_not_keep_the_desk() {
        let stop = CancellationToken::new();
        let desk = Desk::new(PathBuf::new(), stop.clone());
        let (parts, _nobody_reads) = mpsc::channel(1);
        let runtime = Handle::current();
        let mut outgoing = Outgoing { parts, stop: stop.clone(), runtime };
        let writing = desk.threads.spawn_blocking(move || {
            let mut written = 0;
            while outgoing.write(&[0; 16]).is_ok() {
                written += 1;
            }
            written
        });
        stop.cancel();
        desk.ended().await;
        assert!(writing.await.unwrap() <= 1);
    }
}
