//! One session with one manager, from the first message to the first failure.
//!
//! A session is several streams that live and die together: the session itself, assignments, the directory, log
//! subscriptions, with heartbeats and status reports beside them. Whatever fails ends all; the next session then
//! tells everything anew. Tasks do not notice.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::time::Duration;

use proto::model::{Node, TlsInfo};
use proto::network::directory_client::DirectoryClient;
use proto::network::{KeysReport, ReportKeysRequest};
use proto::wire::dispatcher_client::DispatcherClient;
use proto::wire::{AssignmentsRequest, HeartbeatRequest, SessionMessage, SessionRequest};
use tokio::sync::watch;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use super::assignments::{self, Sequence};
use super::{Parts, drains, reporter};
use crate::description::with_routes;
use crate::diagnosis;
use crate::network::{DirectoryError, Underlay};

/// From dialing to the first message of the session.
const ESTABLISH: Duration = Duration::from_secs(5);
/// Docker's default, until the manager tells another.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Bounds of a wait for the answer to a heartbeat; between them it is half of the period, so that a silent manager
/// is left before the others take this node for dead.
const SILENCE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// Sets of assignments may be larger than tonic's default of 4 MiB.
const MESSAGE_BYTES: usize = 64 << 20;
/// UDP port assigned to VXLAN (RFC 7348).
const VXLAN_PORT: u16 = 4789;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot dial")]
    Dial(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("cannot find the way to it")]
    Route(#[source] std::io::Error),
    #[error("this node has moved from {from} to {to}")]
    Moved { from: IpAddr, to: IpAddr },
    #[error("{call}: {reason}")]
    Call { call: &'static str, code: Code, reason: String },
    #[error("the manager ended {0}")]
    Ended(&'static str),
    #[error("{0} was not answered within {1:?}")]
    Silent(&'static str, Duration),
    #[error("{0} of the session message is missing")]
    Missing(&'static str),
    #[error("session message")]
    Message(#[from] proto::convert::Error),
    #[error(transparent)]
    Assignments(#[from] assignments::Error),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error("this node has another certificate to tell of")]
    Renewed,
    #[error("this node is stopping")]
    Stopped,
}

impl Error {
    pub(crate) fn call(call: &'static str, status: Status) -> Self {
        Self::Call { call, code: status.code(), reason: status.message().to_owned() }
    }

    /// The manager says that this node is no part of the swarm. It may be wrong, if it lags behind the others.
    pub fn is_dismissal(&self) -> bool {
        matches!(self, Self::Call { call: "Session", code: Code::PermissionDenied, .. })
    }
}

pub(super) struct Session<'a> {
    parts: &'a Parts,
    addr: String,
    /// What was told of this node's certificate.
    tls: watch::Receiver<TlsInfo>,
    /// Where this node's tunnels end as long as it lasts.
    local: IpAddr,
    id: String,
    stream: Streaming<SessionMessage>,
    dispatcher: DispatcherClient<Channel>,
    channel: Channel,
}

impl<'a> Session<'a> {
    /// Registers this node with the manager at `addr`.
    pub async fn establish(parts: &'a Parts, addr: &str) -> Result<(Self, SessionMessage), Error> {
        let establishing = Self::register(parts, addr);
        let established = tokio::time::timeout(ESTABLISH, establishing).await;
        established.map_err(|_| Error::Silent("Session", ESTABLISH))?
    }

    async fn register(parts: &'a Parts, addr: &str) -> Result<(Self, SessionMessage), Error> {
        let channel = parts.dial.channel(addr).map_err(Error::Dial)?;
        let dispatcher = DispatcherClient::new(channel.clone());
        let mut dispatcher = dispatcher.max_decoding_message_size(MESSAGE_BYTES);
        let description = parts.facts.description.clone();
        let mut description = with_routes(description, &parts.networks.routes().await);
        let mut tls = parts.tls.clone();
        description.tls = Some(tls.borrow_and_update().clone());
        let description = Some((&description).into());
        let request = SessionRequest { description, session_id: String::new() };
        let stream = dispatcher.session(request).await;
        let stream = stream.map_err(|status| match parts.dial.reason(&status) {
            Some(reason) => Error::Call { call: "Session", code: status.code(), reason },
            None => Error::call("Session", status),
        })?;
        let mut stream = stream.into_inner();
        let first = next("Session", &mut stream).await?;
        if first.session_id.is_empty() {
            return Err(Error::Missing("session_id"));
        }
        let local = parts.finder.find(addr).await?;
        parts.begin_networks(local, &first).await;
        let (addr, id) = (addr.to_owned(), first.session_id.clone());
        Ok((Self { parts, addr, tls, local, id, stream, dispatcher, channel }, first))
    }

    /// Serves the session until something fails. `told` gets every session message.
    pub async fn serve(self, told: impl FnMut(SessionMessage)) -> Result<Infallible, Error> {
        let Self { parts, addr, mut tls, local, id, mut stream, dispatcher, channel } = self;
        let messages = follow_session(&mut stream, told);
        let heartbeats = beat(dispatcher.clone(), &id);
        let assignments = follow_assignments(parts, dispatcher.clone(), &id);
        let reports = reporter::report(&parts.statuses, dispatcher, &id);
        let directory = follow_directory(parts, channel.clone(), &id);
        let confirmations = drains::confirm(parts.networks.confirmed(), channel.clone(), &id);
        let drains = parts.drains.serve(channel.clone(), &id);
        let keys = report_keys(parts, channel.clone(), &id);
        let questions = diagnosis::serve(&parts.networks, channel.clone(), &id);
        let logs = parts.logs.serve(channel);
        let stay = parts.finder.stay(&addr, local);
        let renewed = async {
            if tls.changed().await.is_err() {
                // Nobody tells any more.
                std::future::pending::<()>().await;
            }
            Err::<Infallible, _>(Error::Renewed)
        };
        let network =
            async { tokio::try_join!(directory, confirmations, drains, keys, stay, questions, renewed) };
        tokio::try_join!(messages, heartbeats, assignments, reports, network, logs).map(|(never, ..)| never)
    }
}

impl Parts {
    /// Tells the network that a new directory stream begins, and where the tunnels of this node end.
    async fn begin_networks(&self, local: IpAddr, first: &SessionMessage) {
        let port = first.node.as_ref().map_or(0, |node| node.vxlan_udp_port);
        let port = u16::try_from(port).ok().filter(|port| *port > 0).unwrap_or(VXLAN_PORT);
        let underlay = Underlay { local, port };
        self.remember_underlay(underlay).await;
        self.networks.begin(underlay);
    }
}

/// This node as a session message has it.
pub(super) fn node(message: &SessionMessage) -> Result<Node, Error> {
    let node = message.node.clone().ok_or(Error::Missing("node"))?;
    Ok(node.try_into()?)
}

pub(crate) async fn next<T>(call: &'static str, stream: &mut Streaming<T>) -> Result<T, Error> {
    let message = stream.message().await.map_err(|status| Error::call(call, status))?;
    message.ok_or(Error::Ended(call))
}

async fn follow_session(
    stream: &mut Streaming<SessionMessage>,
    mut told: impl FnMut(SessionMessage),
) -> Result<Infallible, Error> {
    loop {
        told(next("Session", stream).await?);
    }
}

/// Tells the manager that this node lives, as often as it wants to hear it.
async fn beat(mut dispatcher: DispatcherClient<Channel>, session_id: &str) -> Result<Infallible, Error> {
    let mut period = HEARTBEAT;
    loop {
        let patience = (period / 2).clamp(SILENCE.0, SILENCE.1);
        let request = HeartbeatRequest { session_id: session_id.to_owned() };
        let answer = tokio::time::timeout(patience, dispatcher.heartbeat(request)).await;
        let answer = answer.map_err(|_| Error::Silent("Heartbeat", patience))?;
        let answer = answer.map_err(|status| Error::call("Heartbeat", status))?.into_inner();
        let told = answer.period.and_then(|period| Duration::try_from(period).ok());
        period = told.filter(|period| !period.is_zero()).unwrap_or(period);
        tokio::time::sleep(period).await;
    }
}

async fn follow_assignments(
    parts: &Parts,
    mut dispatcher: DispatcherClient<Channel>,
    session_id: &str,
) -> Result<Infallible, Error> {
    let request = AssignmentsRequest { session_id: session_id.to_owned() };
    let stream = dispatcher.assignments(request).await;
    let mut stream = stream.map_err(|status| Error::call("Assignments", status))?.into_inner();
    let mut sequence = Sequence::default();
    loop {
        let instruction = sequence.next(next("Assignments", &mut stream).await?)?;
        parts.instructions.send(instruction).await.map_err(|_| Error::Stopped)?;
    }
}

async fn follow_directory(parts: &Parts, channel: Channel, session_id: &str) -> Result<Infallible, Error> {
    let mut directory = DirectoryClient::new(channel).max_decoding_message_size(MESSAGE_BYTES);
    let request = parts.networks.watch_request(session_id).await;
    let stream = directory.watch(request).await;
    let mut stream = stream.map_err(|status| Error::call("Directory.Watch", status))?.into_inner();
    loop {
        let told = next("Directory.Watch", &mut stream).await?;
        parts.networks.update(told).await?;
    }
}

/// Tells the manager of this node's part in encrypted networks: all at first, then what has changed.
async fn report_keys(parts: &Parts, channel: Channel, session_id: &str) -> Result<Infallible, Error> {
    let mut directory = DirectoryClient::new(channel);
    let mut reports = parts.networks.reports();
    let mut told = BTreeMap::new();
    loop {
        let all = reports.borrow_and_update().clone();
        let news = all.iter().filter(|(network, report)| told.get(*network) != Some(*report));
        let reports_due: Vec<KeysReport> = news
            .map(|(network, report)| KeysReport {
                network_id: network.to_string(),
                incarnation: report.incarnation.to_vec(),
                epoch: report.epoch,
                receives: report.receives,
                sends: report.sends,
                passed_over: report.passed_over.iter().map(ToString::to_string).collect(),
                instead_of: Some(report.instead_of.map(Vec::from).unwrap_or_default()),
            })
            .collect();
        if !reports_due.is_empty() {
            let index = parts.networks.told_up_to().await;
            let request =
                ReportKeysRequest { session_id: session_id.to_owned(), reports: reports_due, index };
            let answer = directory.report_keys(request).await;
            answer.map_err(|status| Error::call("Directory.ReportKeys", status))?;
        }
        told = all;
        reports.changed().await.map_err(|_| Error::Stopped)?;
    }
}
