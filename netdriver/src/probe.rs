//! Sends real packets from within a task's namespace, as the task would, and tells what became of them.
//!
//! All addresses of such a namespace are ours to use, so no process of the container takes part. How far a packet came
//! is heard on both nodes (`ear`); what it means is the caller's to say.

mod ear;
mod packet;

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout};

use crate::Netdriver;
use crate::desired::SandboxKey;

pub use ear::{Ears, Heard, Passage, Trail, Tunnel};

/// Bytes of a small packet: those of `ping`.
const SMALL: usize = 84;
/// Echoes of one size, and the time between them.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(300);
/// How long the last may take.
const PATIENCE: Duration = Duration::from_millis(600);
/// In the search for the largest size: attempts, and how long each may take.
const SEARCH: (u32, Duration) = (2, Duration::from_millis(150));
/// Sizes are searched for in steps of so many bytes.
const STEP: usize = 4;
const CONNECT: Duration = Duration::from_secs(2);
/// Tells echoes to a virtual address, which go to whichever backend, from the others.
const VIRTUAL: u16 = 0x8000;

/// What to send.
#[derive(Debug, Clone)]
pub struct Probe {
    pub sandbox: SandboxKey,
    pub address: IpAddr,
    /// ICMP identifier; its first bit is not used.
    pub token: u16,
    pub full_bytes: usize,
    /// TCP.
    pub port: Option<u16>,
    pub virtual_ip: Option<IpAddr>,
}

/// What became of it.
#[derive(Debug, Clone)]
pub struct Probed {
    pub small: Echoed,
    pub full: Echoed,
    /// Bytes of the largest packet that was answered, where a full one was not.
    pub largest: Option<usize>,
    pub connection: Option<Connected>,
    pub virtual_echo: Option<Echoed>,
    pub virtual_connection: Option<Connected>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Echoed {
    Answered(Duration),
    Lost,
    Unsendable(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connected {
    Yes,
    Refused,
    Silent,
    Failed(String),
}

impl Netdriver {
    pub async fn probe(&self, probe: &Probe) -> Probed {
        let echoes = async {
            let mut line = match self.line(&probe.sandbox, probe.address, probe.token).await {
                Ok(line) => line,
                Err(error) => {
                    let unsendable = || Echoed::Unsendable(error.to_string());
                    return (unsendable(), unsendable(), None);
                }
            };
            let small = line.ask(SMALL, ATTEMPTS, PAUSE).await;
            let full = match line.ask(probe.full_bytes, ATTEMPTS, PAUSE).await {
                // What is lost for another reason.
                Echoed::Unsendable(_) if small == Echoed::Lost => Echoed::Lost,
                full => full,
            };
            let lost = matches!((&small, &full), (Echoed::Answered(_), Echoed::Lost | Echoed::Unsendable(_)));
            let largest = if lost { Some(line.largest(probe.full_bytes).await) } else { None };
            (small, full, largest)
        };
        let through = async {
            let address = probe.virtual_ip?;
            let line = self.line(&probe.sandbox, address, probe.token ^ VIRTUAL).await;
            Some(match line {
                Ok(mut line) => line.ask(SMALL, ATTEMPTS, PAUSE).await,
                Err(error) => Echoed::Unsendable(error.to_string()),
            })
        };
        let connection =
            async { Some(self.connect(&probe.sandbox, (probe.address, probe.port?).into()).await) };
        let virtual_connection =
            async { Some(self.connect(&probe.sandbox, (probe.virtual_ip?, probe.port?).into()).await) };
        let ((small, full, largest), virtual_echo, connection, virtual_connection) =
            tokio::join!(echoes, through, connection, virtual_connection);
        Probed { small, full, largest, connection, virtual_echo, virtual_connection }
    }

    async fn connect(&self, sandbox: &SandboxKey, to: SocketAddr) -> Connected {
        let connecting = async { self.tcp_towards(sandbox, to).await?.connect(to).await };
        match timeout(CONNECT, connecting).await {
            Ok(Ok(_)) => Connected::Yes,
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Connected::Refused,
            Ok(Err(error)) => Connected::Failed(error.to_string()),
            Err(_) => Connected::Silent,
        }
    }

    async fn line(&self, sandbox: &SandboxKey, to: IpAddr, token: u16) -> io::Result<Line> {
        let open = move || {
            let (domain, protocol) = match to {
                IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
                IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
            };
            let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
            if to.is_ipv4() {
                socket.set_header_included_v4(true)?;
            }
            socket.set_nonblocking(true)?;
            registered(socket)
        };
        Ok(Line { socket: self.within(sandbox, open).await?, to, token, sequence: 0 })
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe, for types that change their descriptor; a socket does not"
)]
fn registered(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    AsyncFd::new(socket)
}

/// Echoes to one address.
struct Line {
    socket: AsyncFd<Socket>,
    to: IpAddr,
    token: u16,
    sequence: u16,
}

impl Line {
    /// Up to `attempts` echoes of a size, until one is answered.
    async fn ask(&mut self, bytes: usize, attempts: u32, pause: Duration) -> Echoed {
        let first = self.sequence + 1;
        let mut sent = Vec::new();
        let mut unsendable = None;
        for attempt in 1..=attempts {
            self.sequence += 1;
            sent.push(Instant::now());
            let packet = packet::echo(self.to, self.token, self.sequence, bytes);
            if let Err(error) = self.socket.get_ref().send_to(&packet, &packet::target(self.to).into()) {
                unsendable = Some(error.to_string());
            }
            let patience = if attempt == attempts { pause.max(PATIENCE.min(pause * 2)) } else { pause };
            let answered = timeout(patience, self.reply(first)).await;
            if let Ok(Ok(sequence)) = answered {
                let nth = usize::from(sequence - first);
                return Echoed::Answered(sent.get(nth).map(Instant::elapsed).unwrap_or_default());
            }
        }
        unsendable.map_or(Echoed::Lost, Echoed::Unsendable)
    }

    /// The next reply to one of this size.
    async fn reply(&self, first: u16) -> io::Result<u16> {
        let mut buffer = [0; 256];
        loop {
            let mut ready = self.socket.readable().await?;
            match ready.try_io(|socket| {
                let mut socket = socket.get_ref();
                socket.read(&mut buffer)
            }) {
                Ok(received) => {
                    let reply = packet::reply(&buffer[..received?], self.to.is_ipv6(), self.token);
                    if let Some(sequence) =
                        reply.filter(|sequence| (first..=self.sequence).contains(sequence))
                    {
                        return Ok(sequence);
                    }
                }
                Err(_would_block) => {}
            }
        }
    }

    /// The largest size that is answered, of those between a small one, which is, and a full one, which is not.
    async fn largest(&mut self, full: usize) -> usize {
        let (mut answered, mut lost) = (SMALL, full);
        while lost.saturating_sub(answered) > STEP {
            let middle = (answered + lost) / 2 / STEP * STEP;
            let (attempts, patience) = SEARCH;
            match self.ask(middle, attempts, patience).await {
                Echoed::Answered(_) => answered = middle,
                Echoed::Lost | Echoed::Unsendable(_) => lost = middle,
            }
        }
        answered
    }
}
