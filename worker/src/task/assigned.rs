//! A task as a manager assigned it to this node, checked once.

use proto::convert::{Error, Within};
use proto::model::{Task, TaskId, TaskState};
use proto::wire;

use crate::network::Wish;

#[derive(Debug, Clone)]
pub struct Assigned {
    pub task: Task,
    pub wish: Wish,
}

impl Assigned {
    pub fn id(&self) -> &TaskId {
        &self.task.id
    }

    pub fn order(&self) -> Order {
        Order::new(self.task.desired, self.task.status.state)
    }
}

impl TryFrom<wire::Task> for Assigned {
    type Error = Error;

    fn try_from(task: wire::Task) -> Result<Self, Error> {
        let wish = Wish::read(&task)?;
        let task = Task::try_from(task).within("task")?;
        Ok(Self { task, wish })
    }
}

/// What is wanted of a task that this node has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Order {
    /// It may start; else it is prepared and waits.
    pub run: bool,
    /// It must end.
    pub stop: bool,
    /// It is no longer assigned to this node: it ends and leaves nothing.
    pub remove: bool,
}

impl Order {
    /// Reads no more than it needs, since the networks of an ended task may be gone.
    pub fn read(task: &wire::Task) -> Self {
        let known = task.status.as_ref().map_or(TaskState::New, |status| status.state().into());
        Self::new(task.desired_state().into(), known)
    }

    /// A task that has ended for the managers has lost its addresses: it must not go on, whatever is desired.
    fn new(desired: TaskState, known: TaskState) -> Self {
        let run = matches!(desired, TaskState::Running | TaskState::Complete);
        Self { run, stop: known.is_terminal() || desired > TaskState::Complete, remove: false }
    }

    pub fn ends(self) -> bool {
        self.stop || self.remove
    }
}
