//! Tasks that wait to stop until no node sends them new connections any more.
//!
//! A task waits here; whichever session there is asks its manager, which answers when all nodes concerned have
//! confirmed. A node without a manager waits no longer than the manager would have.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use proto::model::TaskId;
use proto::network::directory_client::DirectoryClient;
use proto::network::{ConfirmRequest, Confirmed, DrainRequest};
use tokio::sync::watch;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::session::Error;
use crate::network;

/// A little more than what a manager waits for at most.
const PATIENCE: Duration = Duration::from_secs(6);
/// Before a manager is asked again that could not answer.
const AGAIN: Duration = Duration::from_millis(200);

/// The tasks that wait.
#[derive(Clone, Default)]
pub struct Drains {
    waiting: Arc<watch::Sender<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    tasks: BTreeSet<TaskId>,
    /// The node leaves: nobody is waited for.
    over: bool,
}

impl Drains {
    /// Returns when the task may stop.
    pub async fn wait(&self, task: &TaskId) {
        let mut waiting = self.waiting.subscribe();
        self.waiting.send_modify(|waiting| _ = waiting.tasks.insert(task.clone()));
        let done = waiting.wait_for(|waiting| waiting.over || !waiting.tasks.contains(task));
        if tokio::time::timeout(PATIENCE, done.map(drop)).await.is_err() {
            tracing::warn!(%task, "stops without knowing whether other nodes still send it connections");
        }
        self.forget(task);
    }

    pub fn give_up(&self) {
        self.waiting.send_modify(|waiting| waiting.over = true);
    }

    fn forget(&self, task: &TaskId) {
        self.waiting.send_if_modified(|waiting| waiting.tasks.remove(task));
    }

    fn tasks(&self) -> Vec<TaskId> {
        self.waiting.borrow().tasks.iter().cloned().collect()
    }

    /// Asks for the tasks that wait, as long as the session lasts.
    pub(super) async fn serve(&self, channel: Channel, session_id: &str) -> Result<Infallible, Error> {
        let directory = DirectoryClient::new(channel);
        let mut waiting = self.waiting.subscribe();
        let mut asked = BTreeSet::new();
        let mut answers = FuturesUnordered::new();
        loop {
            waiting.borrow_and_update();
            for task in self.tasks() {
                if asked.insert(task.clone()) {
                    answers.push(ask(directory.clone(), session_id, task));
                }
            }
            tokio::select! {
                _ = waiting.changed() => {}
                Some((task, answered)) = answers.next() => {
                    asked.remove(&task);
                    if answered {
                        self.forget(&task);
                    }
                }
            }
        }
    }
}

/// False if the manager could not say.
async fn ask(mut directory: DirectoryClient<Channel>, session_id: &str, task: TaskId) -> (TaskId, bool) {
    let request = DrainRequest { session_id: session_id.to_owned(), task_id: task.to_string() };
    let answered = match directory.drain(request).await {
        Ok(_) => true,
        // Another implementation: it has no such call.
        Err(status) if status.code() == Code::Unimplemented => true,
        Err(error) => {
            tracing::debug!(%task, %error, "the manager cannot say whether the task may stop");
            tokio::time::sleep(AGAIN).await;
            false
        }
    };
    (task, answered)
}

/// Tells the manager what the network works by, when it has asked.
pub(super) async fn confirm(
    mut confirmed: watch::Receiver<network::Confirmed>,
    channel: Channel,
    session_id: &str,
) -> Result<Infallible, Error> {
    let mut directory = DirectoryClient::new(channel);
    let mut told = network::Confirmed::new();
    loop {
        let news = confirmed.borrow_and_update().clone();
        let is_news = |(network, index): &(&_, &u64)| told.get(*network) != Some(*index);
        let entries = news.iter().filter(is_news);
        let entries = entries.map(|(id, index)| Confirmed { network_id: id.to_string(), index: *index });
        let request = ConfirmRequest { session_id: session_id.to_owned(), confirmed: entries.collect() };
        if !request.confirmed.is_empty() {
            tell(&mut directory, request).await.map_err(|status| Error::call("Directory.Confirm", status))?;
        }
        told = news;
        if confirmed.changed().await.is_err() {
            // The worker stops.
            return pending().await;
        }
    }
}

async fn tell(directory: &mut DirectoryClient<Channel>, request: ConfirmRequest) -> Result<(), Status> {
    match directory.confirm(request).await {
        Err(status) if status.code() != Code::Unimplemented => Err(status),
        _ => Ok(()),
    }
}
