//! Which slots a replicated service has.
//!
//! Slots are counted, not tasks: a start-first update leaves two tasks in one slot for a while. A slot exists while
//! it has a task that is not to be removed, so that one whose task ended for good is not filled again.
//!
//! Surplus slots go in this order: those without a running task, then those on the nodes with the most slots
//! of the service (the rest stays spread), then the highest, so that scaling up again reuses the same numbers.

use std::collections::{BTreeMap, HashMap};

use proto::model::{NodeId, Slot, TaskState};
use raft_store::Tables;

use super::Place;
use super::cell::Cell;
use super::plan::Want;

pub(super) fn wanted(
    view: &Tables,
    replicas: u64,
    cells: &BTreeMap<Place, Cell<'_>>,
) -> BTreeMap<Place, Want> {
    let replicas = usize::try_from(replicas).unwrap_or(usize::MAX);
    let mut order = keeping_order(view, cells);
    let surplus = order.split_off(replicas.min(order.len()));
    let drop = surplus.into_iter().map(|place| (place.clone(), Want::Drop));

    let missing = replicas - order.len();
    let vacant = (1..).map(|number| Place::Slot(Slot(number)));
    let vacant = vacant.filter(|place| !cells.get(place).is_some_and(Cell::exists));
    let run = order.iter().map(|place| (*place).clone()).chain(vacant.take(missing));
    run.map(|place| (place, Want::Run)).chain(drop).collect()
}

/// The slots that exist, the ones to keep first.
fn keeping_order<'c>(view: &Tables, cells: &'c BTreeMap<Place, Cell<'_>>) -> Vec<&'c Place> {
    let mut on_node: HashMap<NodeId, usize> = HashMap::new();
    let mut order: Vec<(u8, usize, &Place)> = Vec::new();
    for (place, cell) in cells.iter().filter(|(_, cell)| cell.exists()) {
        let best = cell.sound(view).max_by_key(|task| task.status.state);
        let unfit = match best {
            Some(task) if task.status.state == TaskState::Running => 0,
            Some(_) => 1,
            None => 2,
        };
        // The how many-th slot on its node this is.
        let index = best.and_then(|task| task.node.clone()).map_or(0, |node| {
            let count = on_node.entry(node).or_default();
            *count += 1;
            *count
        });
        order.push((unfit, index, place));
    }
    order.sort();
    order.into_iter().map(|(_, _, place)| place).collect()
}
