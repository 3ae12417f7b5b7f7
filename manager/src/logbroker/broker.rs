//! Who listens for subscriptions, and who has subscribed, at this manager.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::model::{NodeId, id};
use proto::wire::{LogSelector, LogSubscriptionOptions, SubscribeLogsMessage, SubscriptionMessage};
use raft_store::{Tables, View};
use tokio::sync::mpsc;
use tonic::Status;

use super::selection;

/// Messages that wait for a client; then the nodes wait.
const BUFFERED: usize = 64;
/// Announcements that wait for a node. A node that lets so many pile up has to listen anew.
const ANNOUNCED: usize = 256;

pub type Output = mpsc::Sender<Result<SubscribeLogsMessage, Status>>;
pub type Input = mpsc::Receiver<Result<SubscribeLogsMessage, Status>>;

#[derive(Default)]
pub struct Broker {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    subscriptions: HashMap<String, Entry>,
    listeners: HashMap<NodeId, Ear>,
    next_listener: u64,
}

struct Ear {
    number: u64,
    announce: mpsc::Sender<SubscriptionMessage>,
}

struct Entry {
    selector: LogSelector,
    options: LogSubscriptionOptions,
    /// None once all has come that will: when the publishers have dropped theirs too, the client's stream ends.
    output: Option<Output>,
    /// Nodes that were told.
    told: BTreeSet<NodeId>,
    /// Those of them that have not finished.
    expected: BTreeSet<NodeId>,
}

impl Entry {
    /// What follows never ends by itself.
    fn settle(&mut self) {
        if !self.options.follow && self.expected.is_empty() {
            self.output = None;
        }
    }
}

/// A client's, for as long as it listens.
pub struct Subscription {
    id: String,
    broker: Arc<Broker>,
}

/// A node's, for as long as it listens.
pub struct Listener {
    node: NodeId,
    number: u64,
    announced: mpsc::Receiver<SubscriptionMessage>,
    broker: Arc<Broker>,
}

/// A node's output for a subscription. Dropping it means that nothing more comes.
pub struct Publisher {
    id: String,
    node: NodeId,
    pub selector: LogSelector,
    output: Output,
    broker: Arc<Broker>,
}

impl Broker {
    pub fn subscribe(
        self: &Arc<Self>,
        tables: &Tables,
        selector: LogSelector,
        options: LogSubscriptionOptions,
    ) -> (Subscription, Input) {
        let id = id::encode(rand::random());
        let (output, input) = mpsc::channel(BUFFERED);
        let nodes = selection::nodes(tables, &selector);
        let (told, expected) = (BTreeSet::new(), BTreeSet::new());
        let entry = Entry { selector, options, output: Some(output), told, expected };
        let mut state = self.lock();
        state.subscriptions.insert(id.clone(), entry);
        for node in nodes {
            state.tell(&id, &node);
        }
        state.subscriptions.get_mut(&id).map(Entry::settle);
        (Subscription { id, broker: Arc::clone(self) }, input)
    }

    pub fn listen(self: &Arc<Self>, node: NodeId, view: &View) -> Listener {
        let (announce, announced) = mpsc::channel(ANNOUNCED);
        let mut state = self.lock();
        let number = state.next_listener;
        state.next_listener += 1;
        state.hung_up(&node);
        state.listeners.insert(node.clone(), Ear { number, announce });
        for id in state.concerning(view, &node) {
            state.tell(&id, &node);
        }
        Listener { node, number, announced, broker: Arc::clone(self) }
    }

    /// Where the node's output for the subscription goes; none if nobody waits for it.
    pub fn publisher(self: &Arc<Self>, id: &str, node: &NodeId) -> Option<Publisher> {
        let state = self.lock();
        let entry = state.subscriptions.get(id).filter(|entry| entry.told.contains(node))?;
        Some(Publisher {
            id: id.to_owned(),
            node: node.clone(),
            selector: entry.selector.clone(),
            output: entry.output.clone()?,
            broker: Arc::clone(self),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn concerning(&self, view: &View, node: &NodeId) -> Vec<String> {
        let open = self.subscriptions.iter().filter(|(_, entry)| entry.output.is_some());
        let concerned = open.filter(|(_, entry)| selection::nodes(view, &entry.selector).contains(node));
        concerned.map(|(id, _)| id.clone()).collect()
    }

    /// Announces a subscription to a node, if it listens here and does not know yet.
    fn tell(&mut self, id: &str, node: &NodeId) {
        let (Some(entry), Some(ear)) = (self.subscriptions.get_mut(id), self.listeners.get(node)) else {
            return;
        };
        if entry.told.contains(node) {
            return;
        }
        let announcement = SubscriptionMessage {
            id: id.to_owned(),
            selector: Some(entry.selector.clone()),
            options: Some(entry.options.clone()),
            close: false,
        };
        if ear.announce.try_send(announcement).is_ok() {
            entry.told.insert(node.clone());
            entry.expected.insert(node.clone());
        } else {
            self.listeners.remove(node);
        }
    }

    fn hung_up(&mut self, node: &NodeId) {
        self.listeners.remove(node);
        for entry in self.subscriptions.values_mut() {
            entry.told.remove(node);
            entry.expected.remove(node);
            entry.settle();
        }
    }
}

impl Subscription {
    /// The nodes that were told of it here.
    pub fn heard(&self) -> Vec<NodeId> {
        let state = self.broker.lock();
        state
            .subscriptions
            .get(&self.id)
            .map(|entry| entry.told.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// Announces the subscription to nodes that have come to hold tasks that it means.
    pub fn follow(&self, nodes: impl IntoIterator<Item = NodeId>) {
        let mut state = self.broker.lock();
        nodes.into_iter().for_each(|node| state.tell(&self.id, &node));
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.broker.lock();
        let Some(entry) = state.subscriptions.remove(&self.id) else { return };
        for node in entry.told {
            if let Some(ear) = state.listeners.get(&node) {
                let end = SubscriptionMessage { id: self.id.clone(), close: true, ..Default::default() };
                // A node that is too slow to hear it finds out when it publishes.
                let _ = ear.announce.try_send(end);
            }
        }
    }
}

impl Listener {
    /// None once the node listens elsewhere or was too slow.
    pub async fn next(&mut self) -> Option<SubscriptionMessage> {
        self.announced.recv().await
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut state = self.broker.lock();
        if state.listeners.get(&self.node).is_some_and(|ear| ear.number == self.number) {
            state.hung_up(&self.node);
        }
    }
}

impl Publisher {
    /// Waits while the client is slow. False once it has gone.
    pub async fn send(&self, message: SubscribeLogsMessage) -> bool {
        self.output.send(Ok(message)).await.is_ok()
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let mut state = self.broker.lock();
        if let Some(entry) = state.subscriptions.get_mut(&self.id) {
            entry.expected.remove(&self.node);
            entry.settle();
        }
    }
}
