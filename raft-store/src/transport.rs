//! Replication over gRPC: openraft's messages as `swarm.raft.v1`.
//!
//! Heartbeats, votes and forwarded proposals have a connection of their own, so that they never wait behind entries
//! or a snapshot. Every message names the member that it is for: an address may have passed to another one, and what
//! that one acknowledges must not count. Who may call is decided by a layer around the service.

mod client;
mod server;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::raft::raft_client::RaftClient;
use tonic::transport::Channel;

pub(crate) use self::client::Network;
pub use self::server::Service;

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

/// Connections to the other members.
pub(crate) struct Peers {
    dial: Arc<dyn Dial>,
    channels: Mutex<HashMap<(String, Lane), Channel>>,
}

impl Peers {
    pub(crate) fn new(dial: Arc<dyn Dial>) -> Self {
        Self { dial, channels: Mutex::new(HashMap::new()) }
    }

    pub(crate) fn client(&self, addr: &str, lane: Lane) -> RaftClient<Channel> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = channels.entry((addr.into(), lane)).or_insert_with(|| self.dial.channel(addr)).clone();
        RaftClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Forgets the connections to members that are gone.
    pub(crate) fn retain(&self, addrs: &[String]) {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        channels.retain(|(addr, _), _| addrs.contains(addr));
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
