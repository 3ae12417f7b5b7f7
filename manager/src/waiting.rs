//! Tasks that wait for a loop: each loop takes them on in one state, and leaves those that are not wanted any more.

use proto::model::{Task, TaskId, TaskState};
use raft_store::{Tables, Transaction};

/// The task is to be taken on from `state`.
pub fn waits(task: &Task, state: TaskState) -> bool {
    task.status.state == state && task.desired <= TaskState::Running
}

/// The task, if it still waits, to be changed.
pub fn find(tables: &Tables, id: &TaskId, state: TaskState) -> Option<Task> {
    tables.task(id).filter(|task| waits(task, state)).map(|task| Task::clone(task))
}

/// The task goes on waiting, for another reason than it says.
pub fn explain(tx: &mut Transaction, id: &TaskId, state: TaskState, err: &str) {
    if let Some(mut task) = find(tx, id, state) {
        task.status.err = err.into();
        tx.update(task);
    }
}
