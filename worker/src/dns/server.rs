//! Serves one task: its questions over UDP and TCP, on the sockets in its sandbox.
//!
//! What can be answered at once is, one question after the other; what has to wait for others does so in tasks that
//! this one owns, and of which there are only so many.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use netdriver::{ResolverSockets, SandboxKey};
use proto::model::TaskId;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::answer::{self, Decision, Transport};
use super::books::Books;
use super::forward::{self, From, write_framed};
use super::names::View;
use super::upstream::{NodeServers, Upstream};
use crate::network::{Kernel, Place};

/// Questions of one task that wait for somebody.
pub const WAITING_OF_TASK: usize = 64;
/// Questions of all tasks of a node that wait for somebody.
pub const WAITING_OF_NODE: usize = 1024;
/// TCP connections of one task.
const CONNECTIONS: usize = 32;
/// Most bytes of a question. Names have 255; the rest is room for what EDNS may carry.
const MOST_QUESTION: usize = 4096;
/// Questions taken from a socket before others have their turn.
const BATCH: usize = 32;
/// How long a connection may be idle, or take to deliver a question (RFC 7766 section 6.2.3: a few seconds).
const IDLE: Duration = Duration::from_secs(10);
/// How long a question waits for a manager to tell what there is.
const KNOWING: Duration = Duration::from_secs(3);
/// After an error of a socket, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// What all resolvers of a node share.
pub struct Shared {
    pub kernel: Arc<dyn Kernel>,
    pub books: Books,
    pub servers: NodeServers,
    pub waiting: Arc<Semaphore>,
}

/// The task that is served.
pub struct Site {
    pub shared: Arc<Shared>,
    pub key: SandboxKey,
    pub task: TaskId,
    pub places: Vec<Place>,
    pub upstream: Upstream,
    pub waiting: Arc<Semaphore>,
}

enum Step {
    Reply(Vec<u8>),
    /// Others have to be waited for. The permits end with the waiting.
    Wait([OwnedSemaphorePermit; 2]),
    Ignore,
}

/// Serves until `stop`, and then closes all sockets.
pub async fn serve(site: Arc<Site>, ResolverSockets { udp, tcp }: ResolverSockets, stop: CancellationToken) {
    let udp = Arc::new(udp);
    let mut waiting = JoinSet::new();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            ready = udp.readable() => match ready {
                Ok(()) => take_datagrams(&site, &udp, &mut waiting),
                Err(error) => complain(&site, &error).await,
            },
            accepted = accept(&tcp, connections.len() < CONNECTIONS) => match accepted {
                Ok(stream) => _ = connections.spawn(serve_connection(site.clone(), stream)),
                Err(error) => complain(&site, &error).await,
            },
            Some(_) = waiting.join_next() => {}
            Some(_) = connections.join_next() => {}
        }
    }
    waiting.shutdown().await;
    connections.shutdown().await;
}

async fn accept(listener: &TcpListener, may: bool) -> io::Result<TcpStream> {
    if may { Ok(listener.accept().await?.0) } else { pending().await }
}

async fn complain(site: &Site, error: &io::Error) {
    tracing::warn!(task = %site.task, %error, "the task's resolver cannot use its socket");
    sleep(PAUSE).await;
}

/// Takes what has come, on the stack: a task that asks nothing holds no buffer.
fn take_datagrams(site: &Arc<Site>, socket: &Arc<UdpSocket>, waiting: &mut JoinSet<()>) {
    let mut question = [0; MOST_QUESTION];
    for _ in 0..BATCH {
        // An error other than that nothing is there shows again when it is waited for.
        let Ok((length, client)) = socket.try_recv_from(&mut question) else { return };
        let question = &question[..length];
        match site.step(question, Transport::Udp) {
            Step::Reply(reply) => send(socket, &reply, client),
            Step::Wait(permits) => {
                let (site, socket, question) = (site.clone(), socket.clone(), question.to_vec());
                waiting.spawn(async move {
                    if let Some(reply) = site.wait(&question, Transport::Udp).await {
                        send(&socket, &reply, client);
                    }
                    drop(permits);
                });
            }
            Step::Ignore => {}
        }
    }
}

/// A client whose buffer is full, or that has gone, asks again if it still wants to know.
fn send(socket: &UdpSocket, reply: &[u8], client: SocketAddr) {
    if let Err(error) = socket.try_send_to(reply, client) {
        tracing::debug!(%client, %error, "cannot reply");
    }
}

async fn serve_connection(site: Arc<Site>, mut stream: TcpStream) {
    while let Ok(Ok(question)) = timeout(IDLE, read_framed(&mut stream)).await {
        let reply = match site.step(&question, Transport::Tcp) {
            Step::Reply(reply) => Some(reply),
            Step::Wait(permits) => {
                let reply = site.wait(&question, Transport::Tcp).await;
                drop(permits);
                reply
            }
            Step::Ignore => None,
        };
        let Some(reply) = reply else { return };
        if !matches!(timeout(IDLE, write_framed(&mut stream, &reply)).await, Ok(Ok(()))) {
            return;
        }
    }
}

async fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > MOST_QUESTION {
        return Err(io::Error::other("the question is too long"));
    }
    let mut question = vec![0; length];
    stream.read_exact(&mut question).await?;
    Ok(question)
}

impl Site {
    /// What can be done at once.
    fn step(&self, question: &[u8], transport: Transport) -> Step {
        match self.decide(question, transport) {
            Some(Decision::Reply(reply)) => Step::Reply(reply),
            Some(Decision::Ignore) => Step::Ignore,
            Some(Decision::Forward) if self.upstream == Upstream::Nobody => {
                fail(question, ResponseCode::NXDomain)
            }
            Some(Decision::Forward) | None => match self.permits() {
                Some(permits) => Step::Wait(permits),
                None => fail(question, ResponseCode::ServFail),
            },
        }
    }

    /// None as long as a network of the task is not known.
    fn decide(&self, question: &[u8], transport: Transport) -> Option<Decision> {
        let networks = self.places.iter().map(|place| place.network.as_ref());
        let zones = self.shared.books.zones(networks)?;
        let view = View { own: &self.task, zones };
        Some(answer::decide(question, &view, transport, rand::random()))
    }

    fn permits(&self) -> Option<[OwnedSemaphorePermit; 2]> {
        let of_task = self.waiting.clone().try_acquire_owned().ok()?;
        let of_node = self.shared.waiting.clone().try_acquire_owned().ok()?;
        Some([of_task, of_node])
    }

    async fn wait(&self, question: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let networks = self.places.iter().map(|place| place.network.as_ref());
        // When nobody has told in time, the look at the books fails again.
        let _ = timeout(KNOWING, self.shared.books.known(networks)).await;
        match self.decide(question, transport) {
            Some(Decision::Reply(reply)) => Some(reply),
            Some(Decision::Ignore) => None,
            Some(Decision::Forward) => self.forward(question, transport).await,
            None => answer::failure(question, ResponseCode::ServFail),
        }
    }

    async fn forward(&self, question: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let reply = match &self.upstream {
            Upstream::Nobody => return answer::failure(question, ResponseCode::NXDomain),
            Upstream::Node => {
                let servers = self.shared.servers.get();
                forward::ask(question, &servers, From::Node, transport).await
            }
            Upstream::Task(servers) => {
                let from = From::Sandbox(self.shared.kernel.as_ref(), &self.key);
                forward::ask(question, servers, from, transport).await
            }
        };
        reply.or_else(|| answer::failure(question, ResponseCode::ServFail))
    }
}

fn fail(question: &[u8], code: ResponseCode) -> Step {
    answer::failure(question, code).map_or(Step::Ignore, Step::Reply)
}
