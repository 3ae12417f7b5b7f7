//! The machine that the process runs on.

use std::io;

use rand::distr::{Distribution, StandardUniform};
use tonic::transport::Channel;

use crate::Dial;

#[cfg(not(test))]
pub(crate) type Runtime = openraft::TokioRuntime;
#[cfg(not(test))]
pub(crate) type Wire = Channel;

/// Ids and nonces.
pub(crate) fn random<T>() -> T
where
    StandardUniform: Distribution<T>,
{
    rand::random()
}

/// Does what waits for a disk on a thread where that stops nobody.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

/// What a task of this machine does. It is the caller's to spawn.
#[cfg(not(test))]
pub(crate) fn task<F: Future<Output = ()> + Send + 'static>(work: F) -> F {
    work
}

pub(crate) fn dial(dial: &dyn Dial, addr: &str) -> Channel {
    dial.channel(addr)
}
