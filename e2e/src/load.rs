//! Constant load on a service, with every request counted: none is ever sent a second time.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

use crate::task::Inside;

/// Between two requests of a client.
const PAUSE: Duration = Duration::from_millis(5);
const BOUND: Duration = Duration::from_secs(5);

/// For each task, one client that keeps its connection as long as the server does, and one that opens a connection for
/// each request.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Tally>>,
}

/// What became of the requests.
#[derive(Debug, Default)]
pub struct Tally {
    pub answered: u64,
    pub failures: Vec<String>,
    /// Requests by answer.
    pub answers: BTreeMap<String, u64>,
    /// Connections that stayed open for more than one request.
    pub kept: u64,
}

impl Load {
    /// Port 80 of `to`, from inside the tasks.
    pub fn start(from: &[Inside], to: IpAddr) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let client = |inside: &Inside, keeps| {
            let (stop, answered, netns) = (stop.clone(), answered.clone(), inside.netns());
            std::thread::spawn(move || run(&netns, SocketAddr::new(to, 80), keeps, &stop, &answered))
        };
        let clients = from.iter().flat_map(|inside| [client(inside, true), client(inside, false)]).collect();
        Self { stop, answered, clients }
    }

    /// Requests answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    pub fn finish(mut self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        for client in self.clients.drain(..) {
            let tally = client.join().unwrap_or_else(|_| panic!("a client has failed"));
            all.answered += tally.answered;
            all.kept += tally.kept;
            all.failures.extend(tally.failures);
            tally.answers.into_iter().for_each(|(answer, n)| *all.answers.entry(answer).or_default() += n);
        }
        all
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn run(netns: &str, to: SocketAddr, keeps: bool, stop: &AtomicBool, answered: &AtomicU64) -> Tally {
    let namespace = File::open(netns).unwrap_or_else(|error| panic!("no namespace {netns}: {error}"));
    setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| panic!("{netns}: {error}"));
    let (mut tally, mut connection, begun) = (Tally::default(), None, Instant::now());
    while !stop.load(Ordering::Relaxed) {
        let was_open = connection.is_some();
        match request(to, keeps, &mut connection) {
            Ok(answer) => {
                tally.answered += 1;
                tally.kept += u64::from(was_open);
                answered.fetch_add(1, Ordering::Relaxed);
                *tally.answers.entry(answer).or_default() += 1;
            }
            Err(error) => {
                connection = None;
                let kind = if was_open { "an open connection" } else { "a new connection" };
                tally.failures.push(format!("after {:?}, on {kind}: {error}", begun.elapsed()));
            }
        }
        std::thread::sleep(PAUSE);
    }
    tally
}

/// Leaves the connection in `connection` if the server keeps it.
fn request(to: SocketAddr, keeps: bool, connection: &mut Option<TcpStream>) -> io::Result<String> {
    let mut stream = match connection.take() {
        Some(stream) => stream,
        None => TcpStream::connect_timeout(&to, BOUND)?,
    };
    stream.set_read_timeout(Some(BOUND))?;
    let end = if keeps { "" } else { "Connection: close\r\n" };
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: service\r\n{end}\r\n").as_bytes())?;
    let mut answer = BufReader::new(&stream);
    let (mut length, mut closes, mut line) = (0, false, String::new());
    while line != "\r\n" {
        line.clear();
        if answer.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let header = line.trim().to_ascii_lowercase();
        closes |= header == "connection: close";
        if let Some(value) = header.strip_prefix("content-length: ") {
            length = value.parse().map_err(io::Error::other)?;
        }
    }
    let mut body = vec![0; length];
    answer.read_exact(&mut body)?;
    if keeps && !closes {
        *connection = Some(stream);
    }
    Ok(String::from_utf8_lossy(&body).trim().to_owned())
}
