//! Clients that write all the time, one at each member, and the log of what became of that.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use e2e::wait;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::writers::{Connection, Group};

/// Between the answer and the next request of a client: what is measured is off by no more than this.
const PAUSE: Duration = Duration::from_millis(2);
/// Before a client tries again after a refusal.
const AFTER_REFUSAL: Duration = Duration::from_millis(10);

/// A request that is over, or under way.
#[derive(Clone, Copy, Debug)]
struct Request {
    member: usize,
    begun: Instant,
    /// When there was an answer, and whether it was made.
    ended: Option<(Instant, bool)>,
}

#[derive(Clone, Debug, Default)]
pub struct Log(Vec<Request>);

pub struct Probes {
    clients: JoinSet<()>,
    log: Arc<Mutex<Log>>,
}

impl Probes {
    /// Names of what is created begin with `prefix`.
    pub fn start(runtime: &Runtime, group: &Group, prefix: &str) -> Self {
        let (mut clients, log) = (JoinSet::new(), Arc::new(Mutex::new(Log::default())));
        for member in 0..group.sockets.len() {
            let client = probe(group.clone(), member, prefix.to_owned(), Arc::clone(&log));
            clients.spawn_on(client, runtime.handle());
        }
        Self { clients, log }
    }

    /// Until another member than `gone` has made something that was asked for after `since`.
    pub fn wait_answer_of_others(&self, gone: usize, since: Instant, bound: Duration) {
        wait("the others to take a write", bound, || {
            let made = |request: &Request| request.made_at().is_some() && request.begun > since;
            let answered = lock(&self.log).0.iter().any(|request| request.member != gone && made(request));
            if answered { Ok(()) } else { Err("no write was answered") }
        });
    }

    /// Until `member` has answered all that was asked of it before `moment`; a request that hangs is left alone.
    pub fn wait_no_request_since(&self, member: usize, moment: Instant, bound: Duration) {
        let end = Instant::now() + bound;
        let hangs =
            |request: &Request| request.member == member && request.begun < moment && request.ended.is_none();
        while Instant::now() < end && lock(&self.log).0.iter().any(hangs) {
            std::thread::sleep(PAUSE);
        }
    }

    pub fn stop(mut self, runtime: &Runtime) -> Log {
        runtime.block_on(self.clients.shutdown());
        lock(&self.log).clone()
    }
}

impl Log {
    fn begin(&mut self, member: usize) -> usize {
        self.0.push(Request { member, begun: Instant::now(), ended: None });
        self.0.len() - 1
    }

    /// The longest time between two writes that were made at others than `gone`, the later of them after `begun`.
    pub fn longest_silence(&self, gone: usize, begun: Instant) -> Duration {
        let others = self.0.iter().filter(|request| request.member != gone);
        let mut made: Vec<Instant> = others.filter_map(Request::made_at).collect();
        made.sort();
        let pairs = made.windows(2).filter(|pair| pair[1] > begun);
        pairs.map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// Of those at `member` that ended after `begun` or not at all.
    pub fn longest_request(&self, member: usize, begun: Instant) -> Duration {
        let now = Instant::now();
        let took = |request: &Request| request.ended.map_or(now, |(ended, _)| ended);
        let late = self.0.iter().filter(|request| request.member == member && took(request) > begun);
        late.map(|request| took(request) - request.begun).max().unwrap_or_default()
    }
}

impl Request {
    fn made_at(&self) -> Option<Instant> {
        self.ended.filter(|(_, made)| *made).map(|(ended, _)| ended)
    }
}

/// Until it is dropped.
async fn probe(group: Group, member: usize, prefix: String, log: Arc<Mutex<Log>>) {
    let mut connection = None;
    for number in 0u64.. {
        let name = format!("{prefix}-{member}-{number}");
        let at = lock(&log).begin(member);
        let made = create(&group, member, &mut connection, &name).await;
        lock(&log).0[at].ended = Some((Instant::now(), made.is_ok()));
        tokio::time::sleep(if made.is_ok() { PAUSE } else { AFTER_REFUSAL }).await;
    }
}

/// By a new connection if there is none, which a refusal leaves behind.
async fn create(
    group: &Group,
    member: usize,
    connection: &mut Option<Connection>,
    name: &str,
) -> Result<(), String> {
    let mut own = match connection.take() {
        Some(connection) => connection,
        None => group.connect(member).await?,
    };
    own.create(name).await?;
    *connection = Some(own);
    Ok(())
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}
