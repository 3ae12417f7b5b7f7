//! The stream of a session: the node as managers see it, the managers, the root certificate.

use futures_util::Stream;
use proto::model::{Node, NodeState};
use proto::wire::{self, SessionMessage};
use raft_store::Tables;
use tonic::Status;

use super::session::Marks;
use super::sessions::Session;
use crate::fanout::Subscription;
use crate::managers::Managers;

/// Sends a message at once and whenever its content has changed. Ends with an error that says why.
pub fn stream(
    session: Session,
    subscription: Subscription<Marks>,
    managers: Managers,
) -> impl Stream<Item = Result<SessionMessage, Status>> + Send {
    async_stream::stream! {
        let mut last = None;
        let mut group = managers.watch();
        loop {
            group.mark_unchanged();
            let view = subscription.read(|view, _, _| view);
            let message = match view.node(session.node()) {
                Some(node) if node.status.state != NodeState::Down => {
                    message(&view, &session, node, &managers)
                }
                Some(_) => {
                    yield Err(Status::unavailable("the node was silent and counts as down: register again"));
                    return;
                }
                None => {
                    yield Err(Status::permission_denied("the node was removed from the swarm"));
                    return;
                }
            };
            if last.as_ref() != Some(&message) {
                last = Some(message.clone());
                yield Ok(message);
            }
            tokio::select! {
                () = subscription.changed() => {}
                Ok(()) = group.changed() => {}
                () = session.ended() => {
                    yield Err(Status::aborted("the session has ended here: register again"));
                    return;
                }
            }
        }
    }
}

fn message(tables: &Tables, session: &Session, node: &Node, managers: &Managers) -> SessionMessage {
    let mut node = wire::Node::from(node);
    // Changes with every write to the node, also with those that say nothing new to it.
    node.meta = None;
    // The cluster's; told with the node since that is where a worker looks for it.
    node.vxlan_udp_port = tables.cluster().map_or(0, |cluster| cluster.vxlan_port.into());
    SessionMessage {
        session_id: session.id().to_owned(),
        node: Some(node),
        managers: managers.weighted_peers(),
        network_bootstrap_keys: Vec::new(),
        root_ca: tables.cluster().map(|cluster| cluster.root_ca.cert.clone()).unwrap_or_default(),
    }
}
