//! Requests that are sent again until there is an answer, and done once.
//!
//! Each has an id, under which the managers remember it. It is sent again only where nobody knows whether it was done: no
//! answer came, since the daemon died or restarts, or since the managers were finding a new leader.

use std::time::{Duration, Instant};

use anyhow::Result;
use proto::consistency::REQUEST_ID;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Request, Response, Status};

use crate::client::Answer as _;

/// After that no further attempt is begun.
const DEADLINE: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(200);

/// Has `sent` send `message` until it is answered.
pub async fn send<M: Clone, A>(
    message: M,
    mut sent: impl AsyncFnMut(Request<M>) -> Result<Response<A>, Status>,
) -> Result<A> {
    let id = format!("{:032x}", rand::random::<u128>());
    let id = MetadataValue::<Ascii>::try_from(id)?;
    let start = Instant::now();
    loop {
        let mut request = Request::new(message.clone());
        request.metadata_mut().insert(REQUEST_ID, id.clone());
        match Box::pin(sent(request)).await {
            Err(status) if is_unknown(&status) && start.elapsed() < DEADLINE => {
                tokio::time::sleep(PAUSE).await;
            }
            answer => return answer.answer(),
        }
    }
}

/// The connection broke, or the manager itself does not know.
fn is_unknown(status: &Status) -> bool {
    std::error::Error::source(status).is_some() || status.code() == Code::DeadlineExceeded
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_not_known_is_sent_again_under_the_same_id() {
        let (mut ids, mut sent) = (BTreeSet::new(), 0);
        let answer = send((), async |request: Request<()>| {
            ids.insert(request.metadata().get(REQUEST_ID).unwrap().to_str().unwrap().to_owned());
            sent += 1;
            match sent {
                1 => Err(Status::from_error(Box::new(std::io::Error::other("broken pipe")))),
                2 => Err(Status::deadline_exceeded("no answer within 10 s")),
                _ => Ok(Response::new(7)),
            }
        });
        assert_eq!(answer.await.unwrap(), 7);
        assert!(sent == 3 && ids.len() == 1 && ids.first().unwrap().len() == 32, "{sent}: {ids:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_final() {
        let mut sent = 0;
        let refused = send((), async |_: Request<()>| {
            sent += 1;
            Err::<Response<()>, _>(Status::unavailable("no leader within 10 s"))
        });
        assert_eq!(refused.await.unwrap_err().to_string(), "no leader within 10 s");
        assert_eq!(sent, 1);
    }
}
