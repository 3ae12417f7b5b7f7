//! Which nodes are alive: heartbeats are told to the leader, who alone decides that a node is down.
//!
//! Heartbeats are kept in memory, never in the log: a new leader knows none and gives every node the whole time anew.
//! A session whose stream broke is not down, since the node may be moving to another manager: only silence counts.
//!
//! A manager that could not tell the leader for a whole period says so, and its nodes go elsewhere.
//!
//! Invariant: a node that beats in each period, at whatever manager, is not declared down while that manager reaches
//! the leader.

mod table;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::model::{Node, NodeId, NodeState};
use proto::raft::liveness_client::LivenessClient;
use proto::raft::{BeatRequest, BeatResponse, liveness_server};
use raft_store::{Store, Term, UpdateError};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use crate::dispatcher::heartbeat_period;
use crate::managers::Managers;
use crate::peers::Peers;
use table::Table;

/// Heartbeats that a node may miss.
const MISSED: u32 = 3;
/// What a heartbeat may take from a node over its manager to the leader.
const EPSILON: Duration = Duration::from_millis(500);
/// Heartbeats are passed on, and silence is looked for, so many times in a period.
const ROUNDS: u32 = 4;

/// Nodes in one entry of the log: so many of the largest fit.
const AT_A_TIME: usize = 32;

pub struct Liveness {
    state: Mutex<State>,
    reaches_leader: watch::Sender<bool>,
}

impl Default for Liveness {
    fn default() -> Self {
        Self { state: Mutex::default(), reaches_leader: watch::Sender::new(true) }
    }
}

#[derive(Default)]
struct State {
    /// Present while this manager leads, in that term.
    leading: Option<(Term, Table)>,
    /// Heard here, not yet told to the leader.
    unsent: BTreeSet<NodeId>,
}

impl Liveness {
    /// A node has shown that it lives.
    pub fn heard(&self, node: &NodeId) {
        let mut state = self.lock();
        match &mut state.leading {
            Some((_, table)) => table.heard(node.clone(), Instant::now()),
            None => {
                state.unsent.insert(node.clone());
            }
        }
    }

    /// Whether what nodes tell this manager gets to the leader. A manager that has just started is trusted for a period.
    pub fn reaches_leader(&self) -> watch::Receiver<bool> {
        self.reaches_leader.subscribe()
    }

    /// Another manager has heard these nodes. False if this one does not lead.
    fn told(&self, nodes: Vec<String>) -> bool {
        let mut state = self.lock();
        let Some((_, table)) = &mut state.leading else { return false };
        let now = Instant::now();
        nodes.into_iter().for_each(|node| table.heard(node.into(), now));
        true
    }

    /// Passes heartbeats on or judges by them, as this manager leads or not, until cancelled.
    pub async fn run(&self, store: &Store, peers: &Peers, cancel: &CancellationToken) {
        let managers = Managers::of(store);
        let mut reached = Instant::now();
        let rounds = async {
            loop {
                let period = heartbeat_period(&store.view());
                match store.leadership().borrow().leading {
                    Some(term) => self.begin_term(term),
                    None => self.end_term(),
                }
                let told = match self.silent(store, period) {
                    Some((term, silent)) => {
                        self.judge(store, term, &silent).await;
                        Ok(())
                    }
                    None => self.pass_on(&managers, peers, period / ROUNDS).await,
                };
                match told {
                    Ok(()) => {
                        reached = Instant::now();
                        self.show_reach(true);
                    }
                    // This manager was removed from the group.
                    Err(Code::PermissionDenied) => self.show_reach(false),
                    Err(_) => self.show_reach(reached.elapsed() < period),
                }
                tokio::time::sleep(period / ROUNDS).await;
            }
        };
        cancel.run_until_cancelled(rounds).await;
    }

    fn begin_term(&self, term: Term) {
        let mut state = self.lock();
        if state.leading.as_ref().is_none_or(|(known, _)| *known != term) {
            state.leading = Some((term, Table::default()));
            state.unsent.clear();
        }
    }

    fn end_term(&self) {
        self.lock().leading = None;
    }

    /// Nodes to be declared down, if this manager leads.
    fn silent(&self, store: &Store, period: Duration) -> Option<(Term, Vec<NodeId>)> {
        let view = store.view();
        let mut state = self.lock();
        let (term, table) = state.leading.as_mut()?;
        let up = view.nodes().filter(|node| node.status.state != NodeState::Down).map(|node| &node.id);
        Some((*term, table.silent(up, Instant::now(), period * MISSED + EPSILON)))
    }

    /// Once they are down, nodes are forgotten: one that is back by the next round has the whole time again. What could
    /// not be written is found again.
    async fn judge(&self, store: &Store, term: Term, silent: &[NodeId]) {
        if silent.is_empty() {
            return;
        }
        match declare_down(store, term, silent).await {
            Ok(()) => {
                tracing::warn!(nodes = ?silent, "nodes were silent for too long and count as down");
                if let Some((_, table)) = &mut self.lock().leading {
                    table.forget(silent);
                }
            }
            Err(UpdateError::LostLeadership) => {}
            Err(error) => tracing::warn!(%error, "cannot declare silent nodes down"),
        }
    }

    /// Also if there is nothing to tell, to know whether it could be told.
    async fn pass_on(&self, managers: &Managers, peers: &Peers, patience: Duration) -> Result<(), Code> {
        let heard = std::mem::take(&mut self.lock().unsent);
        let told = tokio::time::timeout(patience, tell(managers, peers, &heard)).await;
        let told = told.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer from the leader")));
        if let Err(error) = told {
            tracing::debug!(%error, "cannot tell the leader of heartbeats");
            self.lock().unsent.extend(heard);
            return Err(error.code());
        }
        Ok(())
    }

    fn show_reach(&self, reaches: bool) {
        if self.reaches_leader.send_if_modified(|known| std::mem::replace(known, reaches) != reaches) {
            if reaches {
                tracing::info!("this manager reaches the leader again");
            } else {
                tracing::warn!("this manager does not reach the leader: its nodes go to other managers");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn tell(managers: &Managers, peers: &Peers, heard: &BTreeSet<NodeId>) -> Result<(), Status> {
    let leader = managers.leader_addr().ok_or_else(|| Status::unavailable("there is no leader"))?;
    let node_ids = heard.iter().map(ToString::to_string).collect();
    LivenessClient::new(peers.channel(&leader)?).beat(BeatRequest { node_ids }).await?;
    Ok(())
}

async fn declare_down(store: &Store, term: Term, silent: &[NodeId]) -> Result<(), UpdateError<Infallible>> {
    for part in silent.chunks(AT_A_TIME) {
        declare_part_down(store, term, part).await?;
    }
    Ok(())
}

async fn declare_part_down(
    store: &Store,
    term: Term,
    part: &[NodeId],
) -> Result<(), UpdateError<Infallible>> {
    let written = store.update_as_leader(term, |tx| {
        for id in part {
            let Some(node) = tx.node(id).filter(|node| node.status.state != NodeState::Down) else {
                continue;
            };
            let mut node = Node::clone(node);
            node.status.state = NodeState::Down;
            node.status.message = "heartbeat failure".into();
            tx.update(node);
        }
        Ok(())
    });
    written.await
}

/// The leader's ear.
pub struct Listener(pub Arc<Liveness>);

#[tonic::async_trait]
impl liveness_server::Liveness for Listener {
    async fn beat(&self, request: Request<BeatRequest>) -> Result<Response<BeatResponse>, Status> {
        if self.0.told(request.into_inner().node_ids) {
            return Ok(Response::new(BeatResponse {}));
        }
        Err(Status::failed_precondition("this manager does not lead"))
    }
}

#[cfg(test)]
mod tests;
