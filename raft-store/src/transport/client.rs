//! The sending side.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crc32fast::Hasher;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::RPCTypes;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use proto::raft as wire;
use proto::raft::raft_client::RaftClient;
use tokio::time::timeout;
use tonic::{Code, Status};

use super::{Lane, Peers, SETUP_TIMEOUT};
use crate::RaftId;
use crate::codec::Malformed;
use crate::codec::raft::{get_log_id, get_vote, put_entry, put_log_id, put_snapshot_meta, put_vote};
use crate::host::{Wire, blocking};
use crate::log::Log;
use crate::replica::SnapshotOf;
use crate::snapshot::{FORMAT, Reader, SnapshotFile, Snapshots};
use crate::types::{Address, Group, Vote};

/// A follower that owes an answer for so long is taken for unreachable.
const STALL: Duration = Duration::from_secs(3);

/// Makes clients for members.
pub(crate) struct Network {
    pub(crate) me: RaftId,
    pub(crate) peers: Arc<Peers>,
    pub(crate) snapshots: Snapshots,
    pub(crate) log: Log,
}

impl Network {
    fn peer(&self, target: RaftId, address: &Address, lane: Lane) -> Peer {
        let (peers, snapshots, log) = (self.peers.clone(), self.snapshots.clone(), self.log.clone());
        Peer { me: self.me, target, addr: address.addr.clone(), lane, peers, snapshots, log }
    }
}

impl RaftNetworkFactory<Group> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: RaftId, address: &Address) -> Peer {
        self.peer(target, address, Lane::Entries)
    }

    async fn new_heartbeat_client(&mut self, target: RaftId, address: &Address) -> Peer {
        self.peer(target, address, Lane::Control)
    }

    async fn new_snapshot_client(&mut self, target: RaftId, address: &Address) -> Peer {
        self.peer(target, address, Lane::Snapshot)
    }
}

/// One member, as seen from here.
pub(crate) struct Peer {
    me: RaftId,
    target: RaftId,
    /// Where it listened when this was made.
    addr: String,
    lane: Lane,
    peers: Arc<Peers>,
    snapshots: Snapshots,
    log: Log,
}

#[derive(Clone, Debug, thiserror::Error)]
#[error("entry {0} has been purged: the member needs a snapshot")]
struct Lacking(u64);

fn refusal(lacking: &OnceLock<Lacking>) -> Option<Rpc<StreamAppendResult<Group>>> {
    lacking.get().map(|lacking| Err(unreachable(lacking.clone())))
}

type Rpc<T> = Result<T, RPCError<Group>>;

fn unreachable(error: impl std::error::Error + 'static) -> RPCError<Group> {
    RPCError::Unreachable(Unreachable::new(&error))
}

impl Peer {
    fn client(&self, lane: Lane) -> RaftClient<Wire> {
        let addr = self.now_at();
        self.peers.expect(&addr, lane);
        self.peers.client(&addr, lane)
    }

    fn now_at(&self) -> String {
        self.peers.addr(self.target, &self.addr)
    }

    fn late(&self, action: RPCTypes, after: Duration) -> RPCError<Group> {
        RPCError::Timeout(Timeout { action, id: self.me, target: self.target, timeout: after })
    }

    async fn ask_for_vote(&self, request: VoteRequest<Group>, pre_vote: bool) -> Rpc<VoteResponse<Group>> {
        let message = wire::VoteRequest {
            to: self.target,
            vote: Some(put_vote(&request.vote)),
            last: request.last_log_id.as_ref().map(put_log_id),
            pre_vote,
            leadership_transfer: request.leadership_transfer,
        };
        let response = self.client(Lane::Control).vote(message).await;
        let response = response.map_err(unreachable)?.into_inner();
        self.peers.heard(&self.now_at(), Lane::Control);
        let vote = get_vote(response.vote).map_err(unreachable)?;
        Ok(VoteResponse::new(vote, response.last.map(get_log_id), response.granted))
    }

    async fn open_stream<S>(&self, input: S) -> Rpc<Answers>
    where
        S: Stream<Item = AppendEntriesRequest<Group>> + Send + 'static,
    {
        let sent = Arc::new(AtomicU64::new(0));
        let (to, count) = (self.target, sent.clone());
        let requests = input.map(move |request| {
            count.fetch_add(1, Ordering::Relaxed);
            put_append(to, &request)
        });
        let mut client = self.client(self.lane);
        let opened = timeout(SETUP_TIMEOUT, client.append(requests)).await;
        let opened = opened.map_err(|_| self.late(RPCTypes::AppendEntries, SETUP_TIMEOUT))?;
        Ok(Answers { stream: opened.map_err(unreachable)?.into_inner(), sent, received: 0 })
    }

    /// The requests up to one that would carry entries which have been purged meanwhile. Ended with an error, openraft
    /// looks anew at what the member needs: a snapshot.
    fn until_lacking<S>(
        &self,
        input: S,
    ) -> (impl Stream<Item = AppendEntriesRequest<Group>> + Send + Unpin + use<S>, Arc<OnceLock<Lacking>>)
    where
        S: Stream<Item = AppendEntriesRequest<Group>> + Send + Unpin + 'static,
    {
        let lacking = Arc::new(OnceLock::new());
        // A heartbeat says where the member is, wherever that is.
        let log = (self.lane == Lane::Entries).then(|| self.log.clone());
        let state = (input, log, lacking.clone());
        let complete = stream::unfold(state, |(mut input, log, lacking)| async move {
            let request = input.next().await?;
            let lacks = log.as_ref().is_some_and(|log| log.lacks_after(request.prev_log_id.as_ref()));
            if lacks && request.entries.is_empty() {
                let _ = lacking.set(Lacking(request.prev_log_id.map_or(0, |prev| prev.index + 1)));
                return None;
            }
            Some((request, (input, log, lacking)))
        });
        (Box::pin(complete), lacking)
    }

    /// The next answer; none after the last one.
    async fn next_answer(&self, answers: &mut Answers) -> Option<Rpc<StreamAppendResult<Group>>> {
        loop {
            match timeout(STALL, answers.stream.message()).await {
                Ok(Ok(Some(response))) => {
                    answers.received += 1;
                    self.peers.heard(&self.now_at(), self.lane);
                    return Some(get_answer(response).map_err(unreachable));
                }
                Ok(Ok(None)) => return None,
                Ok(Err(status)) => return Some(Err(unreachable(status))),
                Err(_) if answers.sent.load(Ordering::Relaxed) > answers.received => {
                    return Some(Err(self.late(RPCTypes::AppendEntries, STALL)));
                }
                Err(_) => {}
            }
        }
    }

    /// How many chunks of the snapshot the member has.
    async fn snapshot_progress(&self, header: &wire::SnapshotHeader) -> Rpc<u64> {
        let mut client = self.client(Lane::Snapshot);
        let answer = timeout(SETUP_TIMEOUT, client.snapshot_progress(header.clone())).await;
        let answer = answer.map_err(|_| self.late(RPCTypes::InstallSnapshot, SETUP_TIMEOUT))?;
        self.peers.heard(&self.now_at(), Lane::Snapshot);
        match answer {
            Ok(response) => Ok(response.into_inner().chunks),
            // An earlier version does not know the call.
            Err(status) if matches!(status.code(), Code::Unimplemented | Code::PermissionDenied) => Ok(0),
            Err(status) => Err(unreachable(status)),
        }
    }

    async fn send_snapshot(&self, vote: Vote, snapshot: SnapshotOf) -> Result<Vote, StreamingError<Group>> {
        let file = snapshot.snapshot.clone();
        let id = blocking(move || file.id()).await.and_then(|id| Ok(id?)).map_err(unreachable)?;
        let mut header = wire::SnapshotHeader {
            to: self.target,
            vote: Some(put_vote(&vote)),
            meta: Some(put_snapshot_meta(&snapshot.meta)),
            format: FORMAT,
            id: id.to_vec().into(),
            first_chunk: 0,
        };
        header.first_chunk = self.snapshot_progress(&header).await?;
        if header.first_chunk > 0 {
            tracing::info!(to = %self.now_at(), chunk = header.first_chunk, "goes on with a snapshot");
        }
        let failure = Arc::new(OnceLock::new());
        let parts = parts(self.snapshots.clone(), snapshot.snapshot, header, failure.clone());
        let response = self.client(Lane::Snapshot).install_snapshot(parts).await;
        // If this side could not read, that is why the other one was not satisfied.
        if let Some(error) = Arc::into_inner(failure).and_then(OnceLock::into_inner) {
            let error: std::io::Error = error;
            return Err(unreachable(error).into());
        }
        let response = response.map_err(unreachable)?.into_inner();
        self.peers.heard(&self.now_at(), Lane::Snapshot);
        Ok(get_vote(response.vote).map_err(unreachable)?)
    }
}

/// The answers of an append stream. They come in the order of the requests.
struct Answers {
    stream: tonic::Streaming<wire::AppendResponse>,
    sent: Arc<AtomicU64>,
    received: u64,
}

fn put_append(to: RaftId, request: &AppendEntriesRequest<Group>) -> wire::AppendRequest {
    wire::AppendRequest {
        to,
        vote: Some(put_vote(&request.vote)),
        previous: request.prev_log_id.as_ref().map(put_log_id),
        entries: request.entries.iter().map(put_entry).collect(),
        committed: request.leader_commit.as_ref().map(put_log_id),
    }
}

fn get_answer(response: wire::AppendResponse) -> Result<StreamAppendResult<Group>, Malformed> {
    use wire::append_response::Result as Wire;
    Ok(match response.result.ok_or(Malformed::missing("append result"))? {
        Wire::Accepted(accepted) => Ok(accepted.up_to.map(get_log_id)),
        Wire::Conflict(id) => Err(StreamAppendError::Conflict(get_log_id(id))),
        Wire::HigherVote(vote) => Err(StreamAppendError::HigherVote(get_vote(Some(vote))?)),
    })
}

/// The snapshot as it is sent: all of it is read, and what the member has already is left out. If it cannot be read, the
/// stream ends before its end.
fn parts(
    snapshots: Snapshots,
    file: Arc<SnapshotFile>,
    header: wire::SnapshotHeader,
    failure: Arc<OnceLock<std::io::Error>>,
) -> impl Stream<Item = wire::SnapshotPart> + Send + 'static {
    use wire::snapshot_part::Part;
    let part = |part| wire::SnapshotPart { part: Some(part) };
    let first_chunk = header.first_chunk;
    let mut checksum = Hasher::new();
    async_stream::stream! {
        yield part(Part::Header(header));
        let mut reader = match snapshots.reader(&file) {
            Ok(reader) => reader,
            Err(error) => return drop(failure.set(error.into())),
        };
        for chunks in 0.. {
            let chunk;
            (reader, chunk) = match next_chunk(reader).await {
                Ok(read) => read,
                Err(error) => return drop(failure.set(error)),
            };
            let Some(chunk) = chunk else {
                let checksum = Some(checksum.finalize());
                yield part(Part::End(wire::SnapshotEnd { chunks, checksum }));
                return;
            };
            checksum.update(&chunk);
            if chunks >= first_chunk {
                yield part(Part::Chunk(chunk.into()));
            }
        }
    }
}

async fn next_chunk(mut reader: Reader) -> std::io::Result<(Reader, Option<Vec<u8>>)> {
    blocking(move || {
        let chunk = reader.next()?;
        Ok((reader, chunk))
    })
    .await?
}

impl RaftNetworkV2<Group> for Peer {
    type SnapshotData = Arc<SnapshotFile>;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Group>,
        _: RPCOption,
    ) -> Rpc<AppendEntriesResponse<Group>> {
        let mut answers = self.open_stream(stream::iter([request])).await?;
        match self.next_answer(&mut answers).await {
            Some(answer) => Ok(answer?.into()),
            None => Err(unreachable(Status::unavailable("the stream ended without an answer"))),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _: RPCOption,
    ) -> BoxFuture<'s, Rpc<BoxStream<'s, Rpc<StreamAppendResult<Group>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<Group>> + OptionalSend + Unpin + 'static,
    {
        let peer = &*self;
        let (mut input, lacking) = peer.until_lacking(input);
        Box::pin(async move {
            // The pause before the next attempt at a peer that cannot be reached is made where requests come from, so
            // one is asked for before the stream is opened.
            let Some(first) = input.next().await else {
                return Ok(Box::pin(stream::iter(refusal(&lacking))) as BoxStream<'s, _>);
            };
            let answers = peer.open_stream(stream::iter([first]).chain(input)).await?;
            let answers = stream::unfold(Some((answers, lacking)), move |state| async move {
                let (mut answers, lacking) = state?;
                let answer = peer.next_answer(&mut answers).await;
                let answer = answer.or_else(|| refusal(&lacking))?;
                let goes_on = matches!(answer, Ok(Ok(_)));
                Some((answer, goes_on.then_some((answers, lacking))))
            });
            let answers: BoxStream<'s, _> = Box::pin(answers);
            Ok(answers)
        })
    }

    async fn vote(&mut self, request: VoteRequest<Group>, _: RPCOption) -> Rpc<VoteResponse<Group>> {
        self.ask_for_vote(request, false).await
    }

    async fn pre_vote(&mut self, request: VoteRequest<Group>, _: RPCOption) -> Rpc<VoteResponse<Group>> {
        self.ask_for_vote(request, true).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Group>, StreamingError<Group>> {
        tokio::select! {
            biased;
            vote = self.send_snapshot(vote, snapshot) => Ok(SnapshotResponse::new(vote?)),
            closed = cancel => Err(closed.into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Group>,
        _: RPCOption,
    ) -> Rpc<TransferLeaderResponse<Group>> {
        let message = wire::TransferLeaderRequest {
            to: self.target,
            from: Some(put_vote(request.from_leader())),
            last: request.last_log_id().map(put_log_id),
            successor: *request.to_node_id(),
        };
        let response = self.client(Lane::Control).transfer_leader(message).await;
        let refused = response.map_err(unreachable)?.into_inner().refused;
        self.peers.heard(&self.now_at(), Lane::Control);
        if refused.is_empty() { Ok(Ok(())) } else { Err(unreachable(Status::aborted(refused))) }
    }
}
