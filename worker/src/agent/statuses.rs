//! The status of every task of this node, and which of them a manager has acknowledged.
//!
//! Decides what is to be told; telling is the reporter's. Invariant: a task's state never goes back, and what was
//! not acknowledged is told again, to whichever manager there is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use proto::model::{TaskId, TaskState, TaskStatus};
use tokio::sync::watch;

#[derive(Debug, Clone, Default)]
pub struct Statuses {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: Mutex<BTreeMap<TaskId, Entry>>,
    /// Counts changes.
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct Entry {
    status: TaskStatus,
    /// Grows with each change, so that an answer to an older report does not count for a newer one.
    revision: u64,
    acknowledged: bool,
}

/// What is to be told of one task.
#[derive(Debug, Clone)]
pub struct Update {
    pub task: TaskId,
    pub status: TaskStatus,
    revision: u64,
}

impl Statuses {
    /// The task is in this state now. Ignored if it is behind what was reported before.
    pub fn report(&self, task: &TaskId, status: TaskStatus) {
        let mut entries = self.lock();
        let revision = match entries.get(task) {
            Some(entry) if entry.status.state > status.state => return,
            Some(entry) => entry.revision + 1,
            None => 0,
        };
        entries.insert(task.clone(), Entry { status, revision, acknowledged: false });
        drop(entries);
        self.announce();
    }

    /// A manager knows the task at `known`: if that is behind, it is to be told again.
    pub fn compare(&self, task: &TaskId, known: TaskState) {
        let mut entries = self.lock();
        if let Some(entry) = entries.get_mut(task).filter(|entry| known < entry.status.state) {
            entry.acknowledged = false;
        }
        drop(entries);
        self.announce();
    }

    pub fn forget(&self, task: &TaskId) {
        self.lock().remove(task);
        self.announce();
    }

    /// Up to `most` updates that nobody has acknowledged.
    pub fn pending(&self, most: usize) -> Vec<Update> {
        let entries = self.lock();
        let pending = entries.iter().filter(|(_, entry)| !entry.acknowledged).take(most);
        let update = |(task, entry): (&TaskId, &Entry)| Update {
            task: task.clone(),
            status: entry.status.clone(),
            revision: entry.revision,
        };
        pending.map(update).collect()
    }

    pub fn acknowledge(&self, updates: &[Update]) {
        let mut entries = self.lock();
        for update in updates {
            let entry = entries.get_mut(&update.task);
            if let Some(entry) = entry.filter(|entry| entry.revision == update.revision) {
                entry.acknowledged = true;
            }
        }
        drop(entries);
        self.announce();
    }

    /// Counts changes: what waits for one watches it.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changed.subscribe()
    }

    /// Resolves once every task of this node has ended.
    pub async fn all_ended(&self) {
        self.until(|entry| entry.status.state.is_terminal()).await;
    }

    /// Resolves once a manager has acknowledged the last of the task.
    pub async fn told(&self, task: &TaskId) {
        let mut changes = self.changes();
        let told = |_: &u64| self.lock().get(task).is_none_or(|entry| entry.acknowledged);
        // The sender lives as long as self.
        let _ = changes.wait_for(told).await;
    }

    /// Resolves once a manager has acknowledged everything.
    pub async fn all_told(&self) {
        self.until(|entry| entry.acknowledged).await;
    }

    async fn until(&self, holds: impl Fn(&Entry) -> bool) {
        let mut changes = self.changes();
        // The sender lives as long as self.
        let _ = changes.wait_for(|_| self.lock().values().all(&holds)).await;
    }

    fn announce(&self) {
        self.inner.changed.send_modify(|count| *count += 1);
    }

    pub fn count(&self, state: TaskState) -> usize {
        self.lock().values().filter(|entry| entry.status.state == state).count()
    }

    pub fn state(&self, task: &TaskId) -> Option<TaskState> {
        self.lock().get(task).map(|entry| entry.status.state)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TaskId, Entry>> {
        self.inner.entries.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use futures_util::FutureExt;

    use super::*;

    fn status(state: TaskState) -> TaskStatus {
        TaskStatus::new(state, state.name(), SystemTime::UNIX_EPOCH)
    }

    fn states(statuses: &Statuses) -> Vec<TaskState> {
        statuses.pending(10).iter().map(|update| update.status.state).collect()
    }

    #[test]
    fn only_the_latest_is_told_and_it_never_goes_back() {
        let (statuses, task) = (Statuses::default(), TaskId::from("t1"));
        statuses.report(&task, status(TaskState::Accepted));
        let first = statuses.pending(10);
        statuses.report(&task, status(TaskState::Running));
        statuses.report(&task, status(TaskState::Ready));
        assert_eq!(states(&statuses), [TaskState::Running]);
        statuses.acknowledge(&first);
        assert_eq!(states(&statuses), [TaskState::Running], "an old answer does not count");
        assert!(statuses.told(&task).now_or_never().is_none());
        statuses.acknowledge(&statuses.pending(10));
        assert!(states(&statuses).is_empty());
        statuses.told(&task).now_or_never().unwrap();
    }

    #[test]
    fn a_manager_that_is_behind_is_told_again() {
        let (statuses, task) = (Statuses::default(), TaskId::from("t1"));
        statuses.report(&task, status(TaskState::Running));
        statuses.acknowledge(&statuses.pending(10));
        statuses.compare(&task, TaskState::Running);
        assert!(states(&statuses).is_empty());
        statuses.compare(&task, TaskState::Assigned);
        assert_eq!(states(&statuses), [TaskState::Running]);
    }
}
