//! Who is at the other end of a connection.
//!
//! A peer's identity is that of its handshake, for as long as the connection lasts: it neither expires nor changes role
//! in the middle. Who must not wait for the peer to reconnect (a node was removed or demoted) looks at the store, or
//! closes the session.

use std::net::SocketAddr;

use proto::model::{ClusterId, NodeId, Role};
use tonic::Extensions;

use crate::certificate::Subject;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A process of this machine that may open the unix socket.
    Local,
    /// A node that has shown a certificate of this cluster.
    Node { id: NodeId, role: Role, cluster: ClusterId },
    /// Nobody in particular.
    Anonymous,
}

impl Peer {
    /// The sender of a request with these extensions; nobody, if the listener is not one of ours.
    pub fn of(extensions: &Extensions) -> &Self {
        Connection::of(extensions).map_or(&Self::Anonymous, |connection| &connection.peer)
    }
}

impl From<Subject> for Peer {
    fn from(subject: Subject) -> Self {
        Self::Node { id: subject.node, role: subject.role, cluster: subject.cluster }
    }
}

/// What every request of a connection carries in its extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    pub peer: Peer,
    /// The address the peer was seen at; none on the unix socket.
    pub remote: Option<SocketAddr>,
}

impl Connection {
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        extensions.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_a_foreign_listener_comes_from_nobody() {
        assert_eq!(*Peer::of(&Extensions::new()), Peer::Anonymous);
    }
}
