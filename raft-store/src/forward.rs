//! Sends this manager's proposals to the leader, several in one message where several wait.
//!
//! Who proposes puts its proposal in a queue and waits for the answer, or for a turn to send. A few messages may be
//! under way at a time; who gets a turn sends what all have queued. So a single client waits for nobody, and hundreds
//! share the cost of a message. Whom to send to, and whether to send again, is decided by `replicated`.
//!
//! Invariant: a proposal that was taken from the queue is answered, or its proposer hears that nobody knows.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use prost::bytes::Bytes;
use proto::raft as wire;
use proto::raft::raft_client::RaftClient;
use tokio::sync::{Semaphore, oneshot};

use crate::codec::violation::get_outcome;
use crate::host::Wire;
use crate::replicated::Attempt;
use crate::transport::never_sent;

/// Messages at a time. While they are under way, proposals gather for the next one.
const UNDER_WAY: usize = 4;

/// Proposals in one message, and their bytes; a proposal that has more is sent alone.
const MOST: usize = 256;
const MOST_BYTES: usize = 1 << 20;

pub(crate) struct Forwarding {
    queue: Mutex<Queue>,
    turns: Semaphore,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    serial: u64,
}

struct Waiting {
    serial: u64,
    proposal: Bytes,
    answer: oneshot::Sender<Attempt>,
}

impl Default for Forwarding {
    fn default() -> Self {
        Self { queue: Mutex::default(), turns: Semaphore::new(UNDER_WAY) }
    }
}

impl Forwarding {
    /// May be dropped: then the proposal, and what is sent with it, may have been made or not.
    pub(crate) async fn forward(&self, client: &RaftClient<Wire>, proposal: Bytes) -> Attempt {
        let (serial, mut answer) = self.lock().push(proposal);
        loop {
            let turn = tokio::select! {
                biased;
                answer = &mut answer => return answer.unwrap_or(Attempt::Unknown),
                turn = self.turns.acquire() => turn,
            };
            let batch = self.lock().take();
            send(client.clone(), batch).await;
            drop(turn);
            if !self.lock().holds(serial) {
                return answer.await.unwrap_or(Attempt::Unknown);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn push(&mut self, proposal: Bytes) -> (u64, oneshot::Receiver<Attempt>) {
        let (answer, answered) = oneshot::channel();
        self.serial += 1;
        self.waiting.push_back(Waiting { serial: self.serial, proposal, answer });
        (self.serial, answered)
    }

    /// The first ones whose proposers still wait.
    fn take(&mut self) -> Vec<Waiting> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(next) = self.waiting.pop_front() {
            if next.answer.is_closed() {
                continue;
            }
            bytes += next.proposal.len();
            if !batch.is_empty() && (bytes > MOST_BYTES || batch.len() == MOST) {
                self.waiting.push_front(next);
                break;
            }
            batch.push(next);
        }
        batch
    }

    /// They leave in the order in which they came.
    fn holds(&self, serial: u64) -> bool {
        self.waiting.front().is_some_and(|first| first.serial <= serial)
    }
}

async fn send(mut client: RaftClient<Wire>, batch: Vec<Waiting>) {
    let mut proposals = batch.iter().map(|waiting| waiting.proposal.clone());
    let Some(proposal) = proposals.next() else { return };
    let request = wire::ProposeRequest { proposal, more: proposals.collect() };
    // An error of an answer's channel means that the proposer has given up.
    match client.propose(request).await {
        Ok(response) => {
            let mut first = response.into_inner();
            let more = std::mem::take(&mut first.more);
            for (waiting, response) in batch.into_iter().zip(std::iter::once(first).chain(more)) {
                let _ = waiting.answer.send(attempt(response));
            }
        }
        Err(status) => {
            tracing::debug!(%status, "forwarded proposals were not answered");
            let never = never_sent(&status);
            for waiting in batch {
                let _ = waiting.answer.send(if never { Attempt::Refused(None) } else { Attempt::Unknown });
            }
        }
    }
}

fn attempt(response: wire::ProposeResponse) -> Attempt {
    match get_outcome(response) {
        Ok(Some(outcome)) => Attempt::Answered(outcome),
        Ok(None) => Attempt::Refused(None),
        Err(_) => Attempt::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(batch: &[Waiting]) -> Vec<usize> {
        batch.iter().map(|waiting| waiting.proposal.len()).collect()
    }

    #[test]
    fn what_waits_is_sent_together_in_order_and_without_those_who_gave_up() {
        let mut queue = Queue::default();
        let waiting: Vec<_> = [1, 2, 3].map(|size| queue.push(vec![0; size].into())).into();
        let gave_up = queue.push(vec![0; 4].into());
        drop(gave_up);
        assert!(queue.holds(waiting[0].0));
        assert_eq!(sizes(&queue.take()), [1, 2, 3]);
        assert!(!queue.holds(waiting[2].0));
        assert!(queue.take().is_empty());
    }

    #[test]
    fn a_message_is_bounded_but_never_empty() {
        let mut queue = Queue::default();
        let waiting = [MOST_BYTES + 1, 1, MOST_BYTES].map(|size| queue.push(vec![0; size].into()));
        assert_eq!(sizes(&queue.take()), [MOST_BYTES + 1]);
        assert!(!queue.holds(waiting[0].0) && queue.holds(waiting[1].0));
        assert_eq!(sizes(&queue.take()), [1]);
        assert_eq!(sizes(&queue.take()), [MOST_BYTES]);
        let many: Vec<_> = (0..=MOST).map(|_| queue.push(vec![0].into())).collect();
        assert_eq!(queue.take().len(), MOST);
        assert!(queue.holds(many[MOST].0));
    }
}
