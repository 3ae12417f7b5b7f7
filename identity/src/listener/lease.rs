//! For how long a connection may last whose client has shown no certificate.
//!
//! A lease ends with its time, or when there are too many (see `queue`).

use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Sleep;

use super::queue::{Queue, Stands};

#[derive(Debug)]
pub(super) struct Leases {
    time: Duration,
    /// Some of the connections are closed.
    granted: Queue<oneshot::Sender<()>>,
}

/// Resolves when it is over.
#[derive(Debug)]
pub(super) struct Lease {
    time: Pin<Box<Sleep>>,
    revoked: oneshot::Receiver<()>,
}

impl Leases {
    pub(super) fn new(time: Duration, most: usize) -> Self {
        Self { time, granted: Queue::new(most) }
    }

    pub(super) fn grant(&mut self, to: IpAddr) -> Lease {
        let (granted, revoked) = oneshot::channel();
        // Dropped, one is revoked.
        drop(self.granted.push(to, granted));
        Lease { time: Box::pin(tokio::time::sleep(self.time)), revoked }
    }
}

impl Stands for oneshot::Sender<()> {
    fn is_over(&self) -> bool {
        self.is_closed()
    }
}

impl Future for Lease {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if Pin::new(&mut self.revoked).poll(cx).is_ready() {
            return Poll::Ready(());
        }
        ready!(self.time.as_mut().poll(cx));
        Poll::Ready(())
    }
}
