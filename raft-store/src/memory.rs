//! A store without Raft and disk, for tests of what runs on one. The state machine is the real one.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use proto::model::Reachability;
use tokio::sync::watch;

use crate::change_set::Proposal;
use crate::state_machine::{Outcome, Position, State};
use crate::update::{self, Failure};
use crate::watch::Feed;
use crate::{Leadership, Member, Term, read};

pub(crate) struct Memory {
    state: Mutex<Inner>,
    pub(crate) leadership: watch::Sender<Leadership>,
    pub(crate) members: watch::Sender<Vec<Member>>,
}

struct Inner {
    state: State,
    /// So many of the next proposals are answered with a conflict.
    conflicts: usize,
}

/// The only member's.
pub(crate) const RAFT_ID: u64 = 1;

impl Memory {
    pub(crate) fn new() -> Self {
        let member = Member {
            raft_id: RAFT_ID,
            node_id: "memory".into(),
            addr: "memory:0".into(),
            voter: true,
            leader: true,
            reachability: Reachability::Reachable,
            lag: Some(0),
        };
        let leadership = Leadership { leading: Some(Term(1)), leader: Some(RAFT_ID) };
        Self {
            state: Mutex::new(Inner { state: State::default(), conflicts: 0 }),
            leadership: watch::Sender::new(leadership),
            members: watch::Sender::new(vec![member]),
        }
    }

    /// Through the wire form, as on every replica.
    pub(crate) fn propose(&self, proposal: &Proposal, feed: &Feed) -> Result<Outcome, Failure> {
        let (_, proposal) = update::entry(proposal)?;
        let mut inner = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let index = inner.state.tables.index() + 1;
        if inner.conflicts > 0 {
            inner.conflicts -= 1;
            return Ok(Outcome::Conflict { index: index - 1 });
        }
        let leading = self.leadership.borrow().leading;
        let position = Position { index, term: leading.unwrap_or_default() };
        let (outcome, changes) = inner.state.apply(proposal, position);
        feed.publish(inner.state.tables.clone(), changes);
        feed.announce();
        Ok(outcome)
    }

    pub(crate) fn linearize(&self) -> Result<(), read::Error> {
        let leader = self.leadership.borrow().leader;
        leader.map(drop).ok_or(read::Error::NoQuorum(Duration::ZERO))
    }

    pub(crate) fn inject_conflicts(&self, count: usize) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).conflicts = count;
    }
}
