//! A manager for tests: serves what it is told to, and remembers what it was told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use futures_util::{Stream, StreamExt};
use proto::network::directory_server::{Directory, DirectoryServer};
use proto::network::network_update::Kind;
use proto::network::questions_server::{Questions, QuestionsServer};
use proto::network::{
    AnswerRequest, AnswerResponse, ConfirmRequest, ConfirmResponse, Confirmed, DrainRequest, DrainResponse,
    Encryption, Endpoint, KeysReport, Known, Member, Moment, NetworkDirectory, NetworkUpdate, Question,
    QuestionsRequest, RelayRequest, RelayResponse, ReportKeysRequest, ReportKeysResponse, WatchRequest,
    WatchResponse,
};
use proto::wire;
use proto::wire::assignments_message::Type;
use proto::wire::dispatcher_server::{Dispatcher, DispatcherServer};
use proto::wire::log_broker_server::{LogBroker, LogBrokerServer};
use proto::wire::{assignment::Item, assignment_change::AssignmentAction};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{oneshot, watch};
use tokio_stream::wrappers::{TcpListenerStream, WatchStream};
use tonic::{Request, Response, Status, Streaming};

type Sending<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Dropped with its connections cut, like a manager that died.
pub struct Manager {
    pub addr: SocketAddr,
    pub told: Arc<Told>,
    runtime: Option<Runtime>,
}

pub struct Told {
    name: &'static str,
    tasks: watch::Sender<Vec<wire::Task>>,
    endpoints: watch::Sender<Vec<Endpoint>>,
    /// Tasks are not let stop while this holds.
    pub holds_drains: watch::Sender<bool>,
    /// Tasks that asked whether they may stop.
    pub drains: watch::Sender<Vec<String>>,
    pub confirmed: watch::Sender<Vec<Confirmed>>,
    /// Of every network, with this node as it has reported itself.
    encryption: watch::Sender<Option<Encryption>>,
    pub keys_reports: watch::Sender<Vec<KeysReport>>,
    /// The directory is held back.
    pub silent_directory: AtomicBool,
    /// Heartbeats are not answered.
    pub deaf: AtomicBool,
    /// The node is no part of the swarm.
    pub dismisses: AtomicBool,
    /// Reports are refused.
    pub refuses_reports: AtomicBool,
    /// The next difference does not follow from what was sent.
    pub skip: AtomicBool,
    managers: watch::Sender<Vec<wire::WeightedPeer>>,
    subscriptions: watch::Sender<Option<wire::SubscriptionMessage>>,
    pub sessions: watch::Sender<usize>,
    /// Up to which index each directory stream was told that the node knows.
    pub known: watch::Sender<Vec<u64>>,
    /// What each of them was asked to go on from.
    pub asked: watch::Sender<Vec<Vec<Known>>>,
    /// At which index the directory tells things.
    pub index: AtomicU64,
    pub beats: AtomicUsize,
    /// Calls that reported something.
    pub calls: watch::Sender<usize>,
    pub reports: watch::Sender<BTreeMap<String, Vec<wire::TaskStatus>>>,
    pub published: watch::Sender<Vec<wire::PublishLogsMessage>>,
    pub question: watch::Sender<Option<Question>>,
    pub answers: watch::Sender<Vec<AnswerRequest>>,
}

impl Manager {
    pub async fn start(name: &'static str) -> Self {
        let told = Arc::new(Told {
            name,
            tasks: watch::channel(Vec::new()).0,
            endpoints: watch::channel(Vec::new()).0,
            holds_drains: watch::channel(false).0,
            drains: watch::channel(Vec::new()).0,
            confirmed: watch::channel(Vec::new()).0,
            encryption: watch::channel(None).0,
            keys_reports: watch::channel(Vec::new()).0,
            silent_directory: AtomicBool::new(false),
            deaf: AtomicBool::new(false),
            dismisses: AtomicBool::new(false),
            refuses_reports: AtomicBool::new(false),
            skip: AtomicBool::new(false),
            managers: watch::channel(Vec::new()).0,
            subscriptions: watch::channel(None).0,
            sessions: watch::channel(0).0,
            asked: watch::Sender::default(),
            known: watch::channel(Vec::new()).0,
            index: AtomicU64::new(1),
            beats: AtomicUsize::new(0),
            calls: watch::channel(0).0,
            reports: watch::channel(BTreeMap::new()).0,
            published: watch::channel(Vec::new()).0,
            question: watch::channel(None).0,
            answers: watch::channel(Vec::new()).0,
        });
        let router = tonic::transport::Server::builder()
            .add_service(DispatcherServer::from_arc(told.clone()))
            .add_service(DirectoryServer::from_arc(told.clone()))
            .add_service(QuestionsServer::from_arc(told.clone()))
            .add_service(LogBrokerServer::from_arc(told.clone()));
        // Of its own, so that its connections end with it.
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (bound, addr) = oneshot::channel();
        runtime.spawn(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            bound.send(listener.local_addr().unwrap()).unwrap();
            router.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
        });
        let addr = addr.await.unwrap();
        Self { addr, told, runtime: Some(runtime) }
    }

    pub fn assign(&self, tasks: Vec<wire::Task>) {
        self.told.tasks.send_replace(tasks);
    }

    pub fn endpoints(&self, endpoints: Vec<Endpoint>) {
        self.told.endpoints.send_replace(endpoints);
    }

    pub fn encryption(&self, encryption: Encryption) {
        self.told.encryption.send_replace(Some(encryption));
    }

    pub fn name_managers(&self, managers: &[&Self]) {
        let peer = |manager: &&Self| {
            let peer = wire::Peer { node_id: manager.told.name.into(), addr: manager.addr.to_string() };
            wire::WeightedPeer { peer: Some(peer), weight: 1 }
        };
        self.told.managers.send_replace(managers.iter().map(peer).collect());
    }

    pub fn subscribe(&self, subscription: wire::SubscriptionMessage) {
        self.told.subscriptions.send_replace(Some(subscription));
    }

    /// Everything that was reported of a task.
    pub fn states(&self, task: &str) -> Vec<wire::TaskState> {
        let reports = self.told.reports.borrow();
        reports.get(task).into_iter().flatten().map(wire::TaskStatus::state).collect()
    }

    /// The first report of `task` in `state`.
    pub async fn reported(&self, task: &str, state: wire::TaskState) -> wire::TaskStatus {
        let found = |reports: &BTreeMap<String, Vec<wire::TaskStatus>>| {
            reports.get(task).into_iter().flatten().find(|status| status.state() == state).cloned()
        };
        let what = format!("report of {task} as {state:?}, there is {:?}", self.states(task));
        super::lab::seen(&self.told.reports, &what, found).await
    }

    pub async fn sessions(&self, count: usize) {
        super::lab::seen(&self.told.sessions, "session", |sessions| (*sessions >= count).then_some(())).await;
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Told {
    fn node(&self) -> wire::Node {
        wire::Node { id: "n1".into(), spec: Some(wire::NodeSpec::default()), ..Default::default() }
    }
}

/// What the directory stream says now: the networks of the assigned tasks.
fn directory(
    tasks: &[wire::Task],
    endpoints: &[Endpoint],
    encryption: &Option<Encryption>,
    index: u64,
) -> WatchResponse {
    let attachments = tasks.iter().flat_map(|task| &task.networks);
    let ids: BTreeSet<String> =
        attachments.filter_map(|attachment| Some(attachment.network.as_ref()?.id.clone())).collect();
    let update = |network_id| NetworkUpdate {
        network_id,
        index,
        kind: Some(Kind::Complete(NetworkDirectory {
            endpoints: endpoints.to_vec(),
            encryption: encryption.clone(),
            ..Default::default()
        })),
        confirm: endpoints.iter().any(|endpoint| !endpoint.ready),
    };
    let moment = Some(Moment { index, mark: 1 });
    WatchResponse { updates: ids.into_iter().map(update).collect(), moment }
}

fn change(action: AssignmentAction, task: wire::Task) -> wire::AssignmentChange {
    let assignment = Some(wire::Assignment { item: Some(Item::Task(task)) });
    wire::AssignmentChange { assignment, action: action.into() }
}

#[tonic::async_trait]
impl Dispatcher for Told {
    type SessionStream = Sending<wire::SessionMessage>;

    async fn session(
        &self,
        request: Request<wire::SessionRequest>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        assert!(request.into_inner().description.unwrap().resources.unwrap().nano_cpus > 0);
        self.sessions.send_modify(|sessions| *sessions += 1);
        if self.dismisses.load(Ordering::Relaxed) {
            return Err(Status::permission_denied("node n1 is not part of this swarm: it was removed"));
        }
        let (node, name) = (self.node(), self.name);
        let messages = WatchStream::new(self.managers.subscribe()).map(move |managers| {
            Ok(wire::SessionMessage {
                session_id: format!("session-{name}"),
                node: Some(node.clone()),
                managers,
                root_ca: b"root".to_vec(),
                ..Default::default()
            })
        });
        Ok(Response::new(messages.boxed()))
    }

    async fn heartbeat(
        &self,
        request: Request<wire::HeartbeatRequest>,
    ) -> Result<Response<wire::HeartbeatResponse>, Status> {
        assert_eq!(request.into_inner().session_id, format!("session-{}", self.name));
        if self.deaf.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        self.beats.fetch_add(1, Ordering::Relaxed);
        let period = prost_types::Duration { seconds: 0, nanos: 100_000_000 };
        Ok(Response::new(wire::HeartbeatResponse { period: Some(period) }))
    }

    async fn update_task_status(
        &self,
        request: Request<wire::UpdateTaskStatusRequest>,
    ) -> Result<Response<wire::UpdateTaskStatusResponse>, Status> {
        if self.refuses_reports.load(Ordering::Relaxed) {
            return Err(Status::unavailable("no quorum"));
        }
        self.calls.send_modify(|calls| *calls += 1);
        self.reports.send_modify(|reports| {
            for update in request.into_inner().updates {
                reports.entry(update.task_id).or_default().push(update.status.unwrap());
            }
        });
        Ok(Response::new(wire::UpdateTaskStatusResponse {}))
    }

    type AssignmentsStream = Sending<wire::AssignmentsMessage>;

    async fn assignments(
        &self,
        _: Request<wire::AssignmentsRequest>,
    ) -> Result<Response<Self::AssignmentsStream>, Status> {
        let mut before: Option<Vec<wire::Task>> = None;
        let mut number = 0;
        let skip = self.skip.load(Ordering::Relaxed);
        let messages = WatchStream::new(self.tasks.subscribe()).map(move |tasks| {
            let gone = before.iter().flatten().filter(|old| !tasks.iter().any(|task| task.id == old.id));
            let gone = gone.cloned().map(|task| change(AssignmentAction::Remove, task));
            let updates = tasks.iter().cloned().map(|task| change(AssignmentAction::Update, task));
            let kind = if before.is_none() { Type::Complete } else { Type::Incremental };
            let applies_to = if skip && before.is_some() { "elsewhere".into() } else { number.to_string() };
            let changes = updates.chain(gone).collect();
            number += 1;
            before = Some(tasks);
            Ok(wire::AssignmentsMessage {
                r#type: kind.into(),
                applies_to,
                results_in: number.to_string(),
                changes,
            })
        });
        Ok(Response::new(messages.boxed()))
    }
}

#[tonic::async_trait]
impl Directory for Told {
    type WatchStream = Sending<WatchResponse>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let WatchRequest { index, known, .. } = request.into_inner();
        self.asked.send_modify(|asked| asked.push(known));
        self.known.send_modify(|known| known.push(index));
        if self.silent_directory.load(Ordering::Relaxed) {
            return Ok(Response::new(futures_util::stream::pending().boxed()));
        }
        let (tasks, endpoints) = (self.tasks.subscribe(), self.endpoints.subscribe());
        let encryption = self.encryption.subscribe();
        let index = self.index.load(Ordering::Relaxed);
        let first = directory(&tasks.borrow(), &endpoints.borrow(), &encryption.borrow(), index);
        let (by_task, by_endpoint, by_key) = (tasks.clone(), endpoints.clone(), encryption.clone());
        let changes = futures_util::stream::select(
            WatchStream::from_changes(tasks).map(|_| ()),
            WatchStream::from_changes(endpoints).map(|_| ()),
        );
        let changes =
            futures_util::stream::select(changes, WatchStream::from_changes(encryption).map(|_| ()));
        let later = changes
            .map(move |()| directory(&by_task.borrow(), &by_endpoint.borrow(), &by_key.borrow(), index));
        Ok(Response::new(futures_util::stream::iter([first]).chain(later).map(Ok).boxed()))
    }

    async fn confirm(&self, request: Request<ConfirmRequest>) -> Result<Response<ConfirmResponse>, Status> {
        self.confirmed.send_modify(|confirmed| confirmed.extend(request.into_inner().confirmed));
        Ok(Response::new(ConfirmResponse {}))
    }

    async fn drain(&self, request: Request<DrainRequest>) -> Result<Response<DrainResponse>, Status> {
        self.drains.send_modify(|drains| drains.push(request.into_inner().task_id));
        self.holds_drains.subscribe().wait_for(|holds| !holds).await.unwrap();
        Ok(Response::new(DrainResponse {}))
    }

    async fn report_keys(
        &self,
        request: Request<ReportKeysRequest>,
    ) -> Result<Response<ReportKeysResponse>, Status> {
        let ReportKeysRequest { session_id, reports, .. } = request.into_inner();
        assert_eq!(session_id, format!("session-{}", self.name));
        for report in &reports {
            let member = Member {
                node_id: "n1".into(),
                vtep: "127.0.0.1".into(),
                incarnation: report.incarnation.clone(),
                ..Default::default()
            };
            self.encryption.send_if_modified(|encryption| {
                let Some(encryption) = encryption else { return false };
                if encryption.members.contains(&member) {
                    return false;
                }
                encryption.members.retain(|known| known.node_id != member.node_id);
                encryption.members.push(member.clone());
                true
            });
        }
        self.keys_reports.send_modify(|all| all.extend(reports));
        Ok(Response::new(ReportKeysResponse {}))
    }
}

#[tonic::async_trait]
impl LogBroker for Told {
    type ListenSubscriptionsStream = Sending<wire::SubscriptionMessage>;

    async fn listen_subscriptions(
        &self,
        _: Request<wire::ListenSubscriptionsRequest>,
    ) -> Result<Response<Self::ListenSubscriptionsStream>, Status> {
        let messages = WatchStream::new(self.subscriptions.subscribe());
        Ok(Response::new(messages.filter_map(|message| async { message.map(Ok) }).boxed()))
    }

    async fn publish_logs(
        &self,
        request: Request<Streaming<wire::PublishLogsMessage>>,
    ) -> Result<Response<wire::PublishLogsResponse>, Status> {
        let mut messages = request.into_inner();
        while let Some(message) = messages.message().await? {
            self.published.send_modify(|published| published.push(message));
        }
        Ok(Response::new(wire::PublishLogsResponse {}))
    }
}

#[tonic::async_trait]
impl Questions for Told {
    type WatchStream = Sending<Question>;

    async fn watch(&self, request: Request<QuestionsRequest>) -> Result<Response<Self::WatchStream>, Status> {
        assert_eq!(request.into_inner().session_id, format!("session-{}", self.name));
        let questions = WatchStream::new(self.question.subscribe());
        Ok(Response::new(questions.filter_map(|question| async { question.map(Ok) }).boxed()))
    }

    async fn answer(&self, request: Request<AnswerRequest>) -> Result<Response<AnswerResponse>, Status> {
        self.answers.send_modify(|answers| answers.push(request.into_inner()));
        Ok(Response::new(AnswerResponse {}))
    }

    async fn relay(&self, _: Request<RelayRequest>) -> Result<Response<RelayResponse>, Status> {
        Err(Status::unimplemented("managers ask that of each other"))
    }
}
