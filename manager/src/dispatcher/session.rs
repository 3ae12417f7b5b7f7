//! Registering a node, and the marks of its session: what it is told of itself has changed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use proto::convert::Within;
use proto::model::{ManagerStatus, Node, NodeDescription, NodeId, NodeState};
use proto::wire::SessionRequest;
use raft_store::{Commit, Object, Store};
use tonic::Status;

use super::sessions::Session;
use crate::api::limits;
use crate::error::{Error, status};
use crate::fanout;

/// What the node says of itself, checked.
pub fn description(request: SessionRequest) -> Result<NodeDescription, Error> {
    let description = request.description.ok_or_else(|| proto::convert::Error::missing("description"))?;
    let description = NodeDescription::try_from(description).within("description")?;
    limits::length("description.hostname", &description.hostname)?;
    limits::map("description.engine.labels", &description.engine.labels)?;
    limits::count("description.engine.plugins", description.engine.plugins.len())?;
    Ok(description)
}

/// Writes that the node is ready, where it is and what it is.
///
/// The session's id makes each registration a change. Once it is committed, the replica here is at least as new as
/// what the node was told by any manager before: so a node that moves to this one is not told of an older state.
pub async fn register(
    store: &Store,
    session: &Session,
    description: &NodeDescription,
    addr: Option<IpAddr>,
) -> Result<(), Status> {
    let updated = store.update(|tx| {
        let known = tx.node(session.node()).ok_or_else(|| Error::not_found("node", session.node()))?;
        let mut node = Node::clone(known);
        node.description = Some(description.clone());
        node.status.state = NodeState::Ready;
        node.status.message = format!("session {}", session.id());
        if let Some(addr) = addr {
            node.status.addr = addr.to_string();
        }
        tx.update(node);
        Ok(())
    });
    updated.await.map_err(status)
}

/// That what the session's stream tells may have changed. What it tells is read from the store each time.
#[derive(Debug)]
pub struct Marks;

pub struct Touched {
    nodes: BTreeSet<NodeId>,
    /// The root certificate or the managers, which every node is told.
    everybody: bool,
}

impl fanout::Marks for Marks {
    type Touched = Touched;

    fn touched(commit: &Commit) -> Option<Touched> {
        let mut touched = Touched { nodes: BTreeSet::new(), everybody: false };
        for change in &commit.changes {
            match change.object() {
                Object::Node(node) => {
                    touched.nodes.insert(node.id.clone());
                    touched.everybody |= manager(&change.before) != manager(&change.after);
                }
                Object::Cluster(_) => touched.everybody = true,
                Object::Service(_) | Object::Task(_) | Object::Network(_) => {}
            }
        }
        (touched.everybody || !touched.nodes.is_empty()).then_some(touched)
    }

    fn mark(&mut self, node: &NodeId, touched: &Touched) -> bool {
        touched.everybody || touched.nodes.contains(node)
    }

    fn mark_all(&mut self) {}
}

fn manager(object: &Option<Object>) -> Option<&ManagerStatus> {
    object.as_ref()?.as_node()?.manager.as_ref()
}
