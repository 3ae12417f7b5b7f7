//! After a restart: what the tasks that this node remembers are, seen from the containers that exist.
//!
//! Pure. Tasks that run go on without a manager. Those that were never started wait until a manager confirms them:
//! their credentials are not remembered, and they may be gone from the swarm.
//!
//! A container that is there but does not run was never started, or was running when the machine went down: which of
//! the two shows the boot that its label names.

use std::collections::BTreeMap;
use std::time::SystemTime;

use proto::model::{TaskId, TaskState, TaskStatus};
use proto::wire;

use super::assigned::Assigned;
use super::container::BOOT_LABEL;
use super::step::{Container, Health, Seen};
use crate::runtime::ContainerState;

/// What the node found.
#[derive(Debug, Default)]
pub struct Found {
    /// Go on at once.
    pub known: Vec<(Assigned, Seen)>,
    /// Wait for a manager's word.
    pub dormant: BTreeMap<TaskId, (Assigned, Seen)>,
    /// Containers of which nothing is remembered, by id.
    pub unknown: BTreeMap<String, ContainerState>,
}

pub fn find(
    remembered: Vec<(wire::Task, Option<wire::TaskStatus>)>,
    containers: Vec<ContainerState>,
    boot_id: &str,
) -> Found {
    let unknown = containers.into_iter().map(|container| (container.id.clone(), container));
    let mut found = Found { unknown: unknown.collect(), ..Found::default() };
    for (task, status) in remembered {
        let id = task.id.clone();
        let told = status.map_or(Told::default(), |status| Told::from(&status));
        let assigned = match Assigned::try_from(task) {
            Ok(assigned) => assigned,
            Err(error) => {
                tracing::error!(task = id, %error, "a remembered task is not understood; a manager will tell it anew");
                continue;
            }
        };
        let seen = seen(told, found.unknown.remove(&id), boot_id);
        if goes_on(&seen) {
            found.known.push((assigned, seen));
        } else {
            found.dormant.insert(assigned.id().clone(), (assigned, seen));
        }
    }
    found
}

/// What was told of a task before.
#[derive(Debug, Clone, Copy)]
pub struct Told {
    state: TaskState,
    /// Told of one that was being started.
    started: Option<SystemTime>,
}

impl Default for Told {
    fn default() -> Self {
        Self { state: TaskState::New, started: None }
    }
}

impl From<&wire::TaskStatus> for Told {
    fn from(status: &wire::TaskStatus) -> Self {
        let state = TaskState::from(status.state());
        let at = status.timestamp.and_then(|at| SystemTime::try_from(at).ok());
        Self { state, started: at.filter(|_| state == TaskState::Starting) }
    }
}

impl From<&TaskStatus> for Told {
    fn from(status: &TaskStatus) -> Self {
        let started = (status.state == TaskState::Starting).then_some(status.timestamp);
        Self { state: status.state, started }
    }
}

/// A task that may have been started, in this process or before, with the container that there is now.
pub fn seen(told: Told, container: Option<ContainerState>, boot_id: &str) -> Seen {
    let remains = container.is_some();
    let health = Health::Unknown { served: told.state == TaskState::Running, started: told.started };
    let state = match told.state {
        ended if ended.is_terminal() => ended,
        TaskState::Starting | TaskState::Running => TaskState::Starting,
        _ if container.as_ref().is_some_and(|container| is_of_earlier_boot(container, boot_id)) => {
            TaskState::Starting
        }
        _ => TaskState::New,
    };
    let container = container.map_or(Container::Absent, |container| container.status.into());
    let begun = state != TaskState::New || !matches!(container, Container::Absent | Container::Created);
    // What was prepared is prepared again: the image is here, and the sandbox may be gone.
    let container = if begun { container } else { Container::Absent };
    Seen { state, container, health, network: begun || remains, remains, failure: None }
}

fn is_of_earlier_boot(container: &ContainerState, boot_id: &str) -> bool {
    let made = container.labels.get(BOOT_LABEL).map_or("", String::as_str);
    boot_id.is_empty() || made != boot_id
}

fn goes_on(seen: &Seen) -> bool {
    seen.state >= TaskState::Starting || seen.container != Container::Absent
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Exit, Status};
    use crate::task::samples;

    fn container(id: &str, status: Status) -> ContainerState {
        let labels = BTreeMap::from([(BOOT_LABEL.to_owned(), "boot2".to_owned())]);
        ContainerState { id: id.into(), image: "nginx".into(), labels, status }
    }

    fn remembered(id: &str, state: Option<wire::TaskState>) -> (wire::Task, Option<wire::TaskStatus>) {
        let timestamp = Some(SystemTime::UNIX_EPOCH.into());
        let status =
            state.map(|state| wire::TaskStatus { state: state.into(), timestamp, ..Default::default() });
        (samples::wire_task(id), status)
    }

    #[test]
    fn sorts_tasks_by_what_became_of_them() {
        let exit = Exit { code: 3, oom: false, at: SystemTime::UNIX_EPOCH };
        let tasks = vec![
            remembered("running", Some(wire::TaskState::Starting)),
            remembered("healthy", Some(wire::TaskState::Running)),
            remembered("exited", Some(wire::TaskState::Starting)),
            remembered("rebooted", Some(wire::TaskState::Starting)),
            remembered("ended", Some(wire::TaskState::Failed)),
            remembered("prepared", None),
            remembered("prepared-before", None),
            remembered("new", None),
        ];
        let containers = vec![
            container("running", Status::Running { pid: 7 }),
            container("healthy", Status::Running { pid: 9 }),
            container("exited", Status::Exited(exit.clone())),
            container("rebooted", Status::Created),
            container("prepared", Status::Created),
            ContainerState { labels: BTreeMap::new(), ..container("prepared-before", Status::Created) },
            container("stranger", Status::Running { pid: 8 }),
        ];
        let found = find(tasks, containers, "boot2");
        let known: BTreeMap<_, _> =
            found.known.into_iter().map(|(assigned, seen)| (assigned.id().to_string(), seen)).collect();
        assert_eq!(
            known.keys().collect::<Vec<_>>(),
            ["ended", "exited", "healthy", "prepared-before", "rebooted", "running"]
        );
        assert_eq!(known["running"].container, Container::Running { pid: 7 });
        assert_eq!(
            known["running"].health,
            Health::Unknown { served: false, started: Some(SystemTime::UNIX_EPOCH) }
        );
        let healthy = &known["healthy"];
        assert_eq!(
            (healthy.state, healthy.health),
            (TaskState::Starting, Health::Unknown { served: true, started: None })
        );
        assert_eq!(known["exited"].container, Container::Exited(exit));
        assert_eq!((known["rebooted"].state, known["ended"].state), (TaskState::Starting, TaskState::Failed));
        assert_eq!(known["prepared-before"].state, TaskState::Starting, "it may have run before");
        assert_eq!(found.dormant.keys().map(TaskId::as_str).collect::<Vec<_>>(), ["new", "prepared"]);
        assert!(found.dormant[&TaskId::from("prepared")].1.remains);
        assert_eq!(found.unknown.keys().collect::<Vec<_>>(), ["stranger"]);
    }
}
