//! A DNS client inside of tasks, and a name server that can be put there.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use nix::sched::{CloneFlags, setns};

use crate::task::Inside;
use crate::wait::wait;

/// Where a task finds its name server.
pub const RESOLVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11)), 53);
/// As the C library: two attempts, five seconds each.
const ATTEMPTS: usize = 2;
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// RFC 1035 section 4.1.1: 0 no error, 2 server failure, 3 no such name.
    pub code: u16,
    pub truncated: bool,
    /// What the records say, sorted.
    pub records: Vec<String>,
    /// As they came.
    pub in_order: Vec<String>,
}

impl Answer {
    fn read(reply: &[u8]) -> Self {
        let reply = Message::from_vec(reply).unwrap_or_else(|error| panic!("not a reply: {error}"));
        let in_order: Vec<_> = reply.answers.iter().map(|record| record.data.to_string()).collect();
        let mut records = in_order.clone();
        records.sort();
        let (code, truncated) = (reply.metadata.response_code.into(), reply.metadata.truncation);
        Self { code, truncated, records, in_order }
    }
}

impl Inside {
    /// Asks the task's name server for addresses, over UDP.
    ///
    /// # Panics
    ///
    /// When no reply comes although it is asked as often as the C library asks.
    #[track_caller]
    pub fn lookup(self, name: &str) -> Answer {
        self.lookup_as(RecordType::A, name)
    }

    /// Asks for IPv6 addresses.
    #[track_caller]
    pub fn lookup_v6(self, name: &str) -> Answer {
        self.lookup_as(RecordType::AAAA, name)
    }

    /// Asks for the name of an IPv4 address.
    #[track_caller]
    pub fn name_of(self, address: Ipv4Addr) -> Answer {
        let [a, b, c, d] = address.octets();
        self.lookup_as(RecordType::PTR, &format!("{d}.{c}.{b}.{a}.in-addr.arpa."))
    }

    #[track_caller]
    fn lookup_as(self, kind: RecordType, name: &str) -> Answer {
        let question = question(name, kind);
        let asked = self.within(|| ask(&question)).unwrap_or_else(|error| panic!("cannot ask: {error}"));
        asked.unwrap_or_else(|| panic!("no reply about {name}"))
    }

    /// Asks over TCP.
    #[track_caller]
    pub fn lookup_tcp(self, name: &str) -> Answer {
        let question = question(name, RecordType::A);
        let reply = self.within(|| ask_tcp(&question)).unwrap_or_else(|error| panic!("{name}: {error}"));
        Answer::read(&reply)
    }

    /// Waits until the addresses of a name are as `expected` says.
    #[track_caller]
    pub fn wait_lookup(
        self,
        what: &str,
        bound: Duration,
        name: &str,
        expected: impl Fn(&Answer) -> bool,
    ) -> Answer {
        wait(what, bound, || {
            let answer = self.lookup(name);
            if expected(&answer) { Ok(answer) } else { Err(format!("{name} is {answer:?}")) }
        })
    }

    /// Runs `work` on a thread in the task's network namespace.
    ///
    /// # Panics
    ///
    /// When the namespace cannot be entered.
    pub fn within<T: Send>(self, work: impl FnOnce() -> T + Send) -> T {
        within(&self.netns(), work)
    }
}

/// Runs `work` on a thread in the network namespace at the path `netns`. Sockets that it opens stay there.
///
/// # Panics
///
/// When the namespace cannot be entered.
pub(crate) fn within<T: Send>(netns: &str, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter(netns);
            work()
        });
        thread.join().unwrap_or_else(|cause| std::panic::resume_unwind(cause))
    })
}

fn enter(path: &str) {
    let entered = File::open(path).and_then(|file| Ok(setns(file, CloneFlags::CLONE_NEWNET)?));
    entered.unwrap_or_else(|error| panic!("cannot enter {path}: {error}"));
}

/// A question for one name; `id` 7.
pub(crate) fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let name = Name::from_ascii(name).unwrap_or_else(|error| panic!("{name} is no name: {error}"));
    message.add_query(Query::query(name, kind));
    message.to_vec().unwrap_or_else(|error| panic!("no question: {error}"))
}

fn ask(question: &[u8]) -> io::Result<Option<Answer>> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(RESOLVER)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    let mut reply = [0; 4096];
    for _ in 0..ATTEMPTS {
        socket.send(question)?;
        match socket.recv(&mut reply) {
            Ok(length) => return Ok(Some(Answer::read(&reply[..length]))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn ask_tcp(question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&RESOLVER, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), question].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut reply = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut reply)?;
    Ok(reply)
}

/// Answers every question for addresses with one address, at port 53 in a task's namespace, until it is dropped.
#[derive(Debug)]
pub struct NameServer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl NameServer {
    /// # Panics
    ///
    /// When the port is taken.
    pub fn start(place: Inside, answer: Ipv4Addr) -> Self {
        let socket = place.within(|| UdpSocket::bind("0.0.0.0:53"));
        let socket = socket.unwrap_or_else(|error| panic!("cannot bind port 53: {error}"));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || serve(&socket, answer, &stopped));
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

fn serve(socket: &UdpSocket, address: Ipv4Addr, stop: &AtomicBool) {
    let _ = socket.set_read_timeout(Some(Duration::from_millis(50)));
    let mut question = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, client)) = socket.recv_from(&mut question) else { continue };
        let Ok(asked) = Message::from_vec(&question[..length]) else { continue };
        let mut reply = Message::response(asked.metadata.id, OpCode::Query);
        reply.add_queries(asked.queries.iter().cloned());
        let records = asked.queries.iter().filter(|query| query.query_type == RecordType::A);
        reply.add_answers(
            records.map(|query| Record::from_rdata(query.name.clone(), 60, RData::A(A(address)))),
        );
        if let Ok(reply) = reply.to_vec() {
            let _ = socket.send_to(&reply, client);
        }
    }
}

/// How fast a task's name server answers.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub per_second: f64,
    /// Of the time from question to reply, in milliseconds.
    pub p99_ms: f64,
}

/// Asks for `name` for a while from as many clients at once, each of which waits for its reply before it asks again.
///
/// # Panics
///
/// When a reply is missing or has an error.
pub fn pace(from: Inside, name: &str, clients: usize, period: Duration) -> Pace {
    let begun = Instant::now();
    let times: Vec<Vec<f64>> = std::thread::scope(|scope| {
        let threads = (0..clients).map(|_| scope.spawn(|| from.within(|| ask_for(name, period))));
        let threads: Vec<_> = threads.collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|cause| std::panic::resume_unwind(cause)))
            .collect()
    });
    let elapsed = begun.elapsed().as_secs_f64();
    let mut times = times.concat();
    times.sort_by(f64::total_cmp);
    Pace { per_second: times.len() as f64 / elapsed, p99_ms: times[times.len() * 99 / 100] * 1000.0 }
}

/// Seconds that each question took.
fn ask_for(name: &str, period: Duration) -> Vec<f64> {
    let question = question(name, RecordType::A);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap_or_else(|error| panic!("no socket: {error}"));
    let ready = socket.connect(RESOLVER).and_then(|()| socket.set_read_timeout(Some(TIMEOUT)));
    ready.unwrap_or_else(|error| panic!("cannot ask: {error}"));
    let (end, mut reply, mut times) = (Instant::now() + period, [0; 4096], Vec::new());
    while Instant::now() < end {
        let begun = Instant::now();
        let asked = socket.send(&question).and_then(|_| socket.recv(&mut reply));
        let length = asked.unwrap_or_else(|error| panic!("no reply about {name}: {error}"));
        assert!(length > 12 && reply[3] & 0x0f == 0, "{name}: {:?}", Answer::read(&reply[..length]));
        times.push(begun.elapsed().as_secs_f64());
    }
    times
}
