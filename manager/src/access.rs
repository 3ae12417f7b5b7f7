//! Who may call what: one table, and the layer that enforces it in front of every service.
//!
//! Decides by path and caller alone; what a caller may see or change through a call that it may make is the service's
//! business. What the table does not name is refused.
//!
//! A certificate tells what a node was when it was issued, the store what the node is now: the lesser of the two roles
//! counts, and a node that is in no store any more may do nothing.

mod layer;
mod load;
mod table;

use proto::model::{ClusterId, NodeId, Role};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

pub use layer::Guard;
pub use table::{Callers, Rule, paths, rule};

use identity::Peer;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("{path} is not a call that a manager serves")]
    UnknownCall { path: String },
    #[error("{who} may not call {path}: only {allowed} may")]
    Role { who: &'static str, path: String, allowed: Callers },
    #[error("the certificate of node {node} belongs to cluster {theirs}, not to this one")]
    ForeignCluster { node: NodeId, theirs: ClusterId },
    #[error("node {0} is not part of this swarm: it was removed")]
    Removed(NodeId),
    #[error(
        "this manager does not know node {0}, but it may not have caught up with the others: ask another one"
    )]
    Unknown(NodeId),
}

/// In the metadata of a refusal, if it is because the node was removed from the swarm.
pub const REMOVED: &str = "swarm-node-removed";

impl From<Denied> for Status {
    fn from(denied: Denied) -> Self {
        let is_removed = matches!(denied, Denied::Removed(_));
        let code = match denied {
            Denied::UnknownCall { .. } => Code::Unimplemented,
            Denied::Unknown(_) => Code::Unavailable,
            Denied::Role { .. } | Denied::ForeignCluster { .. } | Denied::Removed(_) => {
                Code::PermissionDenied
            }
        };
        let mut status = Self::new(code, denied.to_string());
        if is_removed {
            status.metadata_mut().insert(REMOVED, MetadataValue::from_static("yes"));
        }
        status
    }
}

/// Whether a peer with this certificate may call `path`, as far as the certificate tells.
pub fn check(path: &str, peer: &Peer, cluster: &ClusterId) -> Result<Rule, Denied> {
    let rule = rule(path).ok_or_else(|| Denied::UnknownCall { path: path.into() })?;
    if let Peer::Node { id, cluster: theirs, .. } = peer
        && theirs != cluster
    {
        return Err(Denied::ForeignCluster { node: id.clone(), theirs: theirs.clone() });
    }
    let caller = match peer {
        Peer::Local => Callers::LOCAL,
        Peer::Node { role, .. } => Callers::of(*role),
        Peer::Anonymous => Callers::ANONYMOUS,
    };
    permit(path, rule, caller)
}

/// Whether a node that has the role `role` in the store, none if it is not there, may call `path`.
pub fn check_member(path: &str, rule: Rule, node: &NodeId, role: Option<Role>) -> Result<(), Denied> {
    let role = role.ok_or_else(|| Denied::Removed(node.clone()))?;
    // A node that was promoted and has not yet renewed its certificate passed `check` as the worker that it was.
    if role == Role::Manager {
        return Ok(());
    }
    permit(path, rule, Callers::WORKER).map(drop)
}

fn permit(path: &str, rule: Rule, caller: Callers) -> Result<Rule, Denied> {
    if rule.callers.contains(caller) {
        return Ok(rule);
    }
    Err(Denied::Role { who: caller.name(), path: path.into(), allowed: rule.callers })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST_NODES: &str = "/docker.swarmkit.v1.Control/ListNodes";
    const SESSION: &str = "/docker.swarmkit.v1.Dispatcher/Session";

    fn node(role: Role, cluster: &str) -> Peer {
        Peer::Node { id: "n1".into(), role, cluster: cluster.into() }
    }

    fn refusal(path: &str, peer: &Peer) -> String {
        check(path, peer, &"c1".into()).unwrap_err().to_string()
    }

    #[test]
    fn says_who_may_call() {
        assert_eq!(
            refusal(LIST_NODES, &node(Role::Worker, "c1")),
            "a worker may not call /docker.swarmkit.v1.Control/ListNodes: only managers and local clients may",
        );
        assert!(refusal(SESSION, &Peer::Anonymous).starts_with("a client without a certificate may not"));
        assert!(check(LIST_NODES, &Peer::Local, &"c1".into()).is_ok());
        assert!(check(SESSION, &node(Role::Worker, "c1"), &"c1".into()).is_ok());
    }

    #[test]
    fn another_clusters_certificate_opens_nothing() {
        let foreign = node(Role::Manager, "c2");
        for path in [LIST_NODES, "/docker.swarmkit.v1.CA/GetRootCACertificate"] {
            assert!(refusal(path, &foreign).contains("belongs to cluster c2"), "{path}");
        }
    }

    #[test]
    fn what_the_table_does_not_name_is_refused() {
        for path in ["", "/", "/docker.swarmkit.v1.Control", "/docker.swarmkit.v1.Control/", "/a/b/c"] {
            assert!(
                matches!(check(path, &Peer::Local, &"c1".into()), Err(Denied::UnknownCall { .. })),
                "{path}"
            );
        }
        let code = Status::from(check("/a/b", &Peer::Local, &"c1".into()).unwrap_err()).code();
        assert_eq!(code, Code::Unimplemented);
    }

    #[test]
    fn the_store_can_take_away_what_the_certificate_grants() {
        let rule = check(LIST_NODES, &node(Role::Manager, "c1"), &"c1".into()).unwrap();
        let asked = |role| check_member(LIST_NODES, rule, &"n1".into(), role);
        assert_eq!(asked(Some(Role::Manager)), Ok(()));
        assert!(matches!(asked(Some(Role::Worker)), Err(Denied::Role { .. })));
        assert_eq!(asked(None), Err(Denied::Removed("n1".into())));
    }
}
