//! The other end: who sent a request, and connections to the other managers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use identity::{Connection, Peer};
use proto::model::NodeId;
use tonic::transport::Channel;
use tonic::{Extensions, Request, Status};

/// The node that sent the request. The access layer lets only nodes call what asks for it.
pub fn node_id<T>(request: &Request<T>) -> Result<NodeId, Status> {
    sender(request.extensions()).ok_or_else(|| Status::permission_denied("only a node may call this"))
}

/// The node that sent a request with these extensions; none if no node did.
pub fn sender(extensions: &Extensions) -> Option<NodeId> {
    match Peer::of(extensions) {
        Peer::Node { id, .. } => Some(id.clone()),
        Peer::Local | Peer::Anonymous => None,
    }
}

/// The address from which the request came; none on the unix socket.
pub fn remote_ip<T>(request: &Request<T>) -> Option<IpAddr> {
    let remote = Connection::of(request.extensions())?.remote?;
    // A listener on [::] sees IPv4 clients as ::ffff:a.b.c.d.
    Some(remote.ip().to_canonical())
}

/// How a manager is reached.
pub trait Connect: Send + Sync {
    /// A channel that connects when it is first used. The error says what is wrong with the address.
    fn connect(&self, addr: &str) -> Result<Channel, Status>;
}

impl Connect for identity::Dialer {
    fn connect(&self, addr: &str) -> Result<Channel, Status> {
        self.channel(addr).map_err(|error| Status::unavailable(error.to_string()))
    }
}

/// Connections to other managers, one an address. A channel that broke connects again by itself.
#[derive(Clone)]
pub struct Peers {
    connect: Arc<dyn Connect>,
    channels: Arc<Mutex<HashMap<String, Channel>>>,
}

/// Managers that left leave their channels behind; so many of those are too many.
const MOST_CHANNELS: usize = 64;

impl Peers {
    pub fn new(connect: Arc<dyn Connect>) -> Self {
        Self { connect, channels: Arc::default() }
    }

    pub fn channel(&self, addr: &str) -> Result<Channel, Status> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(addr) {
            return Ok(channel.clone());
        }
        let channel = self.connect.connect(addr)?;
        if channels.len() >= MOST_CHANNELS {
            channels.clear();
        }
        channels.insert(addr.to_owned(), channel.clone());
        Ok(channel)
    }
}
