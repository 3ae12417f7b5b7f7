//! Whether a place whose task is over gets another one, and when that one may start.
//!
//! The restart policy judges tasks that ended by themselves; one that was lost with its node, or that we stopped, is
//! always replaced, and at once. The new task is created immediately and is `Ready` until its time has come, so that
//! image and network are prepared meanwhile. After a task that was rejected, which is to say that the preparation itself
//! failed, the delay comes before the new task is created: it would be prepared, and rejected, at once.
//!
//! The delay is the policy's. It doubles with every task of the slot in a row that failed soon after it was
//! created, up to a minute (or the policy's delay, if that is longer). All of it is derived from the slot's
//! tasks, which is why the reaper keeps as many as `retained`.

use std::time::{Duration, SystemTime};

use proto::model::{RestartCondition, RestartPolicy, Service, Task, TaskState};
use raft_store::Tables;

use super::cell::{Cell, is_clean, is_on_its_node, same_spec};

/// What the growing delay starts from when the policy's is shorter, and what it grows to.
const LEAST_GROWING: Duration = Duration::from_secs(1);
const MOST_GROWN: Duration = Duration::from_secs(60);

/// A task that failed within this time, counted from the end of the longest delay, has failed soon.
const SOON: Duration = Duration::from_secs(10);

/// How long a new task waits for the one before it, beyond that one's grace period. A node that neither stops a task
/// nor goes down must not keep a service from running.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// Docker's grace period where the spec has none.
const DEFAULT_GRACE: Duration = Duration::from_secs(10);

/// Whether the place, which has no sound task, is to be filled.
pub(super) fn is_due(cell: &Cell<'_>, policy: &RestartPolicy) -> bool {
    let Some(last) = cell.kept().next_back().filter(|task| ended_by_itself(task)) else { return true };
    let allowed = match policy.condition {
        RestartCondition::None => false,
        RestartCondition::OnFailure => last.status.state != TaskState::Complete,
        RestartCondition::Any => true,
    };
    allowed && (policy.max_attempts == 0 || attempts(cell, last, policy.window) < policy.max_attempts)
}

/// Restarts before `last` ended, each being the end of an earlier task of the same spec.
fn attempts(cell: &Cell<'_>, last: &Task, window: Duration) -> u64 {
    let within = |task: &Task| {
        window.is_zero() || ended_at(last).duration_since(ended_at(task)).unwrap_or_default() <= window
    };
    let earlier = cell.kept().filter(|task| task.id != last.id && ended_by_itself(task));
    earlier.filter(|task| is_same(task, last) && within(task)).count() as u64
}

/// Ended tasks of a slot that decisions are derived from; the reaper keeps at least so many.
pub(super) fn retained(policy: &RestartPolicy) -> u64 {
    if policy.condition == RestartCondition::None { 1 } else { policy.max_attempts.saturating_add(1) }
}

/// Until when the place stays without another task, if that is not to be created at once.
pub(super) fn creation_of_new(service: &Service, cell: &Cell<'_>) -> Option<SystemTime> {
    let kept: Vec<&Task> = cell.kept().collect();
    let last = kept.last().filter(|last| is_clean(service, last) && was_rejected(last))?;
    Some(ended_at(last) + delay_after(&kept))
}

/// When a task that is created now may start; those of `told` are told to stop now.
pub(super) fn start_of_new(
    view: &Tables,
    service: &Service,
    cell: &Cell<'_>,
    told: &[&Task],
    now: SystemTime,
) -> SystemTime {
    let kept: Vec<&Task> = cell.kept().collect();
    let follows = kept.last().is_some_and(|last| is_clean(service, last) && !was_rejected(last));
    let delay = if follows { delay_after(&kept) } else { Duration::ZERO };
    now + delay.max(patience(view, &cell.tasks, told))
}

/// When `task`, which is `Ready`, may start; those of `told` are told to stop now.
pub(super) fn start_of(view: &Tables, cell: &Cell<'_>, task: &Task, told: &[&Task]) -> SystemTime {
    let before: Vec<&Task> = cell.kept().take_while(|other| other.id != task.id).collect();
    let follows = before.last().is_some_and(|last| is_same(last, task) && !was_rejected(last));
    let delay = if follows { delay_after(&before) } else { Duration::ZERO };
    // A task that is to start was not told to stop, and so does not wait for itself.
    task.meta.created_at + delay.max(patience(view, &cell.tasks, told))
}

/// How long the next task waits for those before it, unless they end first.
fn patience(view: &Tables, tasks: &[&Task], told: &[&Task]) -> Duration {
    let earlier = tasks.iter().filter(|task| task.desired > TaskState::Running);
    let running = earlier.chain(told).filter(|task| is_on_its_node(view, task));
    running.map(|task| grace_of(task) + STOP_TIMEOUT).max().unwrap_or_default()
}

fn grace_of(task: &Task) -> Duration {
    let grace = task.spec.container.stop_grace_period.and_then(|grace| Duration::try_from(grace).ok());
    grace.unwrap_or(DEFAULT_GRACE)
}

/// The delay of a task that follows `tasks`, oldest first, and is of the spec of the last one.
fn delay_after(tasks: &[&Task]) -> Duration {
    let Some(last) = tasks.last().filter(|task| ended_by_itself(task)) else { return Duration::ZERO };
    let policy = &last.spec.restart;
    let same = tasks.iter().rev().take_while(|task| is_same(task, last));
    let failures = same.take_while(|task| failed_soon(task, policy)).count();
    back_off(policy.delay, u32::try_from(failures).unwrap_or(u32::MAX))
}

fn back_off(delay: Duration, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    if doublings == 0 {
        return delay;
    }
    (delay.max(LEAST_GROWING) * 2u32.pow(doublings)).min(delay.max(MOST_GROWN))
}

fn failed_soon(task: &Task, policy: &RestartPolicy) -> bool {
    let failed = matches!(task.status.state, TaskState::Failed | TaskState::Rejected);
    let age = ended_at(task).duration_since(task.meta.created_at).unwrap_or_default();
    failed && age <= policy.delay.max(MOST_GROWN) + SOON
}

fn was_rejected(task: &Task) -> bool {
    task.status.state == TaskState::Rejected
}

pub(super) fn ended_by_itself(task: &Task) -> bool {
    matches!(task.status.state, TaskState::Complete | TaskState::Failed | TaskState::Rejected)
}

/// On the managers' clock if they noted it, for nodes' clocks differ.
pub(super) fn ended_at(task: &Task) -> SystemTime {
    task.status.applied_at.unwrap_or(task.status.timestamp)
}

fn is_same(a: &Task, b: &Task) -> bool {
    same_spec((a.spec_version, &a.spec), (b.spec_version, &b.spec))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_from_the_second_failure_on() {
        let secs = |delay, failures| back_off(Duration::from_secs(delay), failures).as_secs();
        assert_eq!([0, 1, 2, 3, 4, 5, 99].map(|failures| secs(5, failures)), [5, 5, 10, 20, 40, 60, 60]);
        assert_eq!([0, 1, 2, 3].map(|failures| secs(0, failures)), [0, 0, 2, 4]);
        assert_eq!([1, 2, 9].map(|failures| secs(300, failures)), [300, 300, 300]);
    }
}
