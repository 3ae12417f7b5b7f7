//! Tells the manager of a session what became of the tasks, in batches.
//!
//! One call at a time: what changes while a manager makes a batch durable goes into the next, so a busy manager
//! gets larger batches and not more of them.

use std::convert::Infallible;
use std::time::Duration;

use proto::wire::update_task_status_request::TaskStatusUpdate;
use proto::wire::{UpdateTaskStatusRequest, dispatcher_client::DispatcherClient};
use tonic::Code;
use tonic::transport::Channel;

use super::session::Error;
use super::statuses::{Statuses, Update};

/// Changes this close together go into one batch.
const COALESCE: Duration = Duration::from_millis(10);
/// Most updates in one call.
const BATCH: usize = 500;
/// A manager that takes longer to make a batch durable has lost its quorum.
const ANSWER: Duration = Duration::from_secs(15);

/// Reports until a call fails. What is then not acknowledged waits for the next session.
pub(super) async fn report(
    statuses: &Statuses,
    mut client: DispatcherClient<Channel>,
    session_id: &str,
) -> Result<Infallible, Error> {
    let mut changes = statuses.changes();
    loop {
        changes.mark_unchanged();
        loop {
            let updates = statuses.pending(BATCH);
            if updates.is_empty() {
                break;
            }
            send(&mut client, session_id, &updates).await?;
            statuses.acknowledge(&updates);
        }
        // The sender lives as long as `statuses`.
        let _ = changes.changed().await;
        tokio::time::sleep(COALESCE).await;
    }
}

async fn send(
    client: &mut DispatcherClient<Channel>,
    session_id: &str,
    updates: &[Update],
) -> Result<(), Error> {
    let update = |update: &Update| TaskStatusUpdate {
        task_id: update.task.to_string(),
        status: Some((&update.status).into()),
    };
    let request = UpdateTaskStatusRequest {
        session_id: session_id.to_owned(),
        updates: updates.iter().map(update).collect(),
    };
    let answer = tokio::time::timeout(ANSWER, client.update_task_status(request)).await;
    match answer.map_err(|_| Error::Silent("UpdateTaskStatus", ANSWER))? {
        Ok(_) => Ok(()),
        // Every manager would refuse these; telling them again would only cost the session.
        Err(status) if status.code() == Code::InvalidArgument => {
            tracing::error!(reason = status.message(), "a manager refused the status of tasks");
            Ok(())
        }
        Err(status) => Err(Error::call("UpdateTaskStatus", status)),
    }
}
