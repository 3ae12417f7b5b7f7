//! The plan: which waiting task goes to which node.

use std::collections::{BTreeMap, HashSet};
use std::time::SystemTime;

use proto::model::{NodeId, ServiceId, Task, TaskId};
use raft_store::Tables;

use super::filter::{self, Request};
use super::inventory::Inventory;
use super::rank::Ranking;
use super::waits;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Assign {
        task: TaskId,
        node: NodeId,
    },
    /// The task goes on waiting, for another reason than it says.
    Explain {
        task: TaskId,
        err: String,
    },
}

/// Places all tasks that wait. Time: O(tasks + groups × nodes + waiting × log nodes).
pub fn plan(view: &Tables, now: SystemTime) -> Vec<Action> {
    let waiting: Vec<&Task> = view.tasks().map(|task| &**task).filter(|task| waits(task)).collect();
    if waiting.is_empty() {
        return Vec::new();
    }
    let services: HashSet<&ServiceId> = waiting.iter().map(|task| &task.service).collect();
    let mut inventory = Inventory::new(view, &services, now);
    let mut actions = Vec::new();
    for group in groups(waiting) {
        let request = Request::of(group[0], view);
        if group[0].node.is_some() {
            place_preassigned(&group, &request, &mut inventory, &mut actions);
        } else {
            place_group(&group, &request, &mut inventory, &mut actions);
        }
    }
    actions
}

/// Tasks that ask for the same, the longest waiting group first; tasks that have their node come before all others.
fn groups(waiting: Vec<&Task>) -> Vec<Vec<&Task>> {
    let mut groups: BTreeMap<(bool, &ServiceId, u64), Vec<&Task>> = BTreeMap::new();
    for task in waiting {
        groups.entry((task.node.is_none(), &task.service, task.spec_version)).or_default().push(task);
    }
    let mut groups: Vec<Vec<&Task>> = groups.into_values().collect();
    for group in &mut groups {
        group.sort_by_key(|task| (task.slot, &task.id));
    }
    let since = |group: &Vec<&Task>| group.iter().map(|task| task.meta.created_at).min();
    groups.sort_by_key(|group| (group[0].node.is_none(), since(group)));
    groups
}

fn place_preassigned(
    group: &[&Task],
    request: &Request<'_>,
    inventory: &mut Inventory<'_>,
    actions: &mut Vec<Action>,
) {
    for task in group {
        let Some(node) = &task.node else { continue };
        // A node that is gone: the orchestrator sees to the task.
        let Some(at) = inventory.position(node) else { continue };
        if filter::fits(request, inventory, at) {
            inventory.take(at, task);
            actions.push(Action::Assign { task: task.id.clone(), node: node.clone() });
        } else {
            explain(task, &filter::explain(request, inventory, std::iter::once(at)), actions);
        }
    }
}

fn place_group(
    group: &[&Task],
    request: &Request<'_>,
    inventory: &mut Inventory<'_>,
    actions: &mut Vec<Action>,
) {
    let mut ranking = Ranking::new(request, inventory);
    for (done, task) in group.iter().enumerate() {
        let Some(at) = ranking.place(request, inventory, |inventory, at| inventory.take(at, task)) else {
            let err = filter::explain(request, inventory, 0..inventory.len());
            group[done..].iter().for_each(|task| explain(task, &err, actions));
            return;
        };
        actions.push(Action::Assign { task: task.id.clone(), node: inventory.stock(at).node.id.clone() });
    }
}

fn explain(task: &Task, err: &str, actions: &mut Vec<Action>) {
    if task.status.err != err {
        actions.push(Action::Explain { task: task.id.clone(), err: err.into() });
    }
}
