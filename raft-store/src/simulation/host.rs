//! Stands in for `host`: what is simulated if anything is, the real machine otherwise.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use rand::Rng;
use rand::distr::{Distribution, StandardUniform};
use tonic::body::Body;
use tonic::transport::Channel;
use tower::Service;

use super::machine::Life;
use super::network;
pub(crate) use super::runtime::Runtime;
use super::world;
use crate::Dial;
use crate::host::real;

pub(crate) fn random<T>() -> T
where
    StandardUniform: Distribution<T>,
{
    world().map_or_else(real::random, |world| world.draw(Rng::random))
}

/// A simulated machine has no other thread: the work is done at once, some time later.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let Some(life) = Life::now() else { return real::blocking(work).await };
    life.disk_turns().await;
    Ok(work())
}

/// A task of a simulated machine ends with it, whoever waits for it.
pub(crate) fn task(work: impl Future<Output = ()> + Send + 'static) -> BoxFuture<'static, ()> {
    match Life::now() {
        Some(life) => {
            let task = life.spawn(work);
            Box::pin(async move { drop(task.await) })
        }
        None => Box::pin(work),
    }
}

pub(crate) fn dial(dial: &dyn Dial, addr: &str) -> Wire {
    match Life::now() {
        Some(life) => Wire::Simulated(network::Wire::new(life, addr)),
        None => Wire::Real(real::dial(dial, addr)),
    }
}

#[derive(Clone)]
pub(crate) enum Wire {
    Real(Channel),
    Simulated(network::Wire),
}

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Service<Request<Body>> for Wire {
    type Response = Response<Body>;
    type Error = Failure;
    type Future = BoxFuture<'static, Result<Response<Body>, Failure>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        match self {
            Self::Real(channel) => Pin::new(channel).poll_ready(context).map_err(Into::into),
            Self::Simulated(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self {
            Self::Real(channel) => {
                let answer = channel.call(request);
                Box::pin(async move { answer.await.map_err(Into::into) })
            }
            Self::Simulated(wire) => Box::pin(wire.clone().call(request)),
        }
    }
}
