//! Questions on their way to nodes, and who waits for the answers.
//!
//! A node that has a stream of questions open here can be asked here. An answer counts only if the node was asked: it is
//! found by node and number. Whoever asks waits for a bounded time, and takes the question back when it gives up.
//!
//! Invariant: what is kept is as much as there are streams and askers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::model::NodeId;
use proto::network::{Answer, Question};
use tokio::sync::{mpsc, oneshot};

/// Questions to one node that it has not taken yet.
const WAITING: usize = 32;

#[derive(Default)]
pub struct Board {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    streams: HashMap<NodeId, (u64, mpsc::Sender<Question>)>,
    asked: HashMap<(NodeId, u64), oneshot::Sender<Answer>>,
    last: u64,
}

/// Questions to a node, for as long as its stream is open.
pub struct Stream {
    board: Arc<Board>,
    node: NodeId,
    number: u64,
    questions: mpsc::Receiver<Question>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Silence {
    /// It has no stream open here.
    Absent,
    Busy,
    Late,
}

impl Board {
    /// A newer stream of a node takes the place of the older one.
    pub fn open(self: &Arc<Self>, node: NodeId) -> Stream {
        let (sender, questions) = mpsc::channel(WAITING);
        let mut state = self.lock();
        let number = state.next();
        state.streams.insert(node.clone(), (number, sender));
        Stream { board: Arc::clone(self), node, number, questions }
    }

    pub async fn ask(
        &self,
        node: &NodeId,
        mut question: Question,
        patience: Duration,
    ) -> Result<Answer, Silence> {
        let (reply, answer) = oneshot::channel();
        let id = {
            let mut state = self.lock();
            let id = state.next();
            question.id = id;
            let (_, stream) = state.streams.get(node).ok_or(Silence::Absent)?;
            stream.try_send(question).map_err(|_| Silence::Busy)?;
            state.asked.insert((node.clone(), id), reply);
            id
        };
        let _taken_back = Asked { board: self, key: (node.clone(), id) };
        match tokio::time::timeout(patience, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            _ => Err(Silence::Late),
        }
    }

    /// False if nobody waits for it any more, or the node was never asked.
    pub fn answer(&self, node: &NodeId, id: u64, answer: Answer) -> bool {
        let asked = self.lock().asked.remove(&(node.clone(), id));
        asked.is_some_and(|asked| asked.send(answer).is_ok())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock leaves the tables half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

/// Forgets the question when whoever asked goes.
struct Asked<'a> {
    board: &'a Board,
    key: (NodeId, u64),
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.board.lock().asked.remove(&self.key);
    }
}

impl Stream {
    /// None once a newer stream has taken over.
    pub async fn next(&mut self) -> Option<Question> {
        self.questions.recv().await
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut state = self.board.lock();
        if state.streams.get(&self.node).is_some_and(|(number, _)| *number == self.number) {
            state.streams.remove(&self.node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn only_the_node_that_was_asked_can_answer() {
        let board = Arc::new(Board::default());
        let mut stream = board.open("n1".into());
        let node = NodeId::from("n1");
        let asking = board.ask(&node, Question::default(), SOON);
        let answering = async {
            let question = stream.next().await.unwrap();
            assert!(!board.answer(&"n2".into(), question.id, Answer::default()));
            assert!(board.answer(&"n1".into(), question.id, Answer { refusal: "no".into(), kind: None }));
        };
        let (answer, ()) = tokio::join!(asking, answering);
        assert_eq!(answer.unwrap().refusal, "no");
        assert!(board.lock().asked.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_answer_is_late_and_who_is_not_there_absent() {
        let board = Arc::new(Board::default());
        let node = NodeId::from("n1");
        assert_eq!(board.ask(&node, Question::default(), SOON).await, Err(Silence::Absent));
        let stream = board.open(node.clone());
        assert_eq!(board.ask(&node, Question::default(), SOON).await, Err(Silence::Late));
        assert!(board.lock().asked.is_empty());
        for _ in 0..WAITING - 1 {
            let _ = board.ask(&node, Question::default(), SOON).await;
        }
        assert_eq!(board.ask(&node, Question::default(), SOON).await, Err(Silence::Busy));
        let newer = board.open(node.clone());
        drop(stream);
        assert!(board.lock().streams.contains_key(&node));
        drop(newer);
        assert!(board.lock().streams.is_empty());
    }
}
