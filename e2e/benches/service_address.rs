//! A service's own address against the address of its task, between two hosts: throughput, and the time of a request.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Instant;

use e2e::bench::{RUNS, Table, median};
use e2e::iperf::gigabits;
use e2e::{Inside, Lab};
use nix::sched::{CloneFlags, setns};

/// Requests of one figure.
const REQUESTS: usize = 500;

fn main() {
    let lab = Lab::swarm("bench service address", 1, 1);
    let h1 = lab.host(1);
    h1.create_network("net", "10.0.9.0/24");
    let image = format!("{}:1", lab.steady_image());
    for (name, place) in [("client", "node.hostname==h1"), ("server", "node.hostname==h2")] {
        let create = ["service", "create", "--constraint", place, "--network", "net", "--name", name];
        h1.ctl(&[&create[..], &[&image, "/bin/steady"]].concat()).ok();
    }
    let server = &h1.wait_running("server", 1)[0];
    let [client, serving] = [&h1.wait_running("client", 1)[0], server].map(|task| lab.enter(task));
    let direct = IpAddr::V4(server.address("10.0.9."));
    let shown = h1.inspect("service", "server");
    let address = shown.pointer("/Endpoint/VirtualIPs/0/Addr").and_then(|address| address.as_str());
    let address = address.and_then(|address| address.split('/').next()?.parse().ok());
    let address: IpAddr = address.unwrap_or_else(|| panic!("no virtual address: {shown:#}"));

    let mut figures: [[Vec<f64>; 2]; 3] = Default::default();
    for _ in 0..RUNS {
        for (side, to) in [address, direct].into_iter().enumerate() {
            figures[0][side].push(gigabits(&client.netns(), &serving.netns(), to));
            figures[1][side].push(microseconds(client, to, false));
            figures[2][side].push(microseconds(client, to, true));
        }
    }
    let [throughput, new, open] = figures.map(|sides| sides.map(median));
    let table = Table::new("between tasks on two hosts", "direct");
    table.compare("TCP, one stream", "Gbit/s", throughput[0], throughput[1]);
    table.compare("request on a new connection", "us", new[0], new[1]);
    table.compare("request on an open connection", "us", open[0], open[1]);
}

/// Median time of a request.
fn microseconds(from: Inside, to: IpAddr, keeps: bool) -> f64 {
    let measure = move || -> std::io::Result<Vec<f64>> {
        setns(File::open(from.netns())?, CloneFlags::CLONE_NEWNET)?;
        let to = SocketAddr::new(to, 80);
        let mut open = TcpStream::connect(to)?;
        let mut times = Vec::new();
        for _ in 0..REQUESTS {
            let start = Instant::now();
            if keeps {
                request(&mut open, "")?;
            } else {
                request(&mut TcpStream::connect(to)?, "Connection: close\r\n")?;
            }
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
        Ok(times)
    };
    let times = std::thread::spawn(measure).join().unwrap_or_else(|_| panic!("a client has failed"));
    median(times.unwrap_or_else(|error| panic!("a request failed: {error}")))
}

fn request(stream: &mut TcpStream, header: &str) -> std::io::Result<()> {
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: x\r\n{header}\r\n").as_bytes())?;
    // The answer is one small segment.
    let mut answer = [0; 1024];
    match stream.read(&mut answer)? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}
