//! What a worker knows from its session, for the rest of the node: its role, the managers, the root CA.

use proto::model::Node;

#[derive(Debug, Clone, Default)]
pub struct SessionView {
    /// This node as the managers see it; none before the first session.
    pub node: Option<Node>,
    /// host:port of every manager known.
    pub managers: Vec<String>,
    /// PEM; empty before the first session.
    pub root_ca: Vec<u8>,
    /// The manager that serves the present session.
    pub connected_to: Option<String>,
    /// Why there is no session, in one line.
    pub error: Option<String>,
    /// Every manager that is known says that this node is no part of the swarm any more.
    pub removed: bool,
}
