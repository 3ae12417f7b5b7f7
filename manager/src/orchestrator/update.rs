//! Rolling updates: in which order, and how many at a time, tasks of an old spec are replaced.
//!
//! Nothing is remembered but the service's update status. How far an update has come is read off the tasks: a place
//! is *in flight* while its task of the present spec has not run for `delay`; places whose sound task is of
//! another spec are candidates. A newer spec simply makes other tasks the candidates.
//!
//! A task of the present spec that ends by itself during the update, soon after it was created, has failed. If
//! more than the allowed part of the places has failed, the update pauses (also where it shall roll back
//! by itself, which is not built yet) and says why. Who changes the spec clears the status, which lets it go on.

use std::time::{Duration, SystemTime};

use proto::model::{
    FailureAction, RestartCondition, Service, Task, TaskState, UpdateConfig, UpdateOrder, UpdateState,
    UpdateStatus,
};

use super::Place;
use super::cell::{Cell, is_clean};
use super::restart::{ended_at, ended_by_itself};

/// Counts as time in which a task gets its image and starts, before its monitored time begins.
const START_UP: Duration = Duration::from_secs(5 * 60);

/// What was seen of the places that shall run.
#[derive(Debug, Default)]
pub(super) struct Progress<'a> {
    pub(super) candidates: Vec<Candidate<'a>>,
    /// Places whose task is on its way, but for those in `running_since`.
    pub(super) in_flight: usize,
    /// Of the tasks of the present spec that run.
    running_since: Vec<SystemTime>,
    failed: Vec<&'a Task>,
    places: usize,
}

/// A place to be updated, with its task of the old spec, if that still lives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    pub(super) place: &'a Place,
    pub(super) cell: &'a Cell<'a>,
    pub(super) dirty: Option<&'a Task>,
}

#[derive(Debug, Default)]
pub(super) struct Steps<'a> {
    pub(super) replace: Vec<Candidate<'a>>,
    pub(super) status: Option<UpdateStatus>,
    pub(super) wake: Option<SystemTime>,
    start_first: bool,
}

impl<'a> Progress<'a> {
    /// Notes a place; `clean` is its sound task of the present spec.
    pub(super) fn look_at(&mut self, service: &Service, cell: &Cell<'a>, clean: Option<&'a Task>) {
        self.places += 1;
        match clean {
            Some(task) if task.status.state == TaskState::Running => self.running_since.push(since(task)),
            Some(_) => self.in_flight += 1,
            None => {}
        }
        let started = service.update_status.as_ref().and_then(|status| status.started_at);
        if let Some(started) = started {
            let counts = |task: &&Task| is_clean(service, task) && has_failed(service, task, started);
            self.failed.extend(cell.kept().rev().find(counts));
        }
    }
}

impl Steps<'_> {
    /// The old task goes on until the new one runs. One that does not run yet has nothing to go on with.
    pub(super) fn start_first(&self, candidate: &Candidate<'_>) -> bool {
        self.start_first && candidate.dirty.is_some_and(|task| task.status.state == TaskState::Running)
    }
}

pub(super) fn plan<'a>(service: &Service, progress: &Progress<'a>, now: SystemTime) -> Steps<'a> {
    let state = service.update_status.as_ref().map_or(UpdateState::Unknown, |status| status.state);
    let start_first = config(service).order == UpdateOrder::StartFirst;
    let mut steps = Steps { start_first, ..Steps::default() };
    match state {
        UpdateState::Paused | UpdateState::RollbackPaused => {}
        UpdateState::Updating | UpdateState::RollbackStarted => {
            if let Some(message) = failure(service, progress) {
                steps.status = status(service, UpdateState::Paused, now, message);
            } else if progress.candidates.is_empty() {
                complete(service, progress, now, &mut steps);
            } else {
                choose(service, progress, now, &mut steps);
            }
        }
        UpdateState::Unknown | UpdateState::Completed | UpdateState::RollbackCompleted => {
            if !progress.candidates.is_empty() {
                steps.status = status(service, UpdateState::Updating, now, "update in progress".into());
                choose(service, progress, now, &mut steps);
            }
        }
    }
    steps
}

/// That of the rollback, if the user has asked for one. It goes like any other update, to the spec before.
pub(super) fn config(service: &Service) -> &UpdateConfig {
    let rollback = service.spec.rollback.as_ref().filter(|_| is_rollback(service));
    rollback.unwrap_or(&service.spec.update)
}

fn is_rollback(service: &Service) -> bool {
    let state = service.update_status.as_ref().map(|status| status.state);
    matches!(state, Some(UpdateState::RollbackStarted | UpdateState::RollbackPaused))
}

/// Takes as many candidates as may be in flight; first those that do not run, since nothing is lost with them.
fn choose<'a>(service: &Service, progress: &Progress<'a>, now: SystemTime, steps: &mut Steps<'a>) {
    let config = config(service);
    let settled = progress.running_since.iter().map(|since| *since + config.delay);
    let (unsettled, in_flight) = (settled.filter(|at| *at > now), progress.in_flight);
    let unsettled: Vec<SystemTime> = unsettled.collect();
    let most = if config.parallelism == 0 { u64::MAX } else { config.parallelism };
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let mut candidates = progress.candidates.clone();
    candidates.sort_by_key(|candidate| candidate.dirty.is_some_and(|t| t.status.state == TaskState::Running));
    candidates.truncate(most.saturating_sub(in_flight + unsettled.len()));
    steps.replace = candidates;
    steps.wake = unsettled.into_iter().min();
}

/// The update is complete when every task has run for as long as it is to be monitored.
fn complete(service: &Service, progress: &Progress<'_>, now: SystemTime, steps: &mut Steps<'_>) {
    let monitored = progress.running_since.iter().map(|since| *since + config(service).monitor).max();
    if progress.in_flight > 0 {
        return;
    }
    match monitored {
        Some(at) if at > now => steps.wake = Some(at),
        _ => steps.status = status(service, UpdateState::Completed, now, "update completed".into()),
    }
}

/// Why the update must not go on.
fn failure(service: &Service, progress: &Progress<'_>) -> Option<String> {
    let config = config(service);
    let last = progress.failed.last()?;
    let ratio = progress.failed.len() as f64 / progress.places.max(1) as f64;
    if config.failure_action == FailureAction::Continue || ratio <= f64::from(config.max_failure_ratio) {
        return None;
    }
    let why = if last.status.err.is_empty() { &last.status.message } else { &last.status.err };
    let what = if is_rollback(service) { "rollback" } else { "update" };
    Some(format!("{what} paused due to failure or early termination of task {}: {why}", last.id))
}

fn has_failed(service: &Service, task: &Task, started: SystemTime) -> bool {
    let completes = service.spec.task.restart.condition != RestartCondition::Any;
    let proper = completes && task.status.state == TaskState::Complete;
    let age = ended_at(task).duration_since(task.meta.created_at).unwrap_or_default();
    let soon = age <= config(service).monitor + START_UP || never_healthy(task);
    ended_by_itself(task) && !proper && soon && task.meta.created_at >= started
}

/// However long its health check has given it to start.
fn never_healthy(task: &Task) -> bool {
    task.status.health().is_some_and(|health| !health.succeeded)
}

fn since(task: &Task) -> SystemTime {
    task.status.applied_at.unwrap_or(task.status.timestamp)
}

fn status(service: &Service, state: UpdateState, now: SystemTime, message: String) -> Option<UpdateStatus> {
    let (started_at, state, message) = match (state, service.update_status.as_ref()) {
        (UpdateState::Updating, _) | (_, None) => (Some(now), state, message),
        (UpdateState::Paused, Some(before)) if is_rollback(service) => {
            (before.started_at, UpdateState::RollbackPaused, message)
        }
        (UpdateState::Completed, Some(before)) if is_rollback(service) => {
            (before.started_at, UpdateState::RollbackCompleted, "rollback completed".into())
        }
        (_, Some(before)) => (before.started_at, state, message),
    };
    let completed = matches!(state, UpdateState::Completed | UpdateState::RollbackCompleted);
    Some(UpdateStatus { state, started_at, completed_at: completed.then_some(now), message })
}
