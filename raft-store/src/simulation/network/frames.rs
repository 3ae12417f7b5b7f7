//! One direction of one call.

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use http::HeaderMap;
use http::response::Parts;
use http_body_util::BodyExt as _;
use prost::bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tonic::body::Body;

use super::super::host::Failure;
use super::super::{World, lock};
use super::{DEAD, Link};

enum What {
    Head(Box<Parts>),
    Data(Bytes),
    Trailers(HeaderMap),
    End,
    Broken,
}

struct Item {
    at: Instant,
    what: What,
}

#[derive(Clone)]
pub(super) struct Sender {
    world: Arc<World>,
    queue: mpsc::UnboundedSender<Item>,
    /// When the last one comes.
    last: Arc<Mutex<Instant>>,
}

impl Sender {
    fn send(&self, what: What) {
        let (delay, breaks) = {
            let network = lock(&self.world.network.0);
            (network.delay.clone(), network.breaks)
        };
        let mut last = lock(&self.last);
        *last = (*last).max(Instant::now() + self.world.millis(delay));
        let what = if self.world.happens(breaks) { What::Broken } else { what };
        // Nobody listens any more: it gets lost.
        let _ = self.queue.send(Item { at: *last, what });
    }

    pub(super) fn head(&self, head: Parts) {
        self.send(What::Head(Box::new(head)));
    }

    pub(super) async fn closed(&self) {
        self.queue.closed().await;
    }
}

/// Sends what is in the body to all of them.
pub(super) async fn pump(body: Body, to: Vec<Sender>) {
    let mut body = pin!(body);
    while let Some(frame) = body.frame().await {
        // The body breaks off, and so does what is sent.
        let Ok(frame) = frame else { return };
        match frame.into_data() {
            Ok(data) => to.iter().for_each(|sender| sender.send(What::Data(data.clone()))),
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                to.iter().for_each(|sender| sender.send(What::Trailers(trailers.clone())));
            }
        }
    }
    to.iter().for_each(|sender| sender.send(What::End));
}

/// What comes out at the other end.
pub(super) struct Frames {
    world: Arc<World>,
    link: Link,
    path: Arc<str>,
    queue: mpsc::UnboundedReceiver<Item>,
    due: Option<(What, Pin<Box<Sleep>>)>,
    cut_since: Option<Instant>,
    ended: bool,
}

impl Frames {
    pub(super) fn lane(world: &Arc<World>, link: Link, path: &Arc<str>) -> (Sender, Self) {
        let (sender, queue) = mpsc::unbounded_channel();
        let last = Arc::new(Mutex::new(Instant::now()));
        let (world, path) = (world.clone(), path.clone());
        let sender = Sender { world: world.clone(), queue: sender, last };
        (sender, Self { world, link, path, queue, due: None, cut_since: None, ended: false })
    }

    /// Of an answer.
    pub(super) async fn head(&mut self) -> Result<Parts, Failure> {
        match std::future::poll_fn(|context| self.poll(context)).await? {
            Some(What::Head(head)) => Ok(*head),
            _ => Err("an answer without a head".into()),
        }
    }

    pub(super) async fn next(&mut self) -> Result<Option<()>, Failure> {
        Ok(std::future::poll_fn(|context| self.poll(context)).await?.map(|_| ()))
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<What>, Failure>> {
        if self.ended {
            return Poll::Ready(Ok(None));
        }
        loop {
            if let Some((_, arrival)) = &mut self.due {
                ready!(arrival.as_mut().poll(context));
                if self.world.network.is_cut(self.link) {
                    let now = Instant::now();
                    if now - *self.cut_since.get_or_insert(now) < DEAD {
                        arrival.as_mut().reset(now + self.world.millis(20..100));
                        continue;
                    }
                    self.ended = true;
                    return Poll::Ready(Err("no answer".into()));
                }
                self.cut_since = None;
                return Poll::Ready(self.arrive());
            }
            match ready!(self.queue.poll_recv(context)) {
                Some(item) => self.due = Some((item.what, Box::pin(sleep_until(item.at)))),
                // Whoever sent is gone: with a word, or without.
                None => {
                    let silence = if self.world.happens(0.5) { self.world.millis(1..50) } else { DEAD };
                    self.due = Some((What::Broken, Box::pin(sleep(silence))));
                }
            }
        }
    }

    fn arrive(&mut self) -> Result<Option<What>, Failure> {
        let Some((what, _)) = self.due.take() else { return Ok(None) };
        let Link { from, to } = self.link;
        match what {
            What::Head(_) | What::Trailers(_) => {}
            What::Data(ref data) => {
                let (bytes, checksum) = (data.len(), crc32fast::hash(data));
                self.world.note(format_args!("m{from} to m{to} {}: {bytes} {checksum:08x}", self.path));
            }
            What::End | What::Broken => self.ended = true,
        }
        match what {
            What::End => Ok(None),
            What::Broken => {
                self.world.note(format_args!("m{from} to m{to} {} breaks", self.path));
                Err("the connection broke".into())
            }
            what => Ok(Some(what)),
        }
    }
}

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Failure>>> {
        Poll::Ready(match ready!(self.poll(context)) {
            Ok(Some(What::Data(data))) => Some(Ok(http_body::Frame::data(data))),
            Ok(Some(What::Trailers(trailers))) => Some(Ok(http_body::Frame::trailers(trailers))),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        })
    }
}
