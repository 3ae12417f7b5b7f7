//! Blobs in containerd's content store.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use containerd_client::services::v1::{
    Info, ReadContentRequest, UpdateRequest, WriteAction, WriteContentRequest, WriteContentResponse,
};
use prost_types::FieldMask;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::manifest;
use crate::runtime::Error;
use crate::runtime::client::{Client, failed};

pub(super) type Labels = HashMap<String, String>;

/// What goes in one message; containerd takes up to 16 MiB.
pub(super) const CHUNK_BYTES: usize = 1 << 20;
/// Documents are read into memory: more than this is no manifest and no configuration.
const DOCUMENT_BYTES: usize = 8 << 20;
/// What a kept blob is called in messages.
const WRITE: &str = "store image data";

/// A blob being written. Dropped before [`commit`](Self::commit) it leaves nothing but an unfinished ingest, which
/// containerd collects with the lease.
pub(super) struct Ingest {
    requests: mpsc::Sender<WriteContentRequest>,
    responses: Streaming<WriteContentResponse>,
    template: WriteContentRequest,
}

impl Ingest {
    /// `None` if the blob is there already; it is then held by the client's lease.
    pub(super) async fn open(client: &Client, digest: &str, size: u64) -> Result<Option<Self>, Error> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        // A name of its own: containerd lets only one writer at a time use a name.
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let template = WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: format!("swarm-{}-{count}-{digest}", std::process::id()),
            total: size.try_into().unwrap_or(i64::MAX),
            expected: digest.to_owned(),
            ..WriteContentRequest::default()
        };
        let (requests, receiver) = mpsc::channel(1);
        let first = requests.send(template.clone());
        first.await.expect("the receiver is right here");
        let opened = async {
            let mut responses = client.content().write(ReceiverStream::new(receiver)).await?.into_inner();
            responses.message().await?;
            Ok::<_, Status>(responses)
        };
        match opened.await {
            Ok(responses) => Ok(Some(Self { requests, responses, template })),
            Err(status) if status.code() == Code::AlreadyExists => Ok(None),
            Err(status) => Err(failed(WRITE)(status)),
        }
    }

    pub(super) fn offset(&self) -> u64 {
        self.template.offset.try_into().unwrap_or(0)
    }

    pub(super) async fn write(&mut self, data: Vec<u8>) -> Result<(), Error> {
        let length = i64::try_from(data.len()).expect("a chunk is far smaller");
        let request =
            WriteContentRequest { action: WriteAction::Write.into(), data, ..self.template.clone() };
        self.exchange(request).await.map_err(failed(WRITE))?;
        self.template.offset += length;
        Ok(())
    }

    /// Succeeds if the blob is what its digest says.
    pub(super) async fn commit(mut self, labels: Labels) -> Result<(), Error> {
        let request =
            WriteContentRequest { action: WriteAction::Commit.into(), labels, ..self.template.clone() };
        match self.exchange(request).await {
            Err(status) if status.code() != Code::AlreadyExists => Err(failed(WRITE)(status)),
            _ => Ok(()),
        }
    }

    async fn exchange(&mut self, request: WriteContentRequest) -> Result<(), Status> {
        // A closed channel means that the call has ended; the answer says why.
        let _ = self.requests.send(request).await;
        let answer = self.responses.message().await?;
        answer.map(drop).ok_or_else(|| Status::unavailable("the write ended early"))
    }
}

/// Keeps a document; returns its digest.
pub(super) async fn put(client: &Client, document: &[u8], labels: Labels) -> Result<String, Error> {
    let digest = manifest::digest(document);
    if let Some(mut ingest) = Ingest::open(client, &digest, document.len() as u64).await? {
        ingest.write(document.to_vec()).await?;
        ingest.commit(labels).await?;
    }
    Ok(digest)
}

/// `None` if there is no such blob.
pub(super) async fn get(client: &Client, digest: &str) -> Result<Option<Vec<u8>>, Error> {
    const ACTION: &str = "read image data";
    let request = ReadContentRequest { digest: digest.to_owned(), offset: 0, size: 0 };
    let mut document = Vec::new();
    let mut stream = match client.content().read(request).await {
        Ok(response) => response.into_inner(),
        Err(status) if status.code() == Code::NotFound => return Ok(None),
        Err(status) => return Err(failed(ACTION)(status)),
    };
    loop {
        match stream.message().await {
            Ok(Some(chunk)) => document.extend(chunk.data),
            Ok(None) => return Ok(Some(document)),
            Err(status) if status.code() == Code::NotFound => return Ok(None),
            Err(status) => return Err(failed(ACTION)(status)),
        }
        if document.len() > DOCUMENT_BYTES {
            return Err(Error::Containerd { action: ACTION, reason: format!("{digest} is too big") });
        }
    }
}

/// Sets one label of a blob.
pub(super) async fn label(client: &Client, digest: &str, key: String, value: &str) -> Result<(), Error> {
    let paths = vec![format!("labels.{key}")];
    let labels = Labels::from([(key, value.to_owned())]);
    let info = Info { digest: digest.to_owned(), labels, ..Info::default() };
    let request = UpdateRequest { info: Some(info), update_mask: Some(FieldMask { paths }) };
    client.content().update(request).await.map_err(failed(WRITE)).map(drop)
}
