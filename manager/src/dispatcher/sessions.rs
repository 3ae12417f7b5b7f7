//! Which node has which session with this manager: one a node, the newest.
//!
//! A session lives as long as its stream; everything else that belongs to it ends with it. How often a node may open
//! one is bounded, since each registration is an entry of the log.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::model::{NodeId, id};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Registrations of one node within `RATE_WINDOW`. A node that works needs one.
const MOST_OPENED: u32 = 20;
const RATE_WINDOW: Duration = Duration::from_secs(10);

#[derive(Default)]
pub struct Sessions {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: HashMap<NodeId, Entry>,
    /// When the node's window began, and how many sessions it has opened since.
    rates: HashMap<NodeId, (Instant, u32)>,
    /// Why none is opened.
    closed: Option<&'static str>,
}

struct Entry {
    id: String,
    ended: CancellationToken,
}

/// Held by the stream of the session.
pub struct Session {
    node: NodeId,
    id: String,
    ended: CancellationToken,
    sessions: Arc<Sessions>,
}

impl Sessions {
    /// Opens a session and ends the one that the node had.
    pub fn open(self: &Arc<Self>, node: NodeId, now: Instant) -> Result<Session, Status> {
        let (id, ended) = (id::encode(rand::random()), CancellationToken::new());
        let entry = Entry { id: id.clone(), ended: ended.clone() };
        let mut state = self.lock();
        if let Some(reason) = state.closed {
            return Err(Status::unavailable(format!("{reason}: register with another manager")));
        }
        if !state.may_open(&node, now) {
            let most = format!("at most {MOST_OPENED} times in {} s", RATE_WINDOW.as_secs());
            return Err(Status::resource_exhausted(format!("node {node} registers too often: {most}")));
        }
        if let Some(older) = state.open.insert(node.clone(), entry) {
            older.ended.cancel();
        }
        Ok(Session { node, id, ended, sessions: Arc::clone(self) })
    }

    /// The end of the session that the node calls `id`.
    pub fn find(&self, node: &NodeId, id: &str) -> Result<CancellationToken, Status> {
        match self.lock().open.get(node) {
            Some(entry) if entry.id == id => Ok(entry.ended.clone()),
            _ => Err(Status::not_found(format!("node {node} has no session {id:?} here: register again"))),
        }
    }

    /// Ends all sessions and opens no more until `reopen`.
    pub fn close(&self, reason: &'static str) {
        let mut state = self.lock();
        state.closed = Some(reason);
        for (_, entry) in state.open.drain() {
            entry.ended.cancel();
        }
    }

    pub fn reopen(&self) {
        self.lock().closed = None;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock leaves the table half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn may_open(&mut self, node: &NodeId, now: Instant) -> bool {
        let is_over = |began: &Instant| now.duration_since(*began) >= RATE_WINDOW;
        if self.rates.len() > 2 * self.open.len() + 16 {
            self.rates.retain(|_, (began, _)| !is_over(began));
        }
        let (began, opened) = self.rates.entry(node.clone()).or_insert((now, 0));
        if is_over(began) {
            (*began, *opened) = (now, 0);
        }
        *opened += 1;
        *opened <= MOST_OPENED
    }
}

impl Session {
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns once a newer session has taken over or the manager stops.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.ended.cancel();
        let mut state = self.sessions.lock();
        if state.open.get(&self.node).is_some_and(|entry| entry.id == self.id) {
            state.open.remove(&self.node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_session_ends_the_older() {
        let sessions = Arc::new(Sessions::default());
        let node = NodeId::from("n1");
        let first = sessions.open(node.clone(), Instant::now()).unwrap();
        let first_end = sessions.find(&node, first.id()).unwrap();
        let second = sessions.open(node.clone(), Instant::now()).unwrap();
        assert!(first_end.is_cancelled());
        assert!(sessions.find(&node, first.id()).is_err());
        // The older one's end does not take the newer with it.
        drop(first);
        assert!(!sessions.find(&node, second.id()).unwrap().is_cancelled());
        let second_end = sessions.find(&node, second.id()).unwrap();
        drop(second);
        assert!(second_end.is_cancelled());
    }

    #[test]
    fn a_node_that_registers_all_the_time_is_told_to_wait() {
        let (sessions, start) = (Arc::new(Sessions::default()), Instant::now());
        let open = |node: &str, at| sessions.open(node.into(), at);
        for _ in 0..MOST_OPENED {
            open("n1", start).unwrap();
        }
        let last = open("n2", start).unwrap();
        let refused = open("n1", start + RATE_WINDOW / 2).err().unwrap();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        open("n1", start + RATE_WINDOW).unwrap();
        assert!(sessions.find(&"n2".into(), last.id()).is_ok(), "others are not concerned");
        for n in 0..100 {
            open(&format!("gone{n}"), start + 2 * RATE_WINDOW * n).unwrap();
        }
        assert!(sessions.lock().rates.len() < 30, "who is gone is forgotten");
    }

    #[test]
    fn a_session_is_its_nodes_own() {
        let sessions = Arc::new(Sessions::default());
        let session = sessions.open("n1".into(), Instant::now()).unwrap();
        let refused = sessions.find(&"n2".into(), session.id()).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::NotFound);
    }

    #[test]
    fn a_manager_that_is_closed_opens_none() {
        let sessions = Arc::new(Sessions::default());
        let session = sessions.open("n1".into(), Instant::now()).unwrap();
        let end = sessions.find(&"n1".into(), session.id()).unwrap();
        sessions.close("the manager is stopping");
        assert!(end.is_cancelled());
        let refused = sessions.open("n1".into(), Instant::now()).map(drop).unwrap_err();
        assert_eq!(refused.message(), "the manager is stopping: register with another manager");
        sessions.reopen();
        assert!(sessions.open("n1".into(), Instant::now()).is_ok());
    }
}
