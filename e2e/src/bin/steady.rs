//! A web server that ends as one should: it serves connections that stay open, and after SIGTERM answers what is under
//! way and the next request of each open connection, with `Connection: close`, before it exits.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};

/// Less than the grace period that Docker gives by default.
const GRACE: Duration = Duration::from_secs(8);

#[derive(Default)]
struct State {
    closing: AtomicBool,
    open: AtomicUsize,
}

fn main() -> io::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok()).unwrap_or(80);
    let listener = TcpListener::bind(("::", port))?;
    let state = Arc::<State>::default();
    let shared = state.clone();
    let accepting = std::thread::spawn(move || accept(&listener, &shared));

    signals.wait()?;
    state.closing.store(true, Ordering::SeqCst);
    // Wakes who waits for a connection.
    drop(TcpStream::connect(("::1", port)));
    let _ = accepting.join();
    let deadline = Instant::now() + GRACE;
    while state.open.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Until the server closes, and then those that the kernel has accepted already.
fn accept(listener: &TcpListener, state: &Arc<State>) {
    loop {
        if state.closing.load(Ordering::SeqCst) && listener.set_nonblocking(true).is_err() {
            return;
        }
        match listener.accept() {
            Ok((stream, _)) => {
                state.open.fetch_add(1, Ordering::SeqCst);
                let state = state.clone();
                std::thread::spawn(move || {
                    let _ = serve(&stream, &state);
                    state.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
            Err(_) if state.closing.load(Ordering::SeqCst) => return,
            Err(_) => {}
        }
    }
}

fn serve(stream: &TcpStream, state: &State) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    let hostname = nix::unistd::gethostname()?.to_string_lossy().into_owned();
    let version = std::env::var("VERSION").unwrap_or_default();
    let mut requests = BufReader::new(stream);
    loop {
        let mut wants_end = false;
        let mut line = String::new();
        loop {
            line.clear();
            if requests.read_line(&mut line)? == 0 {
                return Ok(());
            }
            wants_end |= line.to_ascii_lowercase().starts_with("connection: close");
            if line == "\r\n" {
                break;
            }
        }
        let ends = wants_end || state.closing.load(Ordering::SeqCst);
        let body = format!("version={version} hostname={hostname}\n");
        let end = if ends { "Connection: close\r\n" } else { "" };
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{end}\r\n{body}", body.len());
        (&*stream).write_all(answer.as_bytes())?;
        if ends {
            return Ok(());
        }
    }
}
