//! Follows a service until what was asked of it is true, or until it is clear why it will not be.
//!
//! Waiting is all that is done here: leaving early changes nothing of what the managers do.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use proto::model::{
    Mode, Node, NodeId, NodeState, RestartCondition, Service, Slot, Task, TaskState, UpdateState,
};
use proto::wire::list_tasks_request::Filters;

use crate::client::Client;
use crate::resolve::{self, Named as _};

/// How often the managers are asked.
const PERIOD: Duration = Duration::from_millis(200);
/// How long all must be well before that is believed.
const STABLE: Duration = Duration::from_secs(5);
/// How long a task may wait for a node, for the same reason, before that is the answer.
const WAITING: Duration = Duration::from_secs(10);
/// Failures in one slot after which the next is no news.
const FAILURES: usize = 2;

/// Returns when `service` has converged; an error tells why it has not.
pub async fn follow(client: &Client, service: &str, quiet: bool) -> Result<()> {
    let begun = Instant::now();
    let mut display = Display::new(quiet);
    let mut stable_since = None;
    loop {
        let service: Service = resolve::find(client, service).await?;
        let filters = Filters { service_ids: vec![service.id.to_string()], ..Default::default() };
        let slots = slots(&service, resolve::tasks(client, filters).await?);
        let leaving = leaving(client, &slots).await?;
        let state = State::of(&service, &slots, leaving, begun.elapsed());
        display.show(&slots, &state);
        match state {
            State::Failed(reason) => {
                display.end();
                let name = service.name();
                bail!("service {name} has not converged: {reason}; see \"swarmctl service ps {name}\"");
            }
            State::Working { .. } => stable_since = None,
            State::Stable => {
                let since = stable_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= STABLE {
                    display.end();
                    if !quiet {
                        println!("verify: service {} converged", service.name());
                    }
                    return Ok(());
                }
            }
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// Where a task of the service belongs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Slot(Slot),
    Node(Option<NodeId>),
}

impl Place {
    fn label(&self, total: usize) -> String {
        match self {
            Self::Slot(Slot(slot)) => format!("{slot}/{total}"),
            Self::Node(node) => node.as_ref().map_or("?", |node| node.as_str()).chars().take(12).collect(),
        }
    }
}

/// The tasks of one place, the newest last.
type Slots = BTreeMap<Place, Vec<Task>>;

fn slots(service: &Service, mut tasks: Vec<Task>) -> Slots {
    tasks.sort_by_key(|task| task.meta.created_at);
    let mut slots = Slots::new();
    if let Mode::Replicated { replicas } = service.spec.mode {
        slots.extend((1..=replicas).map(|slot| (Place::Slot(Slot(slot)), Vec::new())));
    }
    for task in tasks {
        let place = match service.spec.mode {
            Mode::Replicated { .. } => Place::Slot(task.slot),
            Mode::Global => Place::Node(task.node.clone()),
        };
        slots.entry(place).or_default().push(task);
    }
    slots
}

/// Whether tasks are about to end on nodes that will report it.
async fn leaving(client: &Client, slots: &Slots) -> Result<bool> {
    let on: BTreeSet<&NodeId> =
        slots.values().flatten().filter(|task| ends(task)).filter_map(|task| task.node.as_ref()).collect();
    if on.is_empty() {
        return Ok(false);
    }
    let nodes = Node::list(client, vec![], on.iter().map(ToString::to_string).collect()).await?;
    Ok(nodes.iter().any(|node| node.status.state == NodeState::Ready))
}

fn ends(task: &Task) -> bool {
    task.desired > TaskState::Running && !task.status.state.is_terminal()
}

/// How the service is doing.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Working { running: usize, total: usize },
    Stable,
    Failed(String),
}

impl State {
    fn of(service: &Service, slots: &Slots, leaving: bool, waited: Duration) -> Self {
        if let Some(status) = &service.update_status
            && matches!(status.state, UpdateState::Paused | UpdateState::RollbackPaused)
        {
            return Self::Failed(format!("update paused: {}", status.message));
        }
        let failed = slots.values().find_map(|tasks| given_up(service, tasks, waited));
        if let Some(reason) = failed {
            return Self::Failed(reason);
        }
        let updating =
            service.update_status.as_ref().is_some_and(|status| status.state == UpdateState::Updating);
        let total = match service.spec.mode {
            Mode::Replicated { replicas } => usize::try_from(replicas).unwrap_or(usize::MAX),
            Mode::Global => slots.values().filter(|tasks| wanted(tasks).is_some()).count(),
        };
        let running = slots.values().filter(|tasks| is_running(tasks)).count();
        if running == total && !updating && !leaving {
            Self::Stable
        } else {
            Self::Working { running, total }
        }
    }
}

/// The task that shall run.
fn wanted(tasks: &[Task]) -> Option<&Task> {
    tasks.iter().rev().find(|task| task.desired <= TaskState::Running)
}

fn is_running(tasks: &[Task]) -> bool {
    wanted(tasks).is_some_and(|task| task.status.state == TaskState::Running)
}

/// Why this place will not get a running task soon, if that is so.
fn given_up(service: &Service, tasks: &[Task], waited: Duration) -> Option<String> {
    if is_running(tasks) {
        return None;
    }
    let current = tasks.iter().filter(|task| task.spec_version >= service.spec_version);
    let failures: Vec<&Task> =
        current.filter(|task| matches!(task.status.state, TaskState::Failed | TaskState::Rejected)).collect();
    if let Some(last) = failures.last()
        && (failures.len() >= FAILURES || service.spec.task.restart.condition == RestartCondition::None)
    {
        return Some(format!("task {} {}: {}", last.annotations.name, last.status.state, last.status.err));
    }
    let waiting = wanted(tasks).filter(|task| task.status.state <= TaskState::Pending)?;
    let explained = !waiting.status.err.is_empty() && waited >= WAITING;
    explained.then(|| format!("task {} waits: {}", waiting.annotations.name, waiting.status.err))
}

/// A line a task on a terminal; elsewhere only what has changed overall.
struct Display {
    quiet: bool,
    terminal: Option<MultiProgress>,
    bars: BTreeMap<Place, ProgressBar>,
    last: Option<String>,
}

/// Lines that fit on a screen.
const LINES: usize = 20;

impl Display {
    fn new(quiet: bool) -> Self {
        let terminal = (!quiet && std::io::stderr().is_terminal()).then(MultiProgress::new);
        Self { quiet, terminal, bars: BTreeMap::new(), last: None }
    }

    fn show(&mut self, slots: &Slots, state: &State) {
        if self.quiet {
            return;
        }
        if let State::Working { running, total } = state {
            let line = format!("overall progress: {running} out of {total} tasks");
            if self.terminal.is_none() && self.last.as_ref() != Some(&line) {
                println!("{line}");
                self.last = Some(line);
            }
        }
        let Some(terminal) = &self.terminal else { return };
        for (place, tasks) in slots.iter().take(LINES) {
            let bar = self.bars.entry(place.clone()).or_insert_with(|| {
                terminal
                    .add(ProgressBar::new_spinner().with_style(style()).with_prefix(place.label(slots.len())))
            });
            bar.set_message(wanted(tasks).or(tasks.last()).map_or_else(String::new, describe));
            bar.tick();
        }
    }

    fn end(&self) {
        self.bars.values().for_each(ProgressBar::abandon);
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix}: {wide_msg}").unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn describe(task: &Task) -> String {
    let status = &task.status;
    let why = if status.err.is_empty() { &status.message } else { &status.err };
    if status.state == TaskState::Running || why.is_empty() {
        status.state.to_string()
    } else {
        format!("{} ({why})", status.state)
    }
}
