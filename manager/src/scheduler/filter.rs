//! Which nodes a task fits on, and why it does not fit on the others.
//!
//! Each filter says why in its own words; `explain` counts, for every node, the first filter that refused it.

use std::collections::BTreeSet;

use proto::model::{
    Availability, ENCRYPTION_LABEL, EngineDescription, Membership, Node, NodeState, OVERLAY_DRIVER,
    ServiceId, Task, TaskSpec,
};
use raft_store::Tables;

use super::constraint::{self, Constraint};
use super::inventory::{Count, Inventory, Stock};
use super::platform;

/// What a group of equal tasks asks for, read once.
pub struct Request<'a> {
    pub service: &'a ServiceId,
    pub spec: &'a TaskSpec,
    /// One that cannot be read is met nowhere.
    constraints: Vec<Option<Constraint>>,
    drivers: Vec<&'a str>,
    /// It is to be on an encrypted network.
    encrypted: bool,
}

impl<'a> Request<'a> {
    pub fn of(task: &'a Task, view: &'a Tables) -> Self {
        let constraints = task.spec.placement.constraints.iter().map(|text| constraint::parse(text).ok());
        let networks = || task.spec.networks.iter().filter_map(|config| view.network(&config.network));
        let drivers = networks().map(|network| network.spec.driver.name.as_str());
        let drivers = drivers.map(|name| if name.is_empty() { OVERLAY_DRIVER } else { name });
        Self {
            service: &task.service,
            spec: &task.spec,
            constraints: constraints.collect(),
            drivers: drivers.collect(),
            encrypted: networks().any(|network| network.is_encrypted()),
        }
    }
}

struct Filter {
    fits: fn(&Request<'_>, &Stock<'_>, Count) -> bool,
    /// Told of the nodes that the filter refused.
    explain: fn(&[&Node]) -> String,
}

/// In the order in which they are asked: what tells most about a node comes first.
const FILTERS: [Filter; 8] = [
    Filter {
        fits: |_, stock, _| takes_tasks(stock.node),
        explain: |n| format!("{} not available for new tasks", nodes(n)),
    },
    Filter {
        fits: |request, stock, _| meets_constraints(&request.constraints, stock.node),
        explain: |n| format!("scheduling constraints not satisfied on {}", nodes(n)),
    },
    Filter {
        fits: |request, stock, _| runs_platform(request.spec, stock.node),
        explain: |n| format!("unsupported platform on {}", nodes(n)),
    },
    Filter {
        fits: |request, stock, _| has_drivers(&request.drivers, stock.node),
        explain: |n| format!("missing network plugin on {}", nodes(n)),
    },
    Filter {
        fits: |request, stock, _| !request.encrypted || can_encrypt(stock.node),
        explain: |n| format!("the kernel lacks {} for encrypted networks on {}", lacking(n), nodes(n)),
    },
    Filter {
        fits: |request, stock, _| request.spec.reservations.nano_cpus <= stock.free.nano_cpus,
        explain: |n| format!("insufficient CPUs on {}", nodes(n)),
    },
    Filter {
        fits: |request, stock, _| request.spec.reservations.memory_bytes <= stock.free.memory_bytes,
        explain: |n| format!("insufficient memory on {}", nodes(n)),
    },
    Filter {
        fits: |request, _, count| {
            let most = request.spec.placement.max_replicas;
            most == 0 || count.active < most
        },
        explain: |n| format!("max replicas per node reached on {}", nodes(n)),
    },
];

pub fn fits(request: &Request<'_>, inventory: &Inventory<'_>, at: usize) -> bool {
    refusal(request, inventory, at).is_none()
}

/// Why none of the nodes at `positions` fits.
pub fn explain(
    request: &Request<'_>,
    inventory: &Inventory<'_>,
    positions: impl Iterator<Item = usize>,
) -> String {
    let mut refused = [const { Vec::new() }; FILTERS.len()];
    for at in positions {
        if let Some(filter) = refusal(request, inventory, at) {
            refused[filter].push(inventory.stock(at).node);
        }
    }
    let told = FILTERS.iter().zip(&refused).filter(|(_, nodes)| !nodes.is_empty());
    let told = told.map(|(filter, nodes)| (filter.explain)(nodes));
    let told: Vec<String> = told.collect();
    if told.is_empty() {
        "no suitable node".into()
    } else {
        format!("no suitable node ({})", told.join("; "))
    }
}

/// The first filter that refuses the node.
fn refusal(request: &Request<'_>, inventory: &Inventory<'_>, at: usize) -> Option<usize> {
    let (stock, count) = (inventory.stock(at), inventory.count_of(request.service, at));
    FILTERS.iter().position(|filter| !(filter.fits)(request, stock, count))
}

fn nodes(nodes: &[&Node]) -> String {
    if nodes.len() == 1 { "1 node".into() } else { format!("{} nodes", nodes.len()) }
}

/// What one of the nodes or another lacks.
fn lacking(nodes: &[&Node]) -> String {
    let parts = nodes.iter().filter_map(|node| lacks(node)).flat_map(|lacks| lacks.split(", "));
    parts.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ")
}

/// The node is there and wanted for new tasks.
pub fn takes_tasks(node: &Node) -> bool {
    node.status.state == NodeState::Ready
        && node.spec.availability == Availability::Active
        && node.spec.membership == Membership::Accepted
}

/// What of a placement does not depend on other tasks: constraints and platform. Global services ask it too.
pub fn is_eligible(spec: &TaskSpec, node: &Node) -> bool {
    let mut constraints = spec.placement.constraints.iter();
    constraints.all(|text| constraint::parse(text).is_ok_and(|c| c.is_met_by(node)))
        && runs_platform(spec, node)
}

fn meets_constraints(constraints: &[Option<Constraint>], node: &Node) -> bool {
    constraints.iter().all(|constraint| constraint.as_ref().is_some_and(|c| c.is_met_by(node)))
}

fn runs_platform(spec: &TaskSpec, node: &Node) -> bool {
    let platforms = &spec.placement.platforms;
    let Some(description) = &node.description else { return platforms.is_empty() };
    platforms.is_empty() || platforms.iter().any(|image| platform::fits(image, &description.platform))
}

/// A node that does not say what its kernel lacks is taken to lack nothing; else it refuses the task itself.
fn can_encrypt(node: &Node) -> bool {
    lacks(node).is_none_or(str::is_empty)
}

fn lacks(node: &Node) -> Option<&str> {
    node.description.as_ref()?.engine.labels.get(ENCRYPTION_LABEL).map(String::as_str)
}

/// A node that names no network plugin at all is taken at its word for the ones that every node has.
fn has_drivers(drivers: &[&str], node: &Node) -> bool {
    let named = |engine: &EngineDescription, driver: Option<&str>| {
        let mut plugins = engine.plugins.iter().filter(|(kind, _)| kind == "Network");
        plugins.any(|(_, name)| driver.is_none_or(|driver| driver == name))
    };
    let Some(description) = &node.description else { return true };
    !named(&description.engine, None) || drivers.iter().all(|driver| named(&description.engine, Some(driver)))
}
