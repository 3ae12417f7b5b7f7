//! How current what is shown must be, and the notice that it may not be.
//!
//! Commands that read take this option, and alone print the notice: a command that changes something fails by itself
//! where no majority can be reached. Standard output stays for what was asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use clap::{Args, ValueEnum};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use proto::consistency::{ASKED, LINEARIZABLE, LOCAL, STALE};
use tonic::body::Body;
use tonic::codegen::http::{HeaderValue, Request, Response};
use tonic::transport::{Channel, Error};
use tower::Service;

/// Options of every command that shows what the managers know.
#[derive(Clone, Copy, Debug, Args)]
pub struct Reading {
    /// How current what is shown must be
    #[arg(long, value_enum, default_value_t, value_name = "CONSISTENCY")]
    consistency: Consistency,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Consistency {
    /// What the manager that is asked knows
    #[default]
    Local,
    /// With everything that was committed before: fails where no majority of the managers is reached
    Linearizable,
}

/// The connection to the daemon. While something is read it says how, and looks at what comes back.
#[derive(Clone)]
pub struct Line {
    channel: Channel,
    reading: Option<Reader>,
}

#[derive(Clone)]
struct Reader {
    consistency: Consistency,
    /// Said once a command.
    noticed: Arc<AtomicBool>,
}

impl Line {
    pub const fn new(channel: Channel) -> Self {
        Self { channel, reading: None }
    }

    pub fn reading(&self, how: Reading) -> Self {
        let reader = Reader { consistency: how.consistency, noticed: Arc::default() };
        Self { channel: self.channel.clone(), reading: Some(reader) }
    }
}

impl Reader {
    fn ask(&self, request: &mut Request<Body>) {
        let asked = match self.consistency {
            Consistency::Local => LOCAL,
            Consistency::Linearizable => LINEARIZABLE,
        };
        request.headers_mut().insert(ASKED, HeaderValue::from_static(asked));
    }

    fn notice(&self, answer: &Response<Body>) {
        let stale = self.consistency == Consistency::Local && answer.headers().contains_key(STALE);
        if stale && !self.noticed.swap(true, Ordering::Relaxed) {
            eprintln!("warning: this manager reaches no quorum; what is shown may be stale");
        }
    }
}

impl Service<Request<Body>> for Line {
    type Response = Response<Body>;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Response<Body>, Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.channel.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let Some(reader) = self.reading.clone() else { return self.channel.call(request).boxed() };
        reader.ask(&mut request);
        let answer = self.channel.call(request);
        async move { answer.await.inspect(|answer| reader.notice(answer)) }.boxed()
    }
}
