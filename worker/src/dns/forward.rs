//! Asks others what nobody here knows.
//!
//! A question goes on as it came but for its id, and a reply comes back as it was but for its id, so that whatever DNS
//! learns in future passes through. Nothing of a reply is trusted but that it answers the question.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hickory_proto::op::ResponseCode;
use netdriver::SandboxKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};

use super::answer::{HEADER, Transport};
use crate::network::Kernel;

/// As long as a client commonly waits (5 s), less a little, so that it hears of the failure.
const PATIENCE: Duration = Duration::from_millis(4500);
/// After this the next server is asked too.
const STAGGER: Duration = Duration::from_millis(700);
/// Most bytes of a reply over UDP.
const MOST_UDP: usize = 4096;

/// Where the servers' addresses are meant, and so where they are asked from.
#[derive(Clone, Copy)]
pub enum From<'a> {
    Node,
    Sandbox(&'a dyn Kernel, &'a SandboxKey),
}

/// The first useful reply; else the first one; none if no server replied in time.
pub async fn ask(
    question: &[u8],
    servers: &[SocketAddr],
    from: From<'_>,
    transport: Transport,
) -> Option<Vec<u8>> {
    let mut poor = None;
    let useful = timeout(PATIENCE, first_useful(question, servers, from, transport, &mut poor)).await;
    useful.ok().flatten().or(poor)
}

async fn first_useful(
    question: &[u8],
    servers: &[SocketAddr],
    from: From<'_>,
    transport: Transport,
    poor: &mut Option<Vec<u8>>,
) -> Option<Vec<u8>> {
    let mut servers = servers.iter();
    let mut asked = FuturesUnordered::new();
    loop {
        let next = servers.next();
        asked.extend(next.map(|server| ask_one(question, *server, from, transport)));
        let late = async {
            match servers.len() {
                0 => std::future::pending().await,
                _ => sleep(STAGGER).await,
            }
        };
        tokio::select! {
            reply = asked.next() => match reply {
                Some(Ok(reply)) if is_useful(&reply) => return Some(reply),
                Some(Ok(reply)) => _ = poor.get_or_insert(reply),
                Some(Err(error)) => tracing::debug!(%error, "a name server did not answer"),
                None => return None,
            },
            () = late => {}
        }
    }
}

/// A server that failed or refuses may have a neighbour that knows.
fn is_useful(reply: &[u8]) -> bool {
    let code = u16::from(reply[3] & 0x0f);
    code == u16::from(ResponseCode::NoError) || code == u16::from(ResponseCode::NXDomain)
}

async fn ask_one(
    question: &[u8],
    server: SocketAddr,
    from: From<'_>,
    transport: Transport,
) -> io::Result<Vec<u8>> {
    let mut own = question.to_vec();
    own[..2].copy_from_slice(&rand::random::<[u8; 2]>());
    let mut reply = match transport {
        Transport::Udp => over_udp(&own, &from.udp(server).await?).await?,
        Transport::Tcp => over_tcp(&own, from.tcp(server).await?).await?,
    };
    reply[..2].copy_from_slice(&question[..2]);
    Ok(reply)
}

async fn over_udp(question: &[u8], socket: &UdpSocket) -> io::Result<Vec<u8>> {
    socket.send(question).await?;
    let mut reply = vec![0; MOST_UDP];
    loop {
        let length = socket.recv(&mut reply).await?;
        if answers(question, &reply[..length]) {
            // What is longer was cut off: the bit TC, so that the client asks over TCP.
            reply[2] |= if length == MOST_UDP { 0x02 } else { 0 };
            reply.truncate(length);
            return Ok(reply);
        }
    }
}

async fn over_tcp(question: &[u8], mut stream: TcpStream) -> io::Result<Vec<u8>> {
    write_framed(&mut stream, question).await?;
    let length = stream.read_u16().await?;
    let mut reply = vec![0; length.into()];
    stream.read_exact(&mut reply).await?;
    if answers(question, &reply) {
        Ok(reply)
    } else {
        Err(io::Error::other("the reply is to another question"))
    }
}

/// Messages over TCP have their length before them, RFC 1035 section 4.2.2. In one write, so that they take one packet.
pub async fn write_framed(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let too_long = |_| io::Error::other("the message is longer than TCP can carry");
    let length = u16::try_from(message.len()).map_err(too_long)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await
}

/// Whether `reply` is one, and to `question`: id and question section are the same (RFC 5452 section 9.1). Some servers
/// change the case of names.
fn answers(question: &[u8], reply: &[u8]) -> bool {
    let Some(end) = end_of_question(question) else { return false };
    reply.len() >= end
        && reply[..2] == question[..2]
        && reply[2] & 0x80 != 0
        && reply[4..6] == question[4..6]
        && reply[HEADER..end].eq_ignore_ascii_case(&question[HEADER..end])
}

/// Where the question section of a message with one question ends.
fn end_of_question(message: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        match usize::from(*message.get(at)?) {
            0 => break,
            // Nothing stands before it to which it could point.
            length if length > 63 => return None,
            length => at += 1 + length,
        }
    }
    let end = at + 1 + 4;
    (end <= message.len()).then_some(end)
}

impl From<'_> {
    async fn udp(self, server: SocketAddr) -> io::Result<UdpSocket> {
        match self {
            Self::Sandbox(kernel, key) => kernel.udp_towards(key, server).await,
            Self::Node => {
                let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any).await?;
                socket.connect(server).await?;
                Ok(socket)
            }
        }
    }

    async fn tcp(self, server: SocketAddr) -> io::Result<TcpStream> {
        let socket = match self {
            Self::Sandbox(kernel, key) => kernel.tcp_towards(key, server).await?,
            Self::Node if server.is_ipv4() => TcpSocket::new_v4()?,
            Self::Node => TcpSocket::new_v6()?,
        };
        socket.connect(server).await
    }
}
