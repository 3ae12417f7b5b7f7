//! Nodes: machines of the swarm.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Annotations, Meta, NodeId};

/// Engine label by which a node names the address of its VXLAN tunnel end point, where it is not the address
/// from which the node reaches the managers.
pub const VTEP_LABEL: &str = "swarm.data-path-addr";

/// Engine label by which a node tells the destinations of its own routes, with commas between them, so that
/// networks are given other subnets.
pub const ROUTES_LABEL: &str = "swarm.routes";

/// Of one node's routes, so many count.
const MOST_ROUTES: usize = 64;

/// Engine label that says what the node's kernel lacks for encrypted networks; empty if it lacks nothing.
pub const ENCRYPTION_LABEL: &str = "swarm.encryption-lacks";

#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub id: NodeId,
    pub meta: Meta,
    pub spec: NodeSpec,
    /// What the node tells of itself; none before its first session.
    pub description: Option<NodeDescription>,
    pub status: NodeStatus,
    /// Present while the node is a member of the Raft group.
    pub manager: Option<ManagerStatus>,
    pub certificate: Certificate,
    /// The role that the node has; `spec.desired_role` is the one it shall have.
    pub role: Role,
}

impl Node {
    /// Where VXLAN packets for the node's tasks go (RFC 7348).
    pub fn vtep(&self) -> Option<IpAddr> {
        let named = self.description.as_ref().and_then(|d| d.engine.labels.get(VTEP_LABEL));
        named.unwrap_or(&self.status.addr).parse().ok()
    }

    /// Destinations of the node's own routes, as far as it tells.
    pub fn routes(&self) -> impl Iterator<Item = IpNet> {
        let told = self.description.as_ref().and_then(|d| d.engine.labels.get(ROUTES_LABEL));
        let routes = told.into_iter().flat_map(|told| told.split(','));
        routes.filter_map(|route| route.parse().ok()).take(MOST_ROUTES)
    }

    pub fn hostname(&self) -> &str {
        self.description.as_ref().map_or("", |description| &description.hostname)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSpec {
    pub annotations: Annotations,
    pub desired_role: Role,
    pub membership: Membership,
    pub availability: Availability,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    #[default]
    Worker,
    Manager,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Membership {
    Pending,
    #[default]
    Accepted,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Availability {
    #[default]
    Active,
    /// Keeps its tasks, gets no new ones.
    Pause,
    /// Gets no tasks and loses those it has.
    Drain,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeDescription {
    pub hostname: String,
    pub platform: Platform,
    /// Billionths of a CPU.
    pub nano_cpus: u64,
    pub memory_bytes: u64,
    pub engine: EngineDescription,
    /// None from a node that does not tell.
    pub tls: Option<TlsInfo>,
}

/// What a node trusts, and who has issued its certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsInfo {
    /// PEM.
    pub trust_root: Vec<u8>,
    /// DER.
    pub issuer_subject: Vec<u8>,
    /// DER, with the kind of key (RFC 5280, section 4.1).
    pub issuer_public_key: Vec<u8>,
}

/// Names as Go has them: `x86_64` is written `amd64` by images; comparing them is the scheduler's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Platform {
    pub architecture: String,
    pub os: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineDescription {
    pub version: String,
    pub labels: BTreeMap<String, String>,
    /// Type (`Network`, `Volume`, `Log`) and name.
    pub plugins: Vec<(String, String)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeStatus {
    pub state: NodeState,
    pub message: String,
    /// IP address from which the node's session comes.
    pub addr: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodeState {
    #[default]
    Unknown,
    Down,
    Ready,
    Disconnected,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagerStatus {
    pub raft_id: u64,
    /// host:port that other managers and nodes reach.
    pub addr: String,
    /// Known at the moment of reading only, never stored.
    pub leader: bool,
    /// Known at the moment of reading only, never stored.
    pub reachability: Reachability,
    /// Entries of the log that the manager has not yet got. Known at the moment of reading only, if at all.
    pub lag: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reachability {
    #[default]
    Unknown,
    Unreachable,
    Reachable,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    pub role: Role,
    /// PEM.
    pub csr: Vec<u8>,
    pub state: IssuanceState,
    pub error: String,
    /// PEM, the leaf first.
    pub chain: Vec<u8>,
    /// Common name: the node's id.
    pub cn: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IssuanceState {
    #[default]
    Unknown,
    Renew,
    Pending,
    Issued,
    Failed,
    Rotate,
}
