//! Round trips of one byte over an open TCP connection between two network namespaces: what a small request waits for
//! the network alone.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::names::within;

const PORT: u16 = 7007;
const BOUND: Duration = Duration::from_secs(10);
/// Not counted: caches and clocks of the processor are cold.
const WARM: usize = 200;
const ROUNDS: usize = 5000;

#[derive(Debug, Clone, Copy)]
pub struct RoundTrips {
    pub median_us: f64,
    pub p99_us: f64,
}

/// From `client` to `address`, which leads to `server`.
///
/// # Panics
///
/// When the connection cannot be made or breaks.
pub fn round_trips(client: &str, server: &str, address: impl Into<IpAddr>) -> RoundTrips {
    let to = SocketAddr::new(address.into(), PORT);
    let times = rally(client, server, to).unwrap_or_else(|error| panic!("no round trips to {to}: {error}"));
    RoundTrips { median_us: times[times.len() / 2], p99_us: times[times.len() * 99 / 100] }
}

/// Sorted.
fn rally(client: &str, server: &str, to: SocketAddr) -> io::Result<Vec<f64>> {
    let listener = within(server, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)))?;
    let mut near = within(client, || TcpStream::connect_timeout(&to, BOUND))?;
    let (mut far, _) = listener.accept()?;
    for stream in [&near, &far] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(BOUND))?;
    }
    let returning = std::thread::spawn(move || -> io::Result<()> {
        let mut ball = [0];
        while far.read(&mut ball)? > 0 {
            far.write_all(&ball)?;
        }
        Ok(())
    });
    let mut times = Vec::with_capacity(ROUNDS);
    for round in 0..WARM + ROUNDS {
        let begun = Instant::now();
        let mut ball = [0];
        near.write_all(&ball)?;
        near.read_exact(&mut ball)?;
        if round >= WARM {
            times.push(begun.elapsed().as_secs_f64() * 1e6);
        }
    }
    drop(near);
    returning.join().unwrap_or_else(|cause| std::panic::resume_unwind(cause))?;
    times.sort_by(f64::total_cmp);
    Ok(times)
}
