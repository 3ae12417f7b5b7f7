//! Replication over gRPC: openraft's messages as `swarm.raft.v1`.
//!
//! Heartbeats, votes and forwarded proposals have a connection of their own, so that they never wait behind entries
//! or a snapshot. Every message names the member that it is for: an address may have passed to another one, and what
//! that one acknowledges must not count. Who may call at all is decided by a layer around the service, whom of the
//! callers a member obeys by `admission`.

mod admission;
mod client;
mod incoming;
mod server;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::raft::raft_client::RaftClient;
use tokio::time::Instant;
use tonic::transport::Channel;

pub(crate) use self::admission::Heard;
pub(crate) use self::client::Network;
pub(crate) use self::incoming::Incoming;
pub use self::server::Service;
use crate::host::{Wire, dial};
use crate::{Member, RaftId};

/// The longest message: an append of one entry of the longest kind, and room for what is around it.
pub(crate) const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// A member that does not react for so long is taken for unreachable.
pub(crate) const SETUP_TIMEOUT: Duration = Duration::from_secs(3);

/// Makes connections to other managers, with the node's certificate.
pub trait Dial: Send + Sync {
    /// A channel to `addr` (host:port) that connects when it is first used, and again after it broke.
    fn channel(&self, addr: &str) -> Channel;
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    Control,
    Entries,
    Snapshot,
}

struct Line {
    channel: Wire,
    /// When the first of the messages was sent that were not answered.
    waiting_since: Option<Instant>,
}

impl Line {
    fn new(channel: Wire) -> Self {
        Self { channel, waiting_since: None }
    }
}

/// Connections to the other members.
pub(crate) struct Peers {
    dial: Arc<dyn Dial>,
    lines: Mutex<HashMap<(String, Lane), Line>>,
    /// Where the members listen now. Raft's own clients keep the address with which they were made.
    addrs: Mutex<HashMap<RaftId, String>>,
}

impl Peers {
    pub(crate) fn new(dial: Arc<dyn Dial>) -> Self {
        Self { dial, lines: Mutex::default(), addrs: Mutex::default() }
    }

    pub(crate) fn client(&self, addr: &str, lane: Lane) -> RaftClient<Wire> {
        let channel = self.with_line(addr, lane, |line| line.channel.clone());
        RaftClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Before something is sent that will be answered soon. A connection on which that has not happened for long is
    /// replaced: after a cut, TCP may wait for minutes before it tries again.
    fn expect(&self, addr: &str, lane: Lane) {
        self.with_line(addr, lane, |line| {
            if line.waiting_since.is_some_and(|since| since.elapsed() > SETUP_TIMEOUT) {
                *line = Line::new(dial(&*self.dial, addr));
            }
            line.waiting_since.get_or_insert_with(Instant::now);
        });
    }

    fn heard(&self, addr: &str, lane: Lane) {
        self.with_line(addr, lane, |line| line.waiting_since = None);
    }

    fn with_line<T>(&self, addr: &str, lane: Lane, look: impl FnOnce(&mut Line) -> T) -> T {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        look(lines.entry((addr.into(), lane)).or_insert_with(|| Line::new(dial(&*self.dial, addr))))
    }

    /// The address of a member, or `known` as long as there is no news of it.
    fn addr(&self, member: RaftId, known: &str) -> String {
        let addrs = self.addrs.lock().unwrap_or_else(PoisonError::into_inner);
        addrs.get(&member).map_or(known, String::as_str).into()
    }

    /// Follows the membership, and forgets the connections to those who are gone.
    pub(crate) fn follow(&self, members: &[Member]) {
        let addrs = members.iter().map(|member| (member.raft_id, member.addr.clone())).collect();
        *self.addrs.lock().unwrap_or_else(PoisonError::into_inner) = addrs;
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.retain(|(addr, _), _| members.iter().any(|member| member.addr == *addr));
    }
}

/// Whether the request certainly never left this machine.
pub(crate) fn never_sent(status: &tonic::Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}
