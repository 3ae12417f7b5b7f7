//! Snapshots as files that come from clients and go to them, in parts.
//!
//! What is in one is the store's. It is read and written on a thread of its own, one at a time, as each may take
//! hundreds of megabytes.

use std::io::{self, BufWriter, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use proto::local::{InspectSnapshotResponse, SaveSnapshotResponse};
use raft_store::Store;
use raft_store::backup::Backup;
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc};
use tokio_stream::wrappers::ReceiverStream;
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
}

impl Desk {
    pub fn new(scratch: PathBuf) -> Self {
        Self { scratch, turn: Arc::default() }
    }

    /// Begins to write what `store` has.
    pub async fn save(&self, store: Store, passphrase: String) -> Parts {
        let (parts, stream) = mpsc::channel(WAITING);
        let (turn, scratch) = (self.turn().await, self.scratch.clone());
        // Ends with the stream, at the latest: then nothing more can be sent.
        drop(tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let mut out = BufWriter::with_capacity(PART_BYTES, Outgoing(parts.clone()));
            let written = Backup::write(&store, &passphrase, &scratch, &mut out);
            let flushed = written
                .map_err(Error::from)
                .map_err(Status::from)
                .and_then(|()| out.flush().map_err(|error| Status::internal(error.to_string())));
            if let Err(status) = flushed {
                // A client that has gone needs no reason.
                let _ = parts.blocking_send(Err(status));
            }
        }));
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
        let reading = tokio::task::spawn_blocking(move || {
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

struct Outgoing(mpsc::Sender<Result<SaveSnapshotResponse, Status>>);

impl Write for Outgoing {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let part = SaveSnapshotResponse { data: data.to_vec() };
        let sent = self.0.blocking_send(Ok(part));
        sent.map(|()| data.len()).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
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
