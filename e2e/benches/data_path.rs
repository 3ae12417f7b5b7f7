//! What the way between two tasks on two hosts costs, part by part: throughput of one TCP stream, and round trips of one
//! byte. Each path is measured in each round, so that what else the machine does hits all of them.

use std::net::IpAddr;

use e2e::bench::{RUNS, median};
use e2e::iperf::gigabits;
use e2e::peer::Peer;
use e2e::rally::{RoundTrips, round_trips};
use e2e::underlay::{End, Layout};
use e2e::{Contender, Lab, Ours};

/// Of the underlay's 1500, less 50 for VXLAN over IPv4.
const MTU: u32 = 1450;
/// The row that the ratios refer to.
const BY_HAND: usize = 3;

struct Path {
    name: &'static str,
    client: String,
    server: String,
    address: IpAddr,
    gigabits: Vec<f64>,
    trips: Vec<RoundTrips>,
}

impl Path {
    fn new(name: &'static str, client: String, server: String, address: impl Into<IpAddr>) -> Self {
        Self { name, client, server, address: address.into(), gigabits: Vec::new(), trips: Vec::new() }
    }

    fn by_hand(name: &'static str, [client, server]: [End; 2]) -> Self {
        Self::new(name, client.netns, server.netns, server.address)
    }

    fn measure(&mut self) {
        self.trips.push(round_trips(&self.client, &self.server, self.address));
        self.gigabits.push(gigabits(&self.client, &self.server, self.address));
    }

    /// Gbit/s, median and 99th percentile of a round trip in microseconds.
    fn figures(&self) -> [f64; 3] {
        let of = |figure: fn(&RoundTrips) -> f64| median(self.trips.iter().map(figure).collect());
        [median(self.gigabits.clone()), of(|trip| trip.median_us), of(|trip| trip.p99_us)]
    }

    /// Medians of the rounds' ratios: throughput and round trip. Within a round the machine is the same.
    fn against(&self, other: &Self) -> [f64; 2] {
        let rates = self.gigabits.iter().zip(&other.gigabits).map(|(own, other)| own / other);
        let trips = self.trips.iter().zip(&other.trips).map(|(own, other)| own.median_us / other.median_us);
        [median(rates.collect()), median(trips.collect())]
    }
}

fn main() {
    let (our_lab, their_lab) =
        (Lab::swarm("bench data path", 1, 1), Lab::new("bench data path, the peer", 2));
    let theirs = Peer::form(&their_lab, 1);
    let hosts = [our_lab.host(1), our_lab.host(2)];
    let [overlay, virtual_address] = ours(&Ours(&our_lab));
    let mut paths = [
        overlay,
        virtual_address,
        peers(&theirs),
        Path::by_hand("the same layout by hand", Layout::Same { mtu: MTU }.between(hosts)),
        Path::by_hand("a bare VXLAN between the hosts", Layout::Bare { mtu: MTU }.between(hosts)),
        Path::new("the underlay", hosts[0].netns(), hosts[1].netns(), hosts[1].addr()),
    ];
    for _ in 0..RUNS {
        paths.iter_mut().for_each(Path::measure);
    }
    print(&paths);
}

fn print(paths: &[Path]) {
    println!("\nbetween two hosts (medians of {RUNS}; ratios of each round to {})\n", paths[BY_HAND].name);
    let heads = ["Gbit/s", "ratio", "round trip", "ratio", "p99"];
    let heads = heads.map(|head| format!(" {head:>10} |")).concat();
    println!("| {:<32} |{heads}", "path");
    println!("|{:-<34}|{}", "", "-----------:|".repeat(5));
    for path in paths {
        let [rate, trip, slow] = path.figures();
        let [rates, trips] = path.against(&paths[BY_HAND]);
        let name = path.name;
        println!(
            "| {name:<32} | {rate:>10.2} | {rates:>10.2} | {trip:>7.1} us | {trips:>10.2} | {slow:>7.1} us |"
        );
    }
}

/// By a task's address, and by its service's.
fn ours(ours: &Ours<'_>) -> [Path; 2] {
    let manager = ours.0.host(1);
    ours.create_network("net", "10.0.9.0/24");
    for (service, number) in [("client", 1), ("server", 2)] {
        ours.create_at(service, "net", number, 1);
        ours.wait_running(service, 1);
    }
    let (client, _) = ours.endpoints("client")[0];
    let (server, address) = ours.endpoints("server")[0];
    let shown = manager.inspect("service", "server");
    let shared = shown.pointer("/Endpoint/VirtualIPs/0/Addr").and_then(|address| address.as_str());
    let shared = shared.and_then(|address| address.split('/').next()?.parse::<IpAddr>().ok());
    let shared = shared.unwrap_or_else(|| panic!("no virtual address: {shown:#}"));
    [
        Path::new("our overlay", client.netns(), server.netns(), address),
        Path::new("our overlay, by virtual address", client.netns(), server.netns(), shared),
    ]
}

fn peers(theirs: &Peer<'_>) -> Path {
    theirs.create_network("net", "10.0.9.0/24");
    theirs.create("web", "net", 2);
    theirs.wait_running("web", 2);
    let endpoints = theirs.endpoints("web");
    let [(client, _), (server, address)] = endpoints[..] else { panic!("two tasks, not {endpoints:?}") };
    Path::new("docker's overlay", client.netns(), server.netns(), address)
}
