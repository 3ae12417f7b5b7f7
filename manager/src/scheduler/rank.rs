//! Which of the nodes that fit is best.
//!
//! Placement preferences come first: at each level the branch with the fewest tasks of the service is taken. Within
//! a branch: nodes on which the service keeps failing last, then the fewest tasks of the service, then the fewest
//! tasks at all. What is still equal is decided by a hash of service and node, so that small services
//! do not all land on the node with the lowest id, and the same input always gives the same plan.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::hash::{DefaultHasher, Hash, Hasher};

use proto::model::{Node, Preference, ServiceId};

use super::filter::{self, Request};
use super::inventory::Inventory;

/// From this many recent failures on, a node is taken only if there is no other.
const FAULTY: u64 = 5;

/// Smaller is better. The last field is the node's position.
type Rank = (u64, u64, u64, u64, usize);

/// The nodes, best first, in the branches that the preferences make.
pub struct Ranking {
    root: Branch,
}

#[derive(Default)]
struct Branch {
    /// Tasks of the service below here.
    tasks: u64,
    below: Below,
}

enum Below {
    Nodes(BinaryHeap<Reverse<Rank>>),
    /// By label; `order` has those that may still have a node, by number of tasks.
    Branches {
        by_label: BTreeMap<String, Branch>,
        order: BTreeSet<(u64, String)>,
    },
}

impl Default for Below {
    fn default() -> Self {
        Self::Nodes(BinaryHeap::new())
    }
}

impl Ranking {
    pub fn new(request: &Request<'_>, inventory: &Inventory<'_>) -> Self {
        let mut root = Branch::default();
        for at in 0..inventory.len() {
            let tasks = inventory.count_of(request.service, at).active;
            let rank = filter::fits(request, inventory, at).then(|| rank(request.service, inventory, at));
            root.add(&request.spec.placement.preferences, inventory.stock(at).node, tasks, rank);
        }
        root.set_order();
        Self { root }
    }

    /// The best node that still fits, which then counts as taken by `take`.
    pub fn place(
        &mut self,
        request: &Request<'_>,
        inventory: &mut Inventory<'_>,
        take: impl FnOnce(&mut Inventory<'_>, usize),
    ) -> Option<usize> {
        let at = self.root.pop(request, inventory)?;
        take(inventory, at);
        self.root.put_back(
            &request.spec.placement.preferences,
            inventory,
            rank(request.service, inventory, at),
        );
        Some(at)
    }
}

impl Branch {
    /// Nodes that do not fit still count for their branch.
    fn add(&mut self, preferences: &[Preference], node: &Node, tasks: u64, rank: Option<Rank>) {
        self.tasks += tasks;
        let Some((preference, deeper)) = preferences.split_first() else {
            if let (Below::Nodes(heap), Some(rank)) = (&mut self.below, rank) {
                heap.push(Reverse(rank));
            }
            return;
        };
        if let Below::Nodes(_) = self.below {
            self.below = Below::Branches { by_label: BTreeMap::new(), order: BTreeSet::new() };
        }
        if let Below::Branches { by_label, .. } = &mut self.below {
            by_label.entry(label(preference, node)).or_default().add(deeper, node, tasks, rank);
        }
    }

    fn set_order(&mut self) {
        if let Below::Branches { by_label, order } = &mut self.below {
            for (label, branch) in by_label {
                branch.set_order();
                order.insert((branch.tasks, label.clone()));
            }
        }
    }

    /// Takes the best node out. What no longer fits is dropped: within a plan nodes only get fuller.
    fn pop(&mut self, request: &Request<'_>, inventory: &Inventory<'_>) -> Option<usize> {
        match &mut self.below {
            Below::Nodes(heap) => {
                let mut best = std::iter::from_fn(|| heap.pop()).map(|Reverse(rank)| rank.4);
                best.find(|at| filter::fits(request, inventory, *at))
            }
            Below::Branches { by_label, order } => {
                while let Some((_, label)) = order.first() {
                    if let Some(at) =
                        by_label.get_mut(label).and_then(|branch| branch.pop(request, inventory))
                    {
                        return Some(at);
                    }
                    order.pop_first();
                }
                None
            }
        }
    }

    /// Puts a node back that was taken once more.
    fn put_back(&mut self, preferences: &[Preference], inventory: &Inventory<'_>, rank: Rank) {
        self.tasks += 1;
        match (&mut self.below, preferences.split_first()) {
            (Below::Branches { by_label, order }, Some((preference, deeper))) => {
                let label = label(preference, inventory.stock(rank.4).node);
                if let Some(branch) = by_label.get_mut(&label) {
                    order.remove(&(branch.tasks, label.clone()));
                    branch.put_back(deeper, inventory, rank);
                    order.insert((branch.tasks, label));
                }
            }
            (Below::Nodes(heap), _) => heap.push(Reverse(rank)),
            (Below::Branches { .. }, None) => {}
        }
    }
}

fn rank(service: &ServiceId, inventory: &Inventory<'_>, at: usize) -> Rank {
    let (stock, count) = (inventory.stock(at), inventory.count_of(service, at));
    let faulty = if count.failures >= FAULTY { count.failures } else { 0 };
    let mut hasher = DefaultHasher::new();
    (service, &stock.node.id).hash(&mut hasher);
    (faulty, count.active, stock.active, hasher.finish(), at)
}

/// Nodes without the label are a branch of their own.
fn label(preference: &Preference, node: &Node) -> String {
    let Preference::Spread(descriptor) = preference;
    let value = if let Some(label) = descriptor.strip_prefix("node.labels.") {
        node.spec.annotations.labels.get(label)
    } else if let Some(label) = descriptor.strip_prefix("engine.labels.") {
        node.description.as_ref().and_then(|description| description.engine.labels.get(label))
    } else {
        None
    };
    value.cloned().unwrap_or_default()
}
