//! The network between the machines: what a connection of gRPC carries, call by call and frame by frame.
//!
//! Frames of one call come in order, as over TCP, but late; calls overtake each other; a call may come to the other
//! side twice, the second time long after the first; a connection breaks at any frame, with or without a word. Over a
//! link that is cut nothing passes, and what was under way waits until it is mended or given up. The codec and the
//! services on both sides are the real ones; what is not there is TLS and HTTP/2.

mod frames;

use std::collections::BTreeSet;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use prost::bytes::Bytes;
use proto::model::NodeId;
use proto::raft::raft_server::RaftServer;
use tokio::task::AbortHandle;
use tokio::time::sleep;
use tonic::body::Body;
use tower::Service as _;

use self::frames::{Frames, Sender, pump};
use super::host::Failure;
use super::machine::Life;
use super::{World, lock, world};
use crate::{Service, Store};

/// After so long without a word a connection is given up, as the pings of HTTP/2 do.
const DEAD: Duration = Duration::from_secs(10);

/// To make a connection may take so long.
const CONNECT: Duration = Duration::from_secs(1);

pub(crate) struct Network(Mutex<Inner>);

struct Inner {
    /// From where to where nothing passes.
    cut: BTreeSet<(usize, usize)>,
    /// Milliseconds for a frame.
    delay: Range<u64>,
    /// How often a frame breaks its connection.
    breaks: f64,
    /// How often a call comes twice.
    repeats: f64,
    services: Vec<Option<(Arc<Life>, RaftServer<Service>)>>,
}

impl Network {
    pub(super) fn new(machines: usize) -> Self {
        let services = (0..machines).map(|_| None).collect();
        Self(Mutex::new(Inner { cut: BTreeSet::new(), delay: 0..3, breaks: 0.0, repeats: 0.0, services }))
    }

    pub(super) fn serve(&self, life: &Arc<Life>, store: &Store) {
        let service = store.raft_service(|extensions| extensions.get::<NodeId>().cloned());
        lock(&self.0).services[life.machine] = Some((life.clone(), service));
    }

    pub(super) fn cut(&self, from: usize, to: usize) {
        lock(&self.0).cut.insert((from, to));
    }

    pub(super) fn mend(&self) {
        lock(&self.0).cut.clear();
    }

    pub(super) fn mend_between(&self, one: usize, other: usize) {
        lock(&self.0).cut.retain(|link| *link != (one, other) && *link != (other, one));
    }

    pub(super) fn set_quality(&self, delay: Range<u64>, breaks: f64, repeats: f64) {
        let mut inner = lock(&self.0);
        (inner.delay, inner.breaks, inner.repeats) = (delay, breaks, repeats);
    }

    fn is_cut(&self, link: Link) -> bool {
        lock(&self.0).cut.contains(&(link.from, link.to))
    }

    fn service(&self, machine: usize) -> Option<(Arc<Life>, RaftServer<Service>)> {
        lock(&self.0).services[machine].clone().filter(|(life, _)| life.alive())
    }
}

#[derive(Clone, Copy, Debug)]
struct Link {
    from: usize,
    to: usize,
}

impl Link {
    fn back(self) -> Self {
        Self { from: self.to, to: self.from }
    }
}

/// What a machine calls another one through.
#[derive(Clone)]
pub(crate) struct Wire {
    life: Arc<Life>,
    to: Option<usize>,
}

impl Wire {
    pub(super) fn new(life: Arc<Life>, addr: &str) -> Self {
        let world = world().expect("a life is part of a simulation");
        let to = world.machines.iter().position(|machine| machine.addr() == addr);
        Self { life, to }
    }

    pub(super) async fn call(self, request: Request<Body>) -> Result<Response<Body>, Failure> {
        let world = world().expect("a life is part of a simulation");
        let no_connection = |reason: &str| Failure::from(tonic::ConnectError(reason.into()));
        let to = self.to.ok_or_else(|| no_connection("no such machine"))?;
        let link = Link { from: self.life.machine, to };
        // Else there is a connection already, on which it hangs.
        if world.network.is_cut(link) && world.happens(0.5) {
            sleep(CONNECT).await;
            return Err(no_connection("no answer"));
        }
        if world.network.service(to).is_none() {
            sleep(world.millis(1..20)).await;
            return Err(no_connection("refused"));
        }
        let (mut parts, body) = request.into_parts();
        parts.extensions.clear();
        parts.extensions.insert::<NodeId>(world.machines[link.from].node_id());
        let path: Arc<str> = parts.uri.path().rsplit('/').next().unwrap_or_default().into();
        let (sender, frames) = Frames::lane(&world, link, &path);
        let (answer, mut answers) = Frames::lane(&world, link.back(), &path);
        let mut copies = vec![sender];
        if may_come_twice(&path) && world.happens(lock(&world.network.0).repeats) {
            let (sender, frames) = Frames::lane(&world, link, &path);
            copies.push(sender);
            deliver_again(&world, link, parts.clone(), frames);
        }
        let Some((life, service)) = world.network.service(to) else { return Err(no_connection("refused")) };
        life.spawn(deliver(service, parts, frames, answer, world.happens(0.5)));
        // Ends with the call.
        let sending = Abort(self.life.spawn(pump(body, copies)).abort_handle());
        let head = answers.head().await?;
        Ok(Response::from_parts(head, Body::new(Answers { frames: answers, _sending: sending })))
    }
}

fn may_come_twice(path: &str) -> bool {
    matches!(path, "Append" | "Vote" | "Propose" | "TransferLeader")
}

/// Has the request served. One that nobody waits for any more may be given up.
async fn deliver(
    mut service: RaftServer<Service>,
    parts: http::request::Parts,
    frames: Frames,
    answer: Sender,
    given_up: bool,
) {
    let nobody_waits = answer.clone();
    let serve = async move {
        let Ok(response) = service.call(Request::from_parts(parts, Body::new(frames))).await;
        let (head, body) = response.into_parts();
        answer.head(head);
        pump(body, vec![answer]).await;
    };
    tokio::select! {
        biased;
        () = nobody_waits.closed(), if given_up => {}
        () = serve => {}
    }
}

/// Much later, to whoever serves there then. Nobody hears the answer.
#[allow(clippy::disallowed_methods, reason = "it is under way between machines, and ends with the runtime")]
fn deliver_again(world: &Arc<World>, link: Link, parts: http::request::Parts, frames: Frames) {
    let (answer, mut answers) = Frames::lane(world, link.back(), &"late".into());
    let world = world.clone();
    tokio::task::spawn(async move {
        sleep(world.millis(20..3000)).await;
        let Some((life, service)) = world.network.service(link.to) else { return };
        life.spawn(deliver(service, parts, frames, answer, false));
        while let Ok(Some(_)) = answers.next().await {}
    });
}

struct Abort(AbortHandle);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What the caller reads. If it stops, the request ends too.
struct Answers {
    frames: Frames,
    _sending: Abort,
}

impl http_body::Body for Answers {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Failure>>> {
        Pin::new(&mut self.frames).poll_frame(context)
    }
}
