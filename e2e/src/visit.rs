//! A client inside a task that asks a service by its name, again and again, until it gets what it waits for.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use hickory_proto::op::Message;
use hickory_proto::rr::{RData, RecordType};

use crate::names::{RESOLVER, question};
use crate::task::Inside;

/// A look takes no longer than this: what is measured is off by no more.
const TRY: Duration = Duration::from_millis(100);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(1);
const BOUND: Duration = Duration::from_secs(60);

/// Asks `http://<name>/` until a page comes; when it did.
///
/// # Panics
///
/// When none comes within a minute.
pub fn until_answered(from: Inside, name: &str) -> Instant {
    let question = question(name, RecordType::A);
    until(from, &format!("a page of {name}"), || {
        let addresses = addresses(&question)?;
        let to = addresses.first().ok_or(io::ErrorKind::NotFound)?;
        page(SocketAddr::new(*to, 80))
    })
}

/// Asks for the addresses of `name` until there are some and `gone` is not among them; when that was.
///
/// # Panics
///
/// When it is still there after a minute.
pub fn until_gone(from: Inside, name: &str, gone: IpAddr) -> Instant {
    let question = question(name, RecordType::A);
    until(from, &format!("{gone} to leave {name}"), || {
        let addresses = addresses(&question)?;
        let is_gone = !addresses.is_empty() && !addresses.contains(&gone);
        is_gone.then_some(()).ok_or(io::ErrorKind::AlreadyExists.into())
    })
}

/// Looks at the task's table of service addresses until `gone` is behind none of them; when that was.
///
/// # Panics
///
/// When it is still there after a minute.
pub fn until_not_behind(from: Inside, gone: IpAddr) -> Instant {
    let gone = gone.to_string();
    until(from, &format!("{gone} to be behind no service"), || {
        // On a thread in the task's namespace, which the program inherits.
        let table = Command::new("nft").args(["list", "map", "inet", "swarmd", "ip_backends"]).output()?;
        if !table.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&table.stderr).into_owned()));
        }
        let table = String::from_utf8_lossy(&table.stdout);
        let is_there = table.split([' ', ',', '\n', '\t']).any(|word| word == gone);
        (!is_there).then_some(()).ok_or(io::ErrorKind::AlreadyExists.into())
    })
}

fn until(from: Inside, what: &str, mut look: impl FnMut() -> io::Result<()> + Send) -> Instant {
    from.within(move || {
        let begun = Instant::now();
        loop {
            match look() {
                Ok(()) => return Instant::now(),
                Err(error) if begun.elapsed() > BOUND => panic!("waited {BOUND:?} for {what}: {error}"),
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    })
}

/// By a socket of its own, so that an answer that comes late is not taken for that of the next question.
fn addresses(question: &[u8]) -> io::Result<Vec<IpAddr>> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(RESOLVER)?;
    socket.set_read_timeout(Some(TRY))?;
    socket.send(question)?;
    let mut reply = [0; 4096];
    let length = socket.recv(&mut reply)?;
    let reply = Message::from_vec(&reply[..length]).map_err(io::Error::other)?;
    let addresses = reply.answers.iter().filter_map(|record| match &record.data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        _ => None,
    });
    Ok(addresses.collect())
}

fn page(to: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, TRY)?;
    // Who answers at all may take its time.
    stream.set_read_timeout(Some(TRY * 20))?;
    stream.write_all(b"GET / HTTP/1.0\r\nHost: service\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let is_page = answer.starts_with(b"HTTP/1.") && answer.get(9..12) == Some(b"200");
    is_page.then_some(()).ok_or(io::ErrorKind::InvalidData.into())
}
