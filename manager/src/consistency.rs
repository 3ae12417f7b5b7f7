//! How current an answer is, for every call in one place: what was asked for is waited for before the call, and what
//! may be stale is marked after it.
//!
//! Stands behind the access table: nobody makes the managers confer who may not call. What the store must have for a
//! linearizable read is the store's to decide.
//!
//! Invariant: an answer of `Control` without a mark came from a manager that heard a leader, or led a majority, just
//! then.

use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{HeaderValue, Request, Response};
use proto::consistency::{ASKED, LINEARIZABLE, LOCAL, NO_QUORUM, STALE};
use raft_store::Store;
use tonic::Status;
use tower::{Layer, Service};

use crate::error::Error;

/// Whose answers are shown to people.
const CONTROL: &str = "/docker.swarmkit.v1.Control/";

#[derive(Clone)]
pub struct Consistency {
    store: Store,
}

impl Consistency {
    pub const fn new(store: Store) -> Self {
        Self { store }
    }

    /// Waits until the store may answer a call that was asked for in this way.
    async fn ready(&self, asked: Option<&HeaderValue>) -> Result<(), Status> {
        let asked = asked.map_or(LOCAL.as_bytes(), HeaderValue::as_bytes);
        if asked == LOCAL.as_bytes() {
            return Ok(());
        }
        if asked != LINEARIZABLE.as_bytes() {
            let value = String::from_utf8_lossy(asked).into_owned();
            return Err(Error::invalid(ASKED, value, format!("{LOCAL} or {LINEARIZABLE} is needed")).into());
        }
        self.store.linearize().await.map_err(|error| Status::unavailable(error.to_string()))
    }

    fn mark<R>(&self, answer: &mut Response<R>) {
        if self.store.leadership().borrow().leader.is_none() {
            answer.headers_mut().insert(STALE, HeaderValue::from_static(NO_QUORUM));
        }
    }
}

impl<S> Layer<S> for Consistency {
    type Service = Consistent<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Consistent { consistency: self.clone(), inner }
    }
}

#[derive(Clone)]
pub struct Consistent<S> {
    consistency: Consistency,
    inner: S,
}

impl<S, B, R> Service<Request<B>> for Consistent<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
    R: Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The instance that was polled ready is the one to call.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        let consistency = self.consistency.clone();
        Box::pin(async move {
            if let Err(refusal) = consistency.ready(request.headers().get(ASKED)).await {
                return Ok(refusal.into_http());
            }
            let shown = request.uri().path().starts_with(CONTROL);
            let mut answer = inner.call(request).await?;
            if shown {
                consistency.mark(&mut answer);
            }
            Ok(answer)
        })
    }
}
