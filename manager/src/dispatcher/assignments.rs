//! What a node has been assigned: the full set first, then differences.
//!
//! A task is the node's from the state `assigned` on until it is removed from the store: an ended one stays, since the
//! node keeps its output for as long. A task is sent again when what the node must know of it has changed; that its
//! status has, the node itself has said.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::Stream;
use proto::model::{Network, NetworkId, NodeId, Task, TaskId, TaskState};
use proto::wire::assignment::Item;
use proto::wire::assignment_change::AssignmentAction;
use proto::wire::assignments_message::Type;
use proto::wire::{self, Assignment, AssignmentChange, AssignmentsMessage};
use raft_store::{Commit, Object, Tables};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::fanout::{self, Pace, Subscription};

pub fn stream(
    node: NodeId,
    subscription: Subscription<Marks>,
    mut pace: Pace,
    ended: CancellationToken,
) -> impl Stream<Item = Result<AssignmentsMessage, Status>> + Send {
    async_stream::stream! {
        let mut assigned = Assigned::new(node);
        let first = subscription.read(|view, marks, _| {
            *marks = Marks::default();
            view
        });
        yield Ok(assigned.complete(&first));
        loop {
            if let Err(end) = subscription.due(&mut pace, &ended).await {
                yield Err(end);
                return;
            }
            let (marks, view) = subscription.read(|view, marks, _| (std::mem::take(marks), view));
            if let Some(message) = assigned.difference(&view, marks) {
                yield Ok(message);
            }
        }
    }
}

/// What was sent to a node.
pub struct Assigned {
    node: NodeId,
    tasks: BTreeMap<TaskId, Sent>,
    sequence: u64,
}

struct Sent {
    task: Arc<Task>,
    networks: Vec<Arc<Network>>,
}

impl Assigned {
    pub fn new(node: NodeId) -> Self {
        Self { node, tasks: BTreeMap::new(), sequence: 0 }
    }

    pub fn complete(&mut self, tables: &Tables) -> AssignmentsMessage {
        let tasks: BTreeSet<_> = tables.tasks_by_node(&self.node).map(|task| task.id.clone()).collect();
        self.tasks.clear();
        let changes = self.changes(tables, tasks);
        self.message(Type::Complete, changes)
    }

    /// None if nothing has changed for the node.
    pub fn difference(&mut self, tables: &Tables, marks: Marks) -> Option<AssignmentsMessage> {
        let mut tasks = marks.tasks;
        if marks.all {
            tasks.extend(self.tasks.keys().cloned());
            tasks.extend(tables.tasks_by_node(&self.node).map(|task| task.id.clone()));
        }
        let changes = self.changes(tables, tasks);
        (!changes.is_empty()).then(|| self.message(Type::Incremental, changes))
    }

    fn changes(&mut self, tables: &Tables, tasks: BTreeSet<TaskId>) -> Vec<AssignmentChange> {
        tasks.into_iter().filter_map(|id| self.change(tables, id)).collect()
    }

    fn change(&mut self, tables: &Tables, id: TaskId) -> Option<AssignmentChange> {
        let Some(task) = tables.task(&id).filter(|task| self.is_ours(task)) else {
            let sent = self.tasks.remove(&id)?;
            let gone = wire::Task { id: sent.task.id.to_string(), ..Default::default() };
            return Some(change(gone, AssignmentAction::Remove));
        };
        let sent = Sent { task: Arc::clone(task), networks: networks(tables, task) };
        if self.tasks.get(&id).is_some_and(|earlier| earlier.says_the_same(&sent)) {
            return None;
        }
        let update = change(sent.to_wire(), AssignmentAction::Update);
        self.tasks.insert(id, sent);
        Some(update)
    }

    fn is_ours(&self, task: &Task) -> bool {
        task.node.as_ref() == Some(&self.node) && task.status.state >= TaskState::Assigned
    }

    fn message(&mut self, kind: Type, changes: Vec<AssignmentChange>) -> AssignmentsMessage {
        let applies_to = if self.sequence == 0 { String::new() } else { self.sequence.to_string() };
        self.sequence += 1;
        AssignmentsMessage { r#type: kind.into(), applies_to, results_in: self.sequence.to_string(), changes }
    }
}

impl Sent {
    fn says_the_same(&self, other: &Self) -> bool {
        let (ours, theirs) = (&*self.task, &*other.task);
        let same_task = ours.desired == theirs.desired
            && ours.attachments == theirs.attachments
            && ours.endpoint == theirs.endpoint
            && ours.annotations == theirs.annotations
            && ours.service_annotations == theirs.service_annotations
            && ours.log_driver == theirs.log_driver
            && (Arc::ptr_eq(&ours.spec, &theirs.spec) || ours.spec == theirs.spec);
        let same_networks = self.networks.len() == other.networks.len()
            && self.networks.iter().zip(&other.networks).all(|(a, b)| a.spec == b.spec && a.state == b.state);
        same_task && same_networks
    }

    /// The task, with all that its node must know of the networks.
    fn to_wire(&self) -> wire::Task {
        let mut task = wire::Task::from(&*self.task);
        for attachment in &mut task.networks {
            let named = attachment.network.as_ref().map(|network| network.id.as_str());
            let network = self.networks.iter().find(|network| Some(network.id.as_str()) == named);
            if let Some(network) = network {
                attachment.network = Some(wire::Network::from(&**network));
            }
        }
        task
    }
}

fn networks(tables: &Tables, task: &Task) -> Vec<Arc<Network>> {
    let attached = task.attachments.iter().map(|attachment| &attachment.network);
    attached.filter_map(|network| tables.network(network).cloned()).collect()
}

fn change(task: wire::Task, action: AssignmentAction) -> AssignmentChange {
    AssignmentChange { assignment: Some(Assignment { item: Some(Item::Task(task)) }), action: action.into() }
}

/// Tasks of the node that may have changed.
#[derive(Debug, Default)]
pub struct Marks {
    pub tasks: BTreeSet<TaskId>,
    pub all: bool,
}

/// Tasks by node.
pub struct Touched(BTreeMap<NodeId, BTreeSet<TaskId>>);

impl Touched {
    fn add_task(&mut self, task: &Task) {
        if let Some(node) = &task.node {
            self.0.entry(node.clone()).or_default().insert(task.id.clone());
        }
    }

    fn add_network(&mut self, tables: &Tables, network: &NetworkId) {
        for task in tables.tasks_by_network(network) {
            self.add_task(task);
        }
    }
}

impl fanout::Marks for Marks {
    type Touched = Touched;
    type Journal = fanout::Nothing<Touched>;

    fn touched(commit: &Commit) -> Option<Touched> {
        let mut touched = Touched(BTreeMap::new());
        for change in &commit.changes {
            match change.object() {
                Object::Task(task) => touched.add_task(task),
                Object::Network(network) => touched.add_network(&commit.view, &network.id),
                Object::Node(_) | Object::Service(_) | Object::Cluster(_) | Object::Keyring(_) => {}
            }
        }
        (!touched.0.is_empty()).then_some(touched)
    }

    fn nodes(touched: &Touched) -> Option<impl Iterator<Item = &NodeId>> {
        Some(touched.0.keys())
    }

    fn mark(&mut self, node: &NodeId, touched: &Touched) -> bool {
        let Some(tasks) = touched.0.get(node) else { return false };
        self.tasks.extend(tasks.iter().cloned());
        true
    }

    fn mark_all(&mut self) {
        self.all = true;
    }
}
