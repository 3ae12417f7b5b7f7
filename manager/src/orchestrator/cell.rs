//! The tasks of a service at one place, and what is to be thought of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::model::{Availability, Mode, Node, NodeState, Service, Task, TaskSpec, TaskState};
use raft_store::Tables;

use super::Place;

/// Oldest first.
#[derive(Debug, Default)]
pub(super) struct Cell<'a> {
    pub(super) tasks: Vec<&'a Task>,
}

/// How a task that shall live is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Sound,
    Ended,
    /// Its node is gone, down or drained.
    Lost,
}

pub(super) fn cells<'a>(view: &'a Tables, service: &Service) -> BTreeMap<Place, Cell<'a>> {
    let mut cells: BTreeMap<Place, Cell<'a>> = BTreeMap::new();
    for task in view.tasks_by_service(&service.id) {
        let place = match (&service.spec.mode, &task.node) {
            (Mode::Global, Some(node)) => Place::Node(node.clone()),
            (Mode::Global | Mode::Replicated { .. }, _) => Place::Slot(task.slot),
        };
        cells.entry(place).or_default().tasks.push(task);
    }
    for cell in cells.values_mut() {
        cell.tasks.sort_by(|a, b| age(a).cmp(&age(b)));
    }
    cells
}

/// What still lives came last, whatever a leader whose clock went back has written; then versions tell more than times.
fn age(task: &Task) -> impl Ord {
    let lives = task.desired <= TaskState::Running && !task.status.state.is_terminal();
    (lives, task.spec_version, task.meta.created_at, &task.id)
}

impl<'a> Cell<'a> {
    /// A place that is given up has no task but those to be removed.
    pub(super) fn exists(&self) -> bool {
        self.kept().next().is_some()
    }

    /// Oldest first.
    pub(super) fn kept(&self) -> impl DoubleEndedIterator<Item = &'a Task> {
        self.tasks.iter().copied().filter(|task| task.desired < TaskState::Remove)
    }

    pub(super) fn live(&self) -> impl DoubleEndedIterator<Item = &'a Task> {
        self.tasks.iter().copied().filter(|task| task.desired <= TaskState::Running)
    }

    pub(super) fn sound(&self, view: &Tables) -> impl DoubleEndedIterator<Item = &'a Task> {
        self.live().filter(|task| fate(view, task) == Fate::Sound)
    }
}

pub(super) fn fate(view: &Tables, task: &Task) -> Fate {
    if task.status.state.is_terminal() {
        return Fate::Ended;
    }
    match task.node.as_ref().map(|id| view.node(id)) {
        None => Fate::Sound,
        Some(Some(node)) if !is_lost(node) => Fate::Sound,
        Some(_) => Fate::Lost,
    }
}

fn is_lost(node: &Arc<Node>) -> bool {
    node.status.state == NodeState::Down || node.spec.availability == Availability::Drain
}

/// The task was given to a node and has not ended there. Of a node that is down or gone nobody knows: it counts as ended.
pub(super) fn is_on_its_node(view: &Tables, task: &Task) -> bool {
    let given = (TaskState::Assigned..=TaskState::Running).contains(&task.status.state);
    let node = task.node.as_ref().and_then(|id| view.node(id));
    given && node.is_some_and(|node| node.status.state != NodeState::Down)
}

/// Whether a task made for `ours` is what `theirs` asks for. Versions are only a short cut: scaling makes a new one too.
pub(super) fn same_spec(ours: (u64, &Arc<TaskSpec>), theirs: (u64, &Arc<TaskSpec>)) -> bool {
    ours.0 == theirs.0 || Arc::ptr_eq(ours.1, theirs.1) || ours.1 == theirs.1
}

/// The task is of the service's present spec.
pub(super) fn is_clean(service: &Service, task: &Task) -> bool {
    same_spec((task.spec_version, &task.spec), (service.spec_version, &service.spec.task))
}
