//! On which nodes a global service has a task.

use std::collections::BTreeMap;

use proto::model::{Availability, Membership, Node, NodeState, Service};
use raft_store::Tables;

use super::Place;
use super::cell::Cell;
use super::plan::Want;
use crate::scheduler::is_eligible;

pub(super) fn wanted(
    view: &Tables,
    service: &Service,
    cells: &BTreeMap<Place, Cell<'_>>,
) -> BTreeMap<Place, Want> {
    // What is on no node of the swarm is dropped: nodes that were removed, slots of a service that was replicated.
    let mut wanted: BTreeMap<Place, Want> = cells.keys().map(|place| (place.clone(), Want::Drop)).collect();
    for node in view.nodes() {
        wanted.insert(Place::Node(node.id.clone()), on_node(service, node));
    }
    wanted
}

fn on_node(service: &Service, node: &Node) -> Want {
    let gone = node.status.state == NodeState::Down
        || node.spec.availability == Availability::Drain
        || node.spec.membership != Membership::Accepted;
    if gone {
        return Want::Stop;
    }
    if node.status.state != NodeState::Ready {
        return Want::Hold;
    }
    match node.spec.availability {
        _ if !is_eligible(&service.spec.task, node) => Want::Stop,
        Availability::Active => Want::Run,
        Availability::Pause | Availability::Drain => Want::Hold,
    }
}
