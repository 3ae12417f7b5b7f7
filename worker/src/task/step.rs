//! Decides what is to be done next for one task: one transition a call.
//!
//! Pure: what is wanted and what is known go in, the next action comes out. Waiting, retrying and reporting are the
//! runner's.
//!
//! Invariants: a container is started at most once; the network is gone before an end is reported, since the
//! managers then give the task's addresses to others.

use std::time::SystemTime;

use proto::model::TaskState;

use super::assigned::Order;
use crate::runtime::Exit;

/// What is known of the task's container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Container {
    Absent,
    /// Made and not started, as far as is known.
    Created,
    Running {
        pid: u32,
    },
    Exited(Exit),
}

/// What is known of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The last state of which anybody was told.
    pub state: TaskState,
    pub container: Container,
    pub health: Health,
    /// There may be a sandbox in the kernel.
    pub network: bool,
    /// There may be a container to remove.
    pub remains: bool,
    /// Why it cannot go on.
    pub failure: Option<Failure>,
}

/// What is known of a running container's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Whether it has a check is to be found out. `served`: others were told before that it runs. `started`: when it was
    /// started, by a process before this one.
    Unknown { served: bool, started: Option<SystemTime> },
    /// Its check has not succeeded yet.
    Starting,
    /// Its check has succeeded, or it has none.
    Good,
    /// Its check succeeded once and then failed too often.
    Bad,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// It could not be had on this node at all.
    pub rejected: bool,
    pub err: String,
}

impl Failure {
    pub fn failed(err: impl Into<String>) -> Self {
        Self { rejected: false, err: err.into() }
    }

    pub fn rejected(err: impl Into<String>) -> Self {
        Self { rejected: true, err: err.into() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Tell the managers this state.
    Report(TaskState),
    /// Fetch the image, make the network, create the container.
    Prepare,
    Start,
    /// Find out whether it has a health check.
    Examine,
    /// Wait until the container ends, its health changes or something else is wanted.
    Watch,
    /// Wait until something else is wanted.
    Hold,
    Stop,
    /// Take the network away.
    Detach,
    /// Tell the managers that it has ended, and how.
    End(Ending),
    /// Remove the container.
    Clean,
    /// Nothing is left of it: remove its output and forget it.
    Forget,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    Exited(Exit),
    Stopped(Option<Exit>),
    Failure(Failure),
}

impl Seen {
    fn exit(&self) -> Option<Exit> {
        match &self.container {
            Container::Exited(exit) => Some(exit.clone()),
            _ => None,
        }
    }

    /// Others may send it new connections: they were told that it runs, as far as is known.
    pub fn may_be_called(&self) -> bool {
        let runs = matches!(self.container, Container::Running { .. });
        // One that has failed otherwise has never run.
        let told = self.health != Health::Starting && self.failure.is_none();
        runs && (told || self.health == Health::Bad)
    }

    /// A process may be there: it runs, or its start was begun and nobody saw how that went.
    fn may_run(&self) -> bool {
        let begun = self.state == TaskState::Starting && self.container == Container::Created;
        begun || matches!(self.container, Container::Running { .. })
    }
}

pub fn step(order: Order, seen: &Seen) -> Step {
    if seen.state.is_terminal() {
        return dismantle(seen).unwrap_or(if order.remove { Step::Forget } else { Step::Hold });
    }
    if seen.failure.is_some() || order.ends() {
        return end(order, seen);
    }
    match &seen.container {
        Container::Running { .. } => run(seen),
        Container::Exited(_) if seen.network => Step::Detach,
        Container::Exited(exit) => Step::End(Ending::Exited(exit.clone())),
        // It was started once, by a process before this one, and no container runs: it is never started again.
        Container::Absent | Container::Created if seen.state >= TaskState::Starting => lost(seen),
        Container::Absent if seen.state < TaskState::Accepted => Step::Report(TaskState::Accepted),
        Container::Absent if seen.state < TaskState::Preparing => Step::Report(TaskState::Preparing),
        Container::Absent => Step::Prepare,
        Container::Created if seen.state < TaskState::Ready => Step::Report(TaskState::Ready),
        Container::Created if order.run => Step::Start,
        Container::Created => Step::Hold,
    }
}

fn run(seen: &Seen) -> Step {
    match seen.health {
        Health::Unknown { .. } => Step::Examine,
        Health::Good if seen.state < TaskState::Running => Step::Report(TaskState::Running),
        Health::Starting | Health::Good | Health::Bad => Step::Watch,
    }
}

/// What is to be taken away before the task may be forgotten.
fn dismantle(seen: &Seen) -> Option<Step> {
    if seen.may_run() {
        Some(Step::Stop)
    } else if seen.network {
        Some(Step::Detach)
    } else {
        seen.remains.then_some(Step::Clean)
    }
}

fn end(order: Order, seen: &Seen) -> Step {
    if seen.may_run() {
        return Step::Stop;
    }
    if seen.network {
        return Step::Detach;
    }
    // Nobody waits for the status of a task that is not assigned any more.
    if order.remove {
        return dismantle(seen).unwrap_or(Step::Forget);
    }
    match &seen.failure {
        Some(failure) => Step::End(Ending::Failure(failure.clone())),
        None => Step::End(Ending::Stopped(seen.exit())),
    }
}

fn lost(seen: &Seen) -> Step {
    if seen.may_run() {
        return Step::Stop;
    }
    if seen.network {
        return Step::Detach;
    }
    Step::End(Ending::Failure(Failure::failed(
        "task: its container is gone, the node may have been restarted",
    )))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RUN: Order = Order { run: true, stop: false, remove: false };
    const READY: Order = Order { run: false, stop: false, remove: false };
    const STOP: Order = Order { run: false, stop: true, remove: false };
    const REMOVE: Order = Order { run: true, stop: false, remove: true };

    const UNKNOWN: Health = Health::Unknown { served: false, started: None };

    /// A task of which the node knows nothing yet.
    fn new() -> Seen {
        Seen {
            state: TaskState::New,
            container: Container::Absent,
            health: UNKNOWN,
            network: false,
            remains: false,
            failure: None,
        }
    }

    fn exit(code: u32) -> Exit {
        Exit { code, oom: false, at: SystemTime::UNIX_EPOCH }
    }

    /// What a step leads to if all goes well.
    fn perform(step: &Step, seen: &mut Seen) {
        match step {
            Step::Report(state) => seen.state = *state,
            Step::Prepare => {
                (seen.container, seen.network, seen.remains) = (Container::Created, true, true);
            }
            Step::Start => {
                (seen.state, seen.container) = (TaskState::Starting, Container::Running { pid: 1 });
            }
            Step::Examine => seen.health = Health::Starting,
            Step::Watch if seen.health == Health::Starting => seen.health = Health::Good,
            Step::Watch => seen.container = Container::Exited(exit(0)),
            Step::Stop if seen.container == Container::Created => seen.container = Container::Absent,
            Step::Stop => seen.container = Container::Exited(exit(143)),
            Step::Detach => seen.network = false,
            Step::End(Ending::Exited(_)) => seen.state = TaskState::Complete,
            Step::End(Ending::Stopped(_)) => seen.state = TaskState::Shutdown,
            Step::End(Ending::Failure(_)) => seen.state = TaskState::Failed,
            Step::Clean => (seen.container, seen.remains) = (Container::Absent, false),
            Step::Hold | Step::Forget => {}
        }
    }

    fn life(order: Order, mut seen: Seen) -> Vec<Step> {
        let mut steps = Vec::new();
        loop {
            let next = step(order, &seen);
            perform(&next, &mut seen);
            steps.push(next);
            if matches!(steps.last(), Some(Step::Hold | Step::Forget)) {
                return steps;
            }
            assert!(steps.len() < 20, "{steps:?}");
        }
    }

    #[test]
    fn a_task_runs_once_from_end_to_end() {
        let expected = [
            Step::Report(TaskState::Accepted),
            Step::Report(TaskState::Preparing),
            Step::Prepare,
            Step::Report(TaskState::Ready),
            Step::Start,
            Step::Examine,
            // Until its health check has succeeded.
            Step::Watch,
            Step::Report(TaskState::Running),
            Step::Watch,
            Step::Detach,
            Step::End(Ending::Exited(exit(0))),
            Step::Clean,
            Step::Hold,
        ];
        assert_eq!(life(RUN, new()), expected);
        assert_eq!(life(READY, new())[4..], [Step::Hold], "waits until it shall run");
    }

    #[test]
    fn what_has_no_check_runs_at_once_and_what_is_unhealthy_fails() {
        let mut seen = Seen { container: Container::Running { pid: 1 }, health: Health::Good, ..new() };
        assert!(seen.may_be_called());
        assert_eq!(step(RUN, &seen), Step::Report(TaskState::Running));
        (seen.state, seen.health) = (TaskState::Running, Health::Bad);
        seen.failure = Some(Failure::failed("unhealthy"));
        assert!(seen.may_be_called());
        let ended = Step::End(Ending::Failure(Failure::failed("unhealthy")));
        assert_eq!(life(RUN, seen.clone()), [Step::Stop, ended, Step::Hold]);
        seen.health = Health::Starting;
        assert!(!seen.may_be_called(), "nobody was told that it runs");
    }

    #[test]
    fn stopping_and_removing_leave_nothing() {
        let running = Seen {
            state: TaskState::Running,
            container: Container::Running { pid: 1 },
            health: Health::Good,
            network: true,
            remains: true,
            failure: None,
        };
        let stopped = Step::End(Ending::Stopped(Some(exit(143))));
        assert_eq!(life(STOP, running.clone()), [Step::Stop, Step::Detach, stopped, Step::Clean, Step::Hold]);
        assert_eq!(life(REMOVE, running), [Step::Stop, Step::Detach, Step::Clean, Step::Forget]);
        assert_eq!(life(STOP, new()), [Step::End(Ending::Stopped(None)), Step::Hold]);
    }

    #[test]
    fn what_was_started_before_is_never_started_again() {
        let begun = |container, network| Seen {
            state: TaskState::Starting,
            container,
            health: UNKNOWN,
            network,
            remains: true,
            failure: None,
        };
        for network in [false, true] {
            let gone = life(RUN, begun(Container::Absent, network));
            // Its start may have gone through after all, unseen.
            let unclear = life(RUN, begun(Container::Created, network));
            assert_eq!(unclear[0], Step::Stop);
            assert_eq!(unclear[1..], gone);
            let failed = |step: &Step| matches!(step, Step::End(Ending::Failure(f)) if !f.rejected);
            assert!(gone.iter().any(failed) && !gone.contains(&Step::Start), "{gone:?}");
        }
    }

    prop_compose! {
        fn any_seen()(state in prop::sample::select(vec![
                TaskState::New, TaskState::Accepted, TaskState::Preparing, TaskState::Ready,
                TaskState::Starting, TaskState::Running, TaskState::Complete, TaskState::Failed,
            ]),
            container in prop_oneof![
                Just(Container::Absent), Just(Container::Created),
                Just(Container::Running { pid: 1 }), Just(Container::Exited(exit(1))),
            ],
            health in prop::sample::select(vec![UNKNOWN, Health::Starting, Health::Good]),
            network: bool, failed: bool,
        ) -> Seen {
            let failure = failed.then(|| Failure::failed("x"));
            Seen { state, remains: container != Container::Absent, container, health, network, failure }
        }
    }

    proptest! {
        #[test]
        fn every_life_ends_with_the_network_gone_before_the_end_is_told(
            mut seen in any_seen(), run: bool, stop: bool, remove: bool,
        ) {
            let order = Order { run, stop, remove };
            let mut started = seen.state >= TaskState::Starting;
            for _ in 0..20 {
                let next = step(order, &seen);
                match &next {
                    Step::End(_) | Step::Forget => prop_assert!(!seen.network && !seen.may_run()),
                    Step::Start => {
                        prop_assert!(!started && !order.ends());
                        started = true;
                    }
                    _ => {}
                }
                perform(&next, &mut seen);
                if matches!(next, Step::Hold | Step::Forget) {
                    return Ok(());
                }
            }
            prop_assert!(false, "no end in {seen:?}");
        }
    }
}
