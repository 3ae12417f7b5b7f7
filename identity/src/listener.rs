//! Connections for tonic's `serve_with_incoming_shutdown`, each knowing its peer.
//!
//! Decides who gets past the handshake; what he may call is decided per request. Handshakes run side by side in tasks
//! that the stream owns and that end with it. Their time and their number are bounded; when there are too many, the
//! oldest of the address with the most is given up, not the newest refused: an honest client needs milliseconds, so the
//! oldest is the one that does not speak. The same holds for connections of clients that have shown no certificate.
//! Nodes have room of their own: what has shown a good certificate counts for neither.

mod lease;
mod open;
mod queue;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{self, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::certificate::Subject;
use crate::credentials::Credentials;
use crate::dial::clock;
use crate::peer::{Connection, Peer};
use crate::socket;
use lease::{Lease, Leases};
use open::Hold;
pub use open::Open;
use queue::{Queue, Stands};

/// A breath when the process is out of descriptors or memory: accepting again at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// At most one word about wrong clocks in so long.
const COMPLAINT_PERIOD: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a client may take for its handshake.
    pub handshake: Duration,
    /// How many handshakes may be under way.
    pub handshakes: usize,
    /// How long a client without a certificate may stay: one that joins needs seconds.
    pub stranger: Duration,
    /// How many clients without a certificate there may be.
    pub strangers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        let (handshake, stranger) = (Duration::from_secs(10), Duration::from_secs(60));
        Self { handshake, handshakes: 512, stranger, strangers: 512 }
    }
}

/// Connections of other nodes, over TLS. Never ends and never fails by itself.
pub fn incoming(
    listener: TcpListener,
    credentials: Credentials,
    limits: Limits,
    open: Open,
) -> impl Stream<Item = io::Result<Io<TlsStream<TcpStream>>>> + Send {
    let (handshakes, order) = (JoinSet::new(), Queue::new(limits.handshakes));
    let leases = Leases::new(limits.stranger, limits.strangers);
    let accepting =
        Accepting { listener, credentials, limits, handshakes, order, leases, open, complained: None };
    stream::unfold(accepting, |mut accepting| async move {
        let io = accepting.next().await;
        Some((Ok(io), accepting))
    })
}

/// Connections of local processes; the socket's mode decides who may connect.
pub fn incoming_local(listener: UnixListener) -> impl Stream<Item = io::Result<Io<UnixStream>>> + Send {
    stream::unfold(listener, |listener| async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let connection = Connection { peer: Peer::Local, remote: None };
                    return Some((Ok(Io { stream, connection, lease: None, hold: None }), listener));
                }
                Err(error) => pause(&error).await,
            }
        }
    })
}

struct Accepting {
    listener: TcpListener,
    credentials: Credentials,
    limits: Limits,
    handshakes: JoinSet<Result<Io<TlsStream<TcpStream>>, Refused>>,
    /// Some of them have ended.
    order: Queue<AbortHandle>,
    leases: Leases,
    open: Open,
    /// When a wrong clock was told of last.
    complained: Option<Instant>,
}

/// A handshake that has failed.
struct Refused {
    remote: SocketAddr,
    error: io::Error,
}

impl Accepting {
    async fn next(&mut self) -> Io<TlsStream<TcpStream>> {
        loop {
            tokio::select! {
                Some(ended) = self.handshakes.join_next() => match ended {
                    Ok(Ok(mut io)) => {
                        match &io.connection.peer {
                            Peer::Anonymous => io.lease = Some(self.leases.grant(io.address())),
                            Peer::Node { id, .. } => io.hold = Some(self.open.hold(id)),
                            Peer::Local => {}
                        }
                        return io;
                    }
                    Ok(Err(error)) => self.note(&error),
                    Err(error) => tracing::debug!(%error, "gave up a handshake"),
                },
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, remote)) => self.begin(stream, remote),
                    Err(error) => pause(&error).await,
                },
            }
        }
    }

    /// That a clock is wrong is worth a word, but not one for each attempt.
    fn note(&mut self, refused: &Refused) {
        let Refused { remote, error } = refused;
        let complaint = error.get_ref().and_then(|inner| inner.downcast_ref()).and_then(clock::complaint);
        match complaint {
            Some(complaint) if self.complained.is_none_or(|at| at.elapsed() > COMPLAINT_PERIOD) => {
                self.complained = Some(Instant::now());
                tracing::warn!("a connection from {remote} has failed: {complaint}");
            }
            _ => tracing::debug!(%remote, %error, "refused a connection"),
        }
    }

    fn begin(&mut self, stream: TcpStream, remote: SocketAddr) {
        let acceptor = TlsAcceptor::from(self.credentials.current().server());
        let limit = self.limits.handshake;
        let handshake = async move {
            let shaken = tokio::time::timeout(limit, shake_hands(acceptor, stream, remote)).await;
            let shaken = shaken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            shaken.map_err(|error| Refused { remote, error })
        };
        let handshake = self.handshakes.spawn(handshake);
        if let Some(out) = self.order.push(remote.ip(), handshake) {
            out.abort();
        }
    }
}

impl Stands for AbortHandle {
    fn is_over(&self) -> bool {
        self.is_finished()
    }
}

async fn shake_hands(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    remote: SocketAddr,
) -> io::Result<Io<TlsStream<TcpStream>>> {
    socket::tune(&stream)?;
    let stream = acceptor.accept(stream).await?;
    let peer = match stream.get_ref().1.peer_certificates() {
        Some([certificate, ..]) => Subject::of(certificate).map_err(io::Error::other)?.into(),
        _ => Peer::Anonymous,
    };
    Ok(Io { stream, connection: Connection { peer, remote: Some(remote) }, lease: None, hold: None })
}

async fn pause(error: &io::Error) {
    tracing::warn!(%error, "cannot accept a connection");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// A byte stream that knows its peer.
#[derive(Debug)]
pub struct Io<S> {
    stream: S,
    connection: Connection,
    /// Of a connection that does not last.
    lease: Option<Lease>,
    /// Of a node, which may be removed.
    hold: Option<Hold>,
}

impl<S> Io<S> {
    pub const fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Of the other side; of a local process, none in particular.
    fn address(&self) -> IpAddr {
        self.connection.remote.map_or(std::net::Ipv4Addr::UNSPECIFIED.into(), |remote| remote.ip())
    }
}

impl<S> Connected for Io<S> {
    type ConnectInfo = Connection;

    fn connect_info(&self) -> Connection {
        self.connection.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Io<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(lease) = &mut self.lease
            && Pin::new(lease).poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if let Some(hold) = &mut self.hold
            && Pin::new(hold).poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Io<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
