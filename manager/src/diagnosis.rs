//! Why a packet does not arrive: an operator asks, the nodes concerned say what they see, and the first step that is wrong
//! is named. See `docs/diagnosis.md`.
//!
//! Nodes are asked for their own tasks only. One that has its session with another manager is asked through that one.
//!
//! Invariant: whatever does not answer, a trace ends in bounded time; nothing runs while nobody traces.

mod ask;
mod board;
mod goal;
mod judge;
mod target;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{Stream, StreamExt as _};
use proto::model::NodeId;
use proto::network::questions_client::QuestionsClient;
use proto::network::{
    Answer, AnswerRequest, AnswerResponse, Question, QuestionsRequest, RelayRequest, RelayResponse,
    TraceRequest, TraceResponse, answer, diagnosis_server, question, questions_server,
};
use raft_store::Store;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use crate::dispatcher::Sessions;
use crate::managers::Managers;
use crate::peers::{self, Peers};
use board::{Board, Silence};

/// Traces at a time.
const TRACES: usize = 8;
/// How long a node may take to look at itself, and to send a probe.
const LOOK: Duration = Duration::from_secs(5);
const PROBE: Duration = Duration::from_secs(15);
/// What another manager may need beside.
const RELAYING: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub struct Diagnosis {
    node: NodeId,
    store: Store,
    sessions: Arc<Sessions>,
    peers: Peers,
    board: Arc<Board>,
    turns: Arc<Semaphore>,
}

impl Diagnosis {
    /// `node` is the one on which this manager runs.
    pub fn new(node: NodeId, store: Store, sessions: Arc<Sessions>, peers: Peers) -> Self {
        Self { node, store, sessions, peers, board: Arc::default(), turns: Arc::new(Semaphore::new(TRACES)) }
    }

    /// What a node says of a task of its own, or why nothing.
    async fn ask(&self, node: &NodeId, task: &str, kind: question::Kind) -> Result<answer::Kind, String> {
        let patience = patience(&kind);
        let question = Question { id: 0, task_id: task.to_owned(), kind: Some(kind) };
        let answer = match self.board.ask(node, question.clone(), patience).await {
            Err(Silence::Absent) => self.relay(node, question, patience).await?,
            answer => answer.map_err(|silence| words(&silence, patience))?,
        };
        match answer {
            Answer { kind: Some(kind), .. } => Ok(kind),
            Answer { refusal, .. } => Err(refusal),
        }
    }

    /// Whichever of the other managers serves the node.
    async fn relay(&self, node: &NodeId, question: Question, patience: Duration) -> Result<Answer, String> {
        let others = Managers::of(&self.store).other_addrs(&self.node);
        let relays = others.into_iter().map(|addr| {
            let request = RelayRequest { node_id: node.to_string(), question: Some(question.clone()) };
            let channel = self.peers.channel(&addr);
            async move {
                let call = async { QuestionsClient::new(channel?).relay(request).await };
                let answer = tokio::time::timeout(patience + RELAYING, call).await;
                answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("")))
            }
        });
        let mut relays: FuturesUnordered<_> = relays.collect();
        let mut why = "it has no session with any manager that answers".to_owned();
        while let Some(answer) = relays.next().await {
            match answer {
                Ok(answer) => {
                    return answer.into_inner().answer.ok_or_else(|| words(&Silence::Late, patience));
                }
                Err(status) if status.code() == tonic::Code::DeadlineExceeded => {
                    why = words(&Silence::Late, patience);
                }
                Err(status) => tracing::debug!(%node, %status, "another manager does not relay a question"),
            }
        }
        Err(why)
    }
}

fn patience(kind: &question::Kind) -> Duration {
    match kind {
        question::Kind::Probe(_) => PROBE,
        _ => LOOK,
    }
}

fn words(silence: &Silence, patience: Duration) -> String {
    match silence {
        Silence::Absent => "it has no session with any manager that answers".into(),
        Silence::Busy => "it has too many questions to answer already".into(),
        Silence::Late => format!("it did not answer within {} s", patience.as_secs()),
    }
}

#[tonic::async_trait]
impl diagnosis_server::Diagnosis for Diagnosis {
    async fn trace(&self, request: Request<TraceRequest>) -> Result<Response<TraceResponse>, Status> {
        let busy = || Status::resource_exhausted(format!("{TRACES} traces are under way: try again"));
        let _turn = self.turns.try_acquire().map_err(|_| busy())?;
        Ok(Response::new(Box::pin(ask::trace(self, request.into_inner())).await?))
    }
}

type QuestionStream = Pin<Box<dyn Stream<Item = Result<Question, Status>> + Send>>;

#[tonic::async_trait]
impl questions_server::Questions for Diagnosis {
    type WatchStream = QuestionStream;

    async fn watch(&self, request: Request<QuestionsRequest>) -> Result<Response<QuestionStream>, Status> {
        let node = peers::node_id(&request)?;
        let ended = self.sessions.find(&node, &request.get_ref().session_id)?;
        let mut stream = self.board.open(node);
        Ok(Response::new(Box::pin(async_stream::stream! {
            while let Some(Some(question)) = ended.run_until_cancelled(stream.next()).await {
                yield Ok(question);
            }
            yield Err(Status::unavailable("the session has ended: register again"));
        })))
    }

    async fn answer(&self, request: Request<AnswerRequest>) -> Result<Response<AnswerResponse>, Status> {
        let node = peers::node_id(&request)?;
        let AnswerRequest { session_id, question_id, answer } = request.into_inner();
        self.sessions.find(&node, &session_id)?;
        // Whoever asked may have given up.
        self.board.answer(&node, question_id, answer.unwrap_or_default());
        Ok(Response::new(AnswerResponse {}))
    }

    async fn relay(&self, request: Request<RelayRequest>) -> Result<Response<RelayResponse>, Status> {
        let RelayRequest { node_id, question } = request.into_inner();
        let (node, question) = (NodeId::from(node_id), question.unwrap_or_default());
        let kind =
            question.kind.as_ref().ok_or_else(|| Status::invalid_argument("question.kind is missing"))?;
        let patience = patience(kind);
        match self.board.ask(&node, question, patience).await {
            Ok(answer) => Ok(Response::new(RelayResponse { answer: Some(answer) })),
            Err(Silence::Absent) => Err(Status::not_found(format!("node {node} has no session here"))),
            Err(Silence::Late) => Err(Status::deadline_exceeded(words(&Silence::Late, patience))),
            Err(Silence::Busy) => Err(Status::resource_exhausted(words(&Silence::Busy, patience))),
        }
    }
}
