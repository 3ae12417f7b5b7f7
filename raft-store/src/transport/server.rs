//! The receiving side.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use futures_util::future::try_join_all;
use futures_util::{Stream, StreamExt};
use openraft::entry::RaftEntry as _;
use openraft::raft::{AppendEntriesRequest, StreamAppendError, TransferLeaderRequest, VoteRequest};
use openraft::storage::Snapshot;
use proto::model::NodeId;
use proto::raft as wire;
use proto::raft::raft_server;
use tonic::{Extensions, Request, Response, Status, Streaming};

use super::admission;
use super::incoming::{self, Filling};
use crate::RaftId;
use crate::codec::Malformed;
use crate::codec::raft::{
    get_entry, get_log_id, get_snapshot_meta, get_vote, put_log_id, put_member, put_vote,
};
use crate::codec::violation::put_outcome;
use crate::membership::{self, Change};
use crate::read;
use crate::replicated::Replicated;
use crate::snapshot::{FORMAT, SnapshotFile};
use crate::state_machine::Outcome;
use crate::types::{Address, Entry, Group};

/// Tells by the extensions of a request which node has sent it.
pub(crate) type Caller = Arc<dyn Fn(&Extensions) -> Option<NodeId> + Send + Sync>;

/// Serves the other members. A store in memory has none and refuses.
#[derive(Clone)]
pub struct Service {
    pub(crate) member: Option<Arc<Replicated>>,
    pub(crate) caller: Caller,
}

type Reply<T> = Result<Response<T>, Status>;

impl Service {
    fn member(&self) -> Result<&Arc<Replicated>, Status> {
        self.member.as_ref().ok_or_else(|| Status::unimplemented("this store is not replicated"))
    }

    /// The member, if the message is for it and comes from whom it says it does.
    fn addressed(
        &self,
        to: RaftId,
        vote: Option<&proto::store::Vote>,
        extensions: &Extensions,
    ) -> Result<&Arc<Replicated>, Status> {
        let member = self.member()?;
        check_addressee(to, member.raft_id)?;
        check_sender(member, vote, (self.caller)(extensions))?;
        Ok(member)
    }
}

/// Who votes for a candidate or leader is that one itself: no member passes on what another one says.
fn check_sender(
    member: &Replicated,
    vote: Option<&proto::store::Vote>,
    caller: Option<NodeId>,
) -> Result<(), Status> {
    let claimed = vote.ok_or(Malformed::missing("vote"))?.candidate;
    admission::admit(member, caller, claimed).map_err(|refusal| {
        tracing::debug!(%refusal, "refused a message of Raft");
        refusal.into()
    })
}

fn check_addressee(to: RaftId, me: RaftId) -> Result<(), Status> {
    if to == me {
        return Ok(());
    }
    Err(Status::not_found(format!("member {to:x} is not here any more: this is {me:x}")))
}

impl From<Malformed> for Status {
    fn from(malformed: Malformed) -> Self {
        Self::invalid_argument(malformed.to_string())
    }
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(error.to_string())
}

fn not_leader() -> wire::NotLeader {
    wire::NotLeader {}
}

#[tonic::async_trait]
impl raft_server::Raft for Service {
    type AppendStream = Pin<Box<dyn Stream<Item = Result<wire::AppendResponse, Status>> + Send>>;

    async fn identify(&self, _: Request<wire::IdentifyRequest>) -> Reply<wire::IdentifyResponse> {
        let member = self.member()?;
        let node_id = member.address.node_id.clone();
        Ok(Response::new(wire::IdentifyResponse { raft_id: member.raft_id, node_id }))
    }

    async fn append(&self, request: Request<Streaming<wire::AppendRequest>>) -> Reply<Self::AppendStream> {
        let member = self.member()?.clone();
        let caller = (self.caller)(request.extensions());
        let failure = Arc::new(OnceLock::new());
        let input = appends(request.into_inner(), member.clone(), caller, failure.clone());
        let answers = member.raft.stream_append(input);
        let stream = async_stream::stream! {
            let mut answers = std::pin::pin!(answers);
            while let Some(answer) = answers.next().await {
                yield answer.map(put_answer).map_err(stopped);
            }
            if let Some(status) = failure.get() {
                yield Err(Status::clone(status));
            }
        };
        Ok(Response::new(Box::pin(stream)))
    }

    async fn vote(&self, request: Request<wire::VoteRequest>) -> Reply<wire::VoteResponse> {
        let (_, extensions, message) = request.into_parts();
        let raft = &self.addressed(message.to, message.vote.as_ref(), &extensions)?.raft;
        let mut request = VoteRequest::new(get_vote(message.vote)?, message.last.map(get_log_id));
        request.leadership_transfer = message.leadership_transfer;
        let response = if message.pre_vote { raft.pre_vote(request).await } else { raft.vote(request).await };
        let response = response.map_err(stopped)?;
        Ok(Response::new(wire::VoteResponse {
            vote: Some(put_vote(&response.vote)),
            granted: response.vote_granted,
            last: response.last_log_id.as_ref().map(put_log_id),
        }))
    }

    async fn snapshot_progress(
        &self,
        request: Request<wire::SnapshotHeader>,
    ) -> Reply<wire::SnapshotProgressResponse> {
        let (_, extensions, header) = request.into_parts();
        let member = self.addressed(header.to, header.vote.as_ref(), &extensions)?;
        let chunks = member.incoming.progress(&header.id).await?;
        Ok(Response::new(wire::SnapshotProgressResponse { chunks }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<wire::SnapshotPart>>,
    ) -> Reply<wire::SnapshotResponse> {
        use wire::snapshot_part::Part;
        let (_, extensions, mut parts) = request.into_parts();
        let Some(wire::SnapshotPart { part: Some(Part::Header(header)) }) = parts.message().await? else {
            return Err(Malformed::missing("snapshot header").into());
        };
        let member = self.addressed(header.to, header.vote.as_ref(), &extensions)?;
        if header.format != FORMAT {
            let error = format!("snapshot format {} is not known here, {FORMAT} is", header.format);
            return Err(Status::failed_precondition(error));
        }
        let vote = get_vote(header.vote)?;
        let meta = get_snapshot_meta(header.meta.ok_or(Malformed::missing("snapshot.meta"))?)?;
        let last = meta.last_log_id.map_or(0, |last| last.index);
        let filling = member.incoming.begin(&member.snapshots, &header.id, last)?;
        let received = receive(&filling, header.first_chunk, parts).await;
        if !received.as_ref().is_err_and(Broken::can_go_on) {
            member.incoming.end(&filling);
        }
        let snapshot = Arc::new(received?);
        let response = member.raft.install_full_snapshot(vote, Snapshot { meta, snapshot }).await;
        let vote = response.map_err(stopped)?.vote;
        Ok(Response::new(wire::SnapshotResponse { vote: Some(put_vote(&vote)) }))
    }

    async fn transfer_leader(
        &self,
        request: Request<wire::TransferLeaderRequest>,
    ) -> Reply<wire::TransferLeaderResponse> {
        let (_, extensions, message) = request.into_parts();
        let member = self.addressed(message.to, message.from.as_ref(), &extensions)?;
        let last = message.last.map(get_log_id);
        let request = TransferLeaderRequest::new(get_vote(message.from)?, message.successor, last);
        let response = member.raft.handle_transfer_leader(request).await.map_err(stopped)?;
        let refused = response.err().map(|error| error.to_string()).unwrap_or_default();
        Ok(Response::new(wire::TransferLeaderResponse { refused }))
    }

    async fn propose(&self, request: Request<wire::ProposeRequest>) -> Reply<wire::ProposeResponse> {
        let member = self.member()?;
        let wire::ProposeRequest { proposal, more } = request.into_inner();
        let all = std::iter::once(proposal).chain(more).map(|proposal| member.propose_for_another(proposal));
        let mut answers = try_join_all(all).await?.into_iter().map(put_proposed);
        let first = answers.next().expect("one was asked for");
        Ok(Response::new(wire::ProposeResponse { more: answers.collect(), ..first }))
    }

    async fn change_membership(
        &self,
        request: Request<wire::ChangeMembershipRequest>,
    ) -> Reply<wire::ChangeMembershipResponse> {
        use wire::change_membership_response::Result as Wire;
        let member = self.member()?;
        let change = Change::try_from(request.into_inner())?;
        let result = match membership::lead::lead(member, change).await {
            Ok(done) => Wire::Done(done),
            Err(membership::Error::NotLeader) => Wire::NotLeader(not_leader()),
            Err(error) => Wire::Refused(error.to_string()),
        };
        Ok(Response::new(wire::ChangeMembershipResponse { result: Some(result) }))
    }

    async fn read_index(&self, _: Request<wire::ReadIndexRequest>) -> Reply<wire::ReadIndexResponse> {
        use wire::read_index_response::Result as Wire;
        let confirmed = read::lead(self.member()?).await;
        let result = confirmed.map_or_else(|| Wire::NotLeader(not_leader()), Wire::Index);
        Ok(Response::new(wire::ReadIndexResponse { result: Some(result) }))
    }

    async fn members(&self, _: Request<wire::MembersRequest>) -> Reply<wire::MembersResponse> {
        let member = self.member()?;
        if member.leadership.borrow().leader != Some(member.raft_id) {
            return Ok(Response::new(wire::MembersResponse { members: Vec::new() }));
        }
        let members = member.members_now().into_iter().map(|m| wire::MemberStatus {
            voter: m.voter,
            leader: m.leader,
            reachable: m.reachability == proto::model::Reachability::Reachable,
            lag: m.lag.unwrap_or_default(),
            member: Some(put_member(m.raft_id, &Address { node_id: m.node_id.into(), addr: m.addr })),
        });
        Ok(Response::new(wire::MembersResponse { members: members.collect() }))
    }
}

/// The requests of a stream, up to the first one that is refused.
fn appends(
    mut messages: Streaming<wire::AppendRequest>,
    member: Arc<Replicated>,
    caller: Option<NodeId>,
    failure: Arc<OnceLock<Status>>,
) -> impl Stream<Item = AppendEntriesRequest<Group>> + Send + 'static {
    async_stream::stream! {
        // An error here means that the leader or the connection is gone: so is whoever would read about it.
        while let Ok(Some(message)) = messages.message().await {
            let admitted = check_sender(&member, message.vote.as_ref(), caller.clone());
            match admitted.and_then(|()| get_append(message, member.raft_id)) {
                Ok(request) => {
                    member.leader_heard.now();
                    yield request;
                }
                Err(status) => {
                    let _ = failure.set(status);
                    break;
                }
            }
        }
    }
}

fn get_append(message: wire::AppendRequest, me: RaftId) -> Result<AppendEntriesRequest<Group>, Status> {
    check_addressee(message.to, me)?;
    let entries: Vec<Entry> = message.entries.into_iter().map(get_entry).collect::<Result<_, _>>()?;
    let prev_log_id = message.previous.map(get_log_id);
    let consecutive = entries.windows(2).all(|pair| pair[0].index() + 1 == pair[1].index());
    let after = prev_log_id.map_or(0, |previous| previous.index + 1);
    if !consecutive || entries.first().is_some_and(|first| first.index() != after) {
        return Err(Status::invalid_argument("entries are not consecutive"));
    }
    Ok(AppendEntriesRequest {
        vote: get_vote(message.vote)?,
        prev_log_id,
        entries,
        leader_commit: message.committed.map(get_log_id),
    })
}

fn put_proposed(outcome: Option<Outcome>) -> wire::ProposeResponse {
    let not_leader = || wire::propose_response::Outcome::NotLeader(not_leader());
    outcome.map_or_else(
        || wire::ProposeResponse { outcome: Some(not_leader()), ..Default::default() },
        put_outcome,
    )
}

fn put_answer(answer: openraft::raft::StreamAppendResult<Group>) -> wire::AppendResponse {
    use wire::append_response::Result as Wire;
    let result = match answer {
        Ok(up_to) => Wire::Accepted(wire::Accepted { up_to: up_to.as_ref().map(put_log_id) }),
        Err(StreamAppendError::Conflict(id)) => Wire::Conflict(put_log_id(&id)),
        Err(StreamAppendError::HigherVote(vote)) => Wire::HigherVote(put_vote(&vote)),
    };
    wire::AppendResponse { result: Some(result) }
}

/// Writes the chunks to a file of our own.
async fn receive(
    filling: &Filling,
    first_chunk: u64,
    mut parts: Streaming<wire::SnapshotPart>,
) -> Result<SnapshotFile, Broken> {
    use wire::snapshot_part::Part;
    for number in first_chunk.. {
        match parts.message().await?.and_then(|part| part.part) {
            Some(Part::Chunk(chunk)) => filling.push(number, chunk).await?,
            Some(Part::End(end)) => return Ok(filling.finish(end.chunks, end.checksum).await?),
            Some(Part::Header(_)) | None => break,
        }
    }
    Err(Broken::Stream(Status::invalid_argument("the snapshot is incomplete")))
}

/// Why a call brought no whole snapshot.
enum Broken {
    Stream(Status),
    File(incoming::Error),
}

impl Broken {
    /// What has come is as good as before.
    fn can_go_on(&self) -> bool {
        matches!(self, Self::Stream(_) | Self::File(incoming::Error::Gap { .. }))
    }
}

impl From<Status> for Broken {
    fn from(status: Status) -> Self {
        Self::Stream(status)
    }
}

impl From<incoming::Error> for Broken {
    fn from(error: incoming::Error) -> Self {
        Self::File(error)
    }
}

impl From<Broken> for Status {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Stream(status) => status,
            Broken::File(error) => error.into(),
        }
    }
}

impl From<incoming::Error> for Status {
    fn from(error: incoming::Error) -> Self {
        match error {
            incoming::Error::Gap { .. } | incoming::Error::Over => Self::aborted(error.to_string()),
            incoming::Error::Incomplete => Self::invalid_argument(error.to_string()),
            incoming::Error::File(error) => Self::internal(std::io::Error::from(error).to_string()),
            incoming::Error::Thread(error) => Self::internal(error.to_string()),
        }
    }
}
