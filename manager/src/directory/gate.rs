//! How often a node may cause something to be written.
//!
//! Whoever comes too often waits, which a node does not notice that waits for each answer before it reports again and
//! gathers meanwhile. One that does not wait for answers is refused.
//!
//! Invariant: in any time `t` a node passes at most `BURST + 1 + t / INTERVAL` times.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::model::NodeId;
use tokio::time::{Instant, sleep_until};
use tonic::Status;

/// Each time costs so long, after the first few.
const INTERVAL: Duration = Duration::from_millis(100);
const BURST: u32 = 20;
/// Calls that may wait: one, and some of sessions that have just ended.
const WAITING: usize = 4;
/// Nodes remembered before those are dropped that have not come lately.
const NODES: usize = 1024;

#[derive(Default)]
pub struct Gate {
    nodes: Mutex<HashMap<NodeId, Turn>>,
}

struct Turn {
    /// When all that has passed, or waits, would be over with a burst of none.
    over: Instant,
    waiting: usize,
}

impl Gate {
    /// Returns when it is the node's turn.
    pub async fn pass(&self, node: &NodeId) -> Result<(), Status> {
        let at = self.enter(node, Instant::now())?;
        let _waits = Waits(self, node);
        sleep_until(at).await;
        Ok(())
    }

    fn enter(&self, node: &NodeId, now: Instant) -> Result<Instant, Status> {
        let mut nodes = self.lock();
        if nodes.len() > NODES {
            nodes.retain(|_, turn| turn.waiting > 0 || turn.over > now);
        }
        let turn = nodes.entry(node.clone()).or_insert(Turn { over: now, waiting: 0 });
        if turn.waiting >= WAITING {
            let why = format!(
                "node {node} reports more than {} times a second: wait for each answer",
                1000 / INTERVAL.as_millis()
            );
            return Err(Status::resource_exhausted(why));
        }
        let begins = turn.over.max(now);
        turn.over = begins + INTERVAL;
        turn.waiting += 1;
        Ok(begins.checked_sub(INTERVAL * BURST).unwrap_or(now).max(now))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Turn>> {
        // Nothing that runs under the lock leaves the table half changed.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts as waiting until dropped, also by a caller that has gone.
struct Waits<'a>(&'a Gate, &'a NodeId);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        if let Some(turn) = self.0.lock().get_mut(self.1) {
            turn.waiting -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_answers_is_slowed_down_and_never_refused() {
        let (gate, node) = (Gate::default(), NodeId::from("n1"));
        let begun = Instant::now();
        for _ in 0..=BURST {
            gate.pass(&node).await.unwrap();
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
        for _ in 0..100 {
            let asked = Instant::now();
            gate.pass(&node).await.unwrap();
            assert!(asked.elapsed() <= INTERVAL + Duration::from_millis(1), "{:?}", asked.elapsed());
        }
        let other = Instant::now();
        gate.pass(&"n2".into()).await.unwrap();
        assert_eq!(other.elapsed(), Duration::ZERO, "another node is not concerned");
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_wait_is_refused_until_it_does() {
        let (gate, node) = (Gate::default(), NodeId::from("n1"));
        for _ in 0..=BURST {
            gate.pass(&node).await.unwrap();
        }
        let waiting: Vec<_> = (0..WAITING).map(|_| Box::pin(gate.pass(&node))).collect();
        let mut waiting = futures_util::future::join_all(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        let refused = gate.pass(&node).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert!(refused.message().contains("node n1 reports more than 10 times a second"));
        // Callers that have gone do not count.
        drop(waiting);
        gate.pass(&node).await.unwrap();
    }

    proptest! {
        /// Of nodes that come as they like, each with so many calls at once.
        #[test]
        fn what_passes_is_bounded(calls in prop::collection::vec((0..300u64, 0..6usize), 1..60)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let (gate, node) = (Gate::default(), NodeId::from("n1"));
                let (begun, mut passed) = (Instant::now(), Vec::new());
                for (pause, at_once) in calls {
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                    let calls = (0..at_once).map(|_| async {
                        gate.pass(&node).await.ok().map(|()| begun.elapsed())
                    });
                    passed.extend(futures_util::future::join_all(calls).await.into_iter().flatten());
                }
                for (i, first) in passed.iter().enumerate() {
                    for (count, last) in passed[i..].iter().enumerate() {
                        let allowed = u128::from(BURST) + 2 + (*last - *first).as_millis() / INTERVAL.as_millis();
                        assert!(count as u128 <= allowed, "{count} in {:?}", *last - *first);
                    }
                }
            });
        }
    }
}
