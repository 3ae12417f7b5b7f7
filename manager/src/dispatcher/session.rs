//! Registering a node, and the marks of its session: what it is told of itself has changed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use proto::convert::Within;
use proto::model::{IssuanceState, Node, NodeDescription, NodeId, NodeState, VTEP_LABEL};
use proto::wire::SessionRequest;
use raft_store::{Commit, Object, Store};
use tonic::Status;

use super::sessions::Session;
use crate::api::limits;
use crate::ca::rotation;
use crate::error::{Error, status};
use crate::fanout;

/// What the node says of itself, checked.
pub fn description(request: SessionRequest) -> Result<NodeDescription, Error> {
    let description = request.description.ok_or_else(|| proto::convert::Error::missing("description"))?;
    limits::description_size("description", &description)?;
    let description = NodeDescription::try_from(description).within("description")?;
    limits::length("description.hostname", &description.hostname)?;
    limits::map("description.engine.labels", &description.engine.labels)?;
    limits::count("description.engine.plugins", description.engine.plugins.len())?;
    if let Some(vtep) = description.engine.labels.get(VTEP_LABEL)
        && vtep.parse::<IpAddr>().is_err()
    {
        let field = format!("description.engine.labels[{VTEP_LABEL}]");
        return Err(Error::invalid(field, vtep, "an IP address is needed"));
    }
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
        if rotation::is_behind(tx, &node) {
            // It may have lost what it was given.
            node.certificate.state = IssuanceState::Rotate;
        }
        node.status.state = NodeState::Ready;
        node.status.message = format!("session {}", session.id());
        if let Some(addr) = reached_at(known, addr) {
            node.status.addr = addr.to_string();
        }
        tx.update(node);
        Ok(())
    });
    updated.await.map_err(status)
}

/// Where other nodes reach this one. A manager that came by way of the loopback device is where it advertises itself.
fn reached_at(node: &Node, seen: Option<IpAddr>) -> Option<IpAddr> {
    let seen = seen?;
    let advertised = || {
        let (host, _) = node.manager.as_ref()?.addr.rsplit_once(':')?;
        host.trim_start_matches('[').trim_end_matches(']').parse().ok()
    };
    if seen.is_loopback() { advertised().or(Some(seen)) } else { Some(seen) }
}

/// That what the session's stream tells may have changed. What it tells is read from the store each time.
#[derive(Debug)]
pub struct Marks;

pub struct Touched {
    nodes: BTreeSet<NodeId>,
    /// The root certificate, which every node is told.
    everybody: bool,
}

impl fanout::Marks for Marks {
    type Touched = Touched;
    type Journal = fanout::Nothing<Touched>;

    fn touched(commit: &Commit) -> Option<Touched> {
        let mut touched = Touched { nodes: BTreeSet::new(), everybody: false };
        for change in &commit.changes {
            match change.object() {
                Object::Node(node) => {
                    touched.nodes.insert(node.id.clone());
                }
                Object::Cluster(_) => touched.everybody = true,
                Object::Service(_) | Object::Task(_) | Object::Network(_) | Object::Keyring(_) => {}
            }
        }
        (touched.everybody || !touched.nodes.is_empty()).then_some(touched)
    }

    fn nodes(touched: &Touched) -> Option<impl Iterator<Item = &NodeId>> {
        (!touched.everybody).then(|| touched.nodes.iter())
    }

    fn mark(&mut self, node: &NodeId, touched: &Touched) -> bool {
        touched.everybody || touched.nodes.contains(node)
    }

    fn mark_all(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{manager, node};

    #[test]
    fn a_manager_on_the_loopback_device_is_where_it_advertises_itself() {
        let loopback = Some(IpAddr::from([127, 0, 0, 1]));
        let elsewhere = Some(IpAddr::from([192, 0, 2, 9]));
        let manager = manager(1, "192.0.2.1:2377");
        assert_eq!(reached_at(&manager, loopback), Some(IpAddr::from([192, 0, 2, 1])));
        assert_eq!(reached_at(&manager, elsewhere), elsewhere);
        assert_eq!(reached_at(&node(1), loopback), loopback);
    }

    #[test]
    fn what_a_node_says_of_itself_is_bounded() {
        let label = |n: usize| (format!("label{n}"), "x".repeat(4000));
        let engine =
            proto::wire::EngineDescription { labels: (0..17).map(label).collect(), ..Default::default() };
        let long = proto::wire::NodeDescription { engine: Some(engine), ..Default::default() };
        let refused = description(SessionRequest { description: Some(long), ..Default::default() });
        assert!(refused.unwrap_err().to_string().contains("at most 65536 bytes are allowed"));
    }

    #[test]
    fn the_address_of_the_tunnel_must_be_one() {
        let engine = proto::wire::EngineDescription {
            labels: [(VTEP_LABEL.to_owned(), "eth0".to_owned())].into(),
            ..Default::default()
        };
        let named = proto::wire::NodeDescription { engine: Some(engine), ..Default::default() };
        let refused = description(SessionRequest { description: Some(named), ..Default::default() });
        assert!(refused.unwrap_err().to_string().contains("\"eth0\": an IP address is needed"));
    }
}
