//! For how long a connection may last whose client has shown no certificate.
//!
//! A lease ends with its time, or when there are too many: then it is the oldest one that ends.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Sleep;

#[derive(Debug)]
pub(super) struct Leases {
    time: Duration,
    most: usize,
    /// Oldest first; some of the connections are closed.
    granted: VecDeque<oneshot::Sender<()>>,
}

/// Resolves when it is over.
#[derive(Debug)]
pub(super) struct Lease {
    time: Pin<Box<Sleep>>,
    revoked: oneshot::Receiver<()>,
}

impl Leases {
    pub(super) fn new(time: Duration, most: usize) -> Self {
        Self { time, most, granted: VecDeque::new() }
    }

    pub(super) fn grant(&mut self) -> Lease {
        if self.granted.len() >= self.most {
            self.granted.retain(|lease| !lease.is_closed());
        }
        if self.granted.len() >= self.most {
            // Dropped, it is revoked.
            self.granted.pop_front();
        }
        let (granted, revoked) = oneshot::channel();
        self.granted.push_back(granted);
        Lease { time: Box::pin(tokio::time::sleep(self.time)), revoked }
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
