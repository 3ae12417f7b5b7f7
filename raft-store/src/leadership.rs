//! Who leads, and who can be reached, as the rest of a manager wants to know it.
//!
//! Invariant: a manager that is told that it leads has applied everything from before its term.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::type_config::alias::WatchReceiverOf;
use openraft::{Instant as _, ServerState};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::membership::{self, Member};
use crate::options::Timing;
use crate::transport::Peers;
use crate::types::{Group, Metrics, Raft, Standing, term};
use crate::{RaftId, Term};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// This manager leads, and its view includes everything that was committed before its term. None while it cannot
    /// reach a quorum.
    pub leading: Option<Term>,
    /// Whom this manager follows, and has heard just now: one that hears nobody any more, since it is cut off or was
    /// removed, knows no leader.
    pub leader: Option<RaftId>,
}

/// When a leader was last heard. Raft itself only tells whom it would follow, however long that one is silent.
#[derive(Debug, Default)]
pub(crate) struct LeaderHeard(Mutex<Option<Instant>>);

impl LeaderHeard {
    pub(crate) fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    pub(crate) fn within(&self, patience: Duration) -> bool {
        let heard = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.is_some_and(|at| at.elapsed() < patience)
    }
}

/// Turns Raft's metrics into what the rest of a manager wants to know.
pub(crate) struct Observer {
    metrics: WatchReceiverOf<Group, Metrics>,
    standing: WatchReceiverOf<Group, Standing>,
    me: RaftId,
    peers: Arc<Peers>,
    heard: Arc<LeaderHeard>,
    patience: Duration,
    leadership: watch::Sender<Leadership>,
    /// Wakes in the order in which they came, which a watch does not.
    changed: Arc<Notify>,
    members: watch::Sender<Vec<Member>>,
    failed: watch::Sender<Option<String>>,
}

impl Observer {
    pub(crate) fn new(
        raft: &Raft,
        me: RaftId,
        peers: Arc<Peers>,
        heard: Arc<LeaderHeard>,
        timing: &Timing,
    ) -> Self {
        Self {
            metrics: raft.metrics(),
            standing: raft.server_metrics(),
            me,
            peers,
            heard,
            patience: timing.patience(),
            leadership: watch::Sender::default(),
            changed: Arc::default(),
            members: watch::Sender::default(),
            failed: watch::Sender::default(),
        }
    }

    pub(crate) fn receivers(
        &self,
    ) -> (watch::Receiver<Leadership>, watch::Receiver<Vec<Member>>, watch::Receiver<Option<String>>) {
        (self.leadership.subscribe(), self.members.subscribe(), self.failed.subscribe())
    }

    /// Tells after each change of the leadership that there was one.
    pub(crate) fn changed(&self) -> Arc<Notify> {
        self.changed.clone()
    }

    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            let metrics = self.metrics.borrow_and_update().clone();
            if !self.observe(&metrics) {
                break;
            }
            let settled = self.is_settled();
            let changed =
                async { if settled { self.standing.changed().await } else { self.metrics.changed().await } };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                changed = changed => if changed.is_err() {
                    // The last figures tell why there are no more.
                    let metrics = self.metrics.borrow_watched().clone();
                    self.observe(&metrics);
                    break;
                },
                // A lost quorum, or leader, is the absence of news.
                () = sleep(self.patience / 4) => {}
            }
        }
        self.tell(Leadership::default());
        drop(self.leadership);
        self.changed.notify_waiters();
    }

    /// Every entry changes some figure. Such news is worth a look only to a manager that waits: for a leader, or until
    /// it has applied what was there before it led.
    fn is_settled(&self) -> bool {
        let Leadership { leading, leader } = *self.leadership.borrow();
        leader.is_some_and(|leader| leader != self.me || leading.is_some())
    }

    fn tell(&self, leadership: Leadership) {
        let changes = |known: &mut Leadership| std::mem::replace(known, leadership) != leadership;
        if self.leadership.send_if_modified(changes) {
            self.changed.notify_waiters();
        }
    }

    fn observe(&self, metrics: &Metrics) -> bool {
        if let Err(fatal) = &metrics.running_state {
            self.failed.send_replace(Some(fatal.to_string()));
            self.tell(Leadership::default());
            return false;
        }
        let leadership = leadership(metrics, self.me, &self.heard, self.patience);
        self.tell(leadership);
        let members = membership::members(metrics, self.me, leadership.leader, self.patience);
        self.members.send_if_modified(|known| {
            if shape(known) == shape(&members) {
                return false;
            }
            self.peers.follow(&members);
            *known = members;
            true
        });
        true
    }
}

/// What is worth telling: not every entry by which a member lags.
fn shape(members: &[Member]) -> Vec<Member> {
    members.iter().map(|member| Member { lag: None, ..member.clone() }).collect()
}

pub(crate) fn leadership(
    metrics: &Metrics,
    me: RaftId,
    heard: &LeaderHeard,
    patience: Duration,
) -> Leadership {
    if metrics.current_leader != Some(me) || metrics.state != ServerState::Leader {
        let leader = metrics.current_leader.filter(|leader| *leader != me && heard.within(patience));
        return Leadership { leading: None, leader };
    }
    let alone = metrics.membership_config.voter_ids().count() == 1;
    let heard = metrics.last_quorum_acked.is_some_and(|at| at.elapsed() < patience);
    if !alone && !heard {
        return Leadership::default();
    }
    let now = Term(metrics.vote.leader_id.term);
    // Everything from before the term is applied once anything of the term is.
    let caught_up = metrics.last_applied.as_ref().is_some_and(|applied| term(applied) == now);
    Leadership { leading: caught_up.then_some(now), leader: Some(me) }
}
