//! The plan of one service: brings every place to what is wanted of it.

use std::collections::BTreeMap;
use std::time::SystemTime;

use proto::model::{Mode, Service, ServiceId, Task, TaskState, UpdateOrder};
use raft_store::Tables;

use super::cell::{Cell, Fate, cells, fate, is_clean};
use super::update::{self, Candidate, Progress};
use super::{Action, Place, global, replicated, restart};

/// What a place of a service is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// A task runs there; it is restarted and updated.
    Run,
    /// Keeps the task that it has, gets no other.
    Hold,
    /// Shall run none, for now.
    Stop,
    /// Given up: its tasks are removed.
    Drop,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) actions: Vec<Action>,
    /// When to plan again though nothing has changed.
    pub(super) wake: Option<SystemTime>,
}

pub(super) fn service(view: &Tables, id: &ServiceId, now: SystemTime) -> Plan {
    let mut plan = Plan::default();
    let Some(service) = view.service(id) else {
        view.tasks_by_service(id).for_each(|task| plan.desire(task, TaskState::Remove));
        return plan;
    };
    let cells = cells(view, service);
    let wanted = match service.spec.mode {
        Mode::Replicated { replicas } => replicated::wanted(view, replicas, &cells),
        Mode::Global => global::wanted(view, service, &cells),
    };
    Planner { view, service, now, plan, progress: Progress::default(), told: Vec::new() }
        .plan(&cells, &wanted)
}

impl Plan {
    fn desire(&mut self, task: &Task, desired: TaskState) {
        if task.desired < desired {
            self.actions.push(Action::Desire { task: task.id.clone(), desired });
        }
    }

    pub(super) fn wake_at(&mut self, at: SystemTime) {
        self.wake = Some(self.wake.map_or(at, |earlier| earlier.min(at)));
    }
}

const VACANT: &Cell<'static> = &Cell { tasks: Vec::new() };

struct Planner<'a> {
    view: &'a Tables,
    service: &'a Service,
    now: SystemTime,
    plan: Plan,
    progress: Progress<'a>,
    /// Tasks of the place at hand that this plan tells to stop: what follows them has to wait.
    told: Vec<&'a Task>,
}

impl<'a> Planner<'a> {
    fn plan(mut self, cells: &'a BTreeMap<Place, Cell<'a>>, wanted: &'a BTreeMap<Place, Want>) -> Plan {
        for (place, want) in wanted {
            let cell = cells.get(place).unwrap_or(VACANT);
            self.told.clear();
            match want {
                Want::Drop => cell.tasks.iter().for_each(|task| self.plan.desire(task, TaskState::Remove)),
                Want::Stop => cell.live().for_each(|task| self.stop(task)),
                Want::Hold => {
                    self.settle(cell);
                }
                Want::Run => self.run(place, cell),
            }
        }
        let steps = update::plan(self.service, &self.progress, self.now);
        for candidate in &steps.replace {
            self.update(candidate, steps.start_first(candidate));
        }
        if let Some(status) = steps.status {
            let (service, spec_version) = (self.service.id.clone(), self.service.spec_version);
            self.plan.actions.push(Action::Report { service, spec_version, status });
        }
        steps.wake.into_iter().for_each(|at| self.plan.wake_at(at));
        self.plan
    }

    fn update(&mut self, candidate: &Candidate<'a>, start_first: bool) {
        if start_first {
            return self.create(candidate.place, TaskState::Running);
        }
        self.told.clear();
        candidate.dirty.into_iter().for_each(|task| self.stop(task));
        self.replace(candidate.place, candidate.cell);
    }

    /// Brings a place to one sound task of the present spec, but for updates, which are only proposed.
    fn run(&mut self, place: &'a Place, cell: &'a Cell<'a>) {
        let (clean, dirty) = self.settle(cell);
        self.progress.look_at(self.service, cell, clean);
        match (clean, dirty) {
            (Some(_), _) => {}
            (None, Some(dirty)) => {
                self.progress.candidates.push(Candidate { place, cell, dirty: Some(dirty) });
            }
            (None, None) if restart::is_due(cell, &self.service.spec.task.restart) => {
                self.progress.in_flight += 1;
                self.replace(place, cell);
            }
            // Its task has ended for good; a new spec is a reason to try again.
            (None, None) if cell.kept().next_back().is_some_and(|last| !is_clean(self.service, last)) => {
                self.progress.candidates.push(Candidate { place, cell, dirty: None });
            }
            (None, None) => {}
        }
    }

    /// Leaves at most one sound task of the present spec and one of another, and lets them run when they may. Tasks
    /// that ended or were lost are given up; the latter may still run.
    fn settle(&mut self, cell: &Cell<'a>) -> (Option<&'a Task>, Option<&'a Task>) {
        let (view, service) = (self.view, self.service);
        cell.live().filter(|task| fate(view, task) != Fate::Sound).for_each(|task| self.stop(task));
        let clean = self.best_of(cell, |task| is_clean(service, task));
        let dirty = self.best_of(cell, |task| !is_clean(service, task));
        let start_first = update::config(service).order == UpdateOrder::StartFirst;
        if let (Some(clean), Some(dirty)) = (clean, dirty)
            && (!start_first || clean.status.state == TaskState::Running)
        {
            self.stop(dirty);
            self.start(cell, clean);
            return (Some(clean), None);
        }
        clean.into_iter().chain(dirty).for_each(|task| self.start(cell, task));
        (clean, dirty)
    }

    fn stop(&mut self, task: &'a Task) {
        self.plan.desire(task, TaskState::Shutdown);
        self.told.push(task);
    }

    /// Of several tasks of a kind at one place (an update was superseded, say) only the furthest stays.
    fn best_of(&mut self, cell: &Cell<'a>, kind: impl Fn(&Task) -> bool) -> Option<&'a Task> {
        let mut of_kind: Vec<&Task> = cell.sound(self.view).filter(|task| kind(task)).collect();
        // The oldest of the furthest: the sort is stable.
        of_kind.sort_by_key(|task| std::cmp::Reverse((task.desired, task.status.state)));
        let mut of_kind = of_kind.into_iter();
        let best = of_kind.next();
        of_kind.for_each(|task| self.stop(task));
        best
    }

    /// Lets a task run whose time has come.
    fn start(&mut self, cell: &Cell<'a>, task: &Task) {
        if task.desired >= TaskState::Running {
            return;
        }
        let at = restart::start_of(self.view, cell, task, &self.told);
        if at <= self.now {
            self.plan.desire(task, TaskState::Running);
        } else {
            self.plan.wake_at(at);
        }
    }

    /// Another task at the place, as soon as there may be one, which starts when it may.
    fn replace(&mut self, place: &Place, cell: &Cell<'a>) {
        if let Some(at) = restart::creation_of_new(self.service, cell).filter(|at| *at > self.now) {
            return self.plan.wake_at(at);
        }
        let at = restart::start_of_new(self.view, self.service, cell, &self.told, self.now);
        self.create(place, if at <= self.now { TaskState::Running } else { TaskState::Ready });
    }

    fn create(&mut self, place: &Place, desired: TaskState) {
        let (service, spec_version) = (self.service.id.clone(), self.service.spec_version);
        self.plan.actions.push(Action::Create { service, spec_version, place: place.clone(), desired });
    }
}
