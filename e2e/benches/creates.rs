//! Creates a second, and how long each takes, with 1, 32 and 256 clients at a time, of three managers with real fsync.
//!
//! Every client has a connection of its own to each member and takes turns, as etcd's own client does; it asks for the
//! next object once it has the answer. The sides take turns too, and all members live all the time.

#[path = "writers/mod.rs"]
mod writers;

use std::time::{Duration, Instant};

use e2e::bench::{RUNS, Table, median};
use e2e::etcd::Etcd;
use e2e::peer::Peer;
use e2e::{Host, Lab, wait};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use writers::{Connection, Group};

const SPAN: Duration = Duration::from_secs(3);
const CLIENTS: [usize; 3] = [1, 32, 256];
/// Docker is measured with no more.
const MOST_OF_DOCKER: usize = 32;

/// What one run showed.
#[derive(Clone, Copy, Debug)]
struct Figures {
    per_second: f64,
    median_ms: f64,
    percentile_99_ms: f64,
    /// Of all members, an object.
    processor_ms: f64,
}

fn main() {
    let runtime = Runtime::new().unwrap_or_else(|error| panic!("no runtime: {error}"));
    let (our_lab, etcd_lab) = (Lab::plain_swarm("bench creates", 3), Lab::new("bench creates, etcd", 3));
    let docker_lab = Lab::new("bench creates, docker", 3);
    let (etcd, docker) = (Etcd::form(&etcd_lab), Peer::form(&docker_lab, 3));
    let sides = [Group::of_swarmd(&our_lab), Group::of_etcd(&etcd), Group::of_docker(&docker)];
    sides.iter().for_each(|side| wait_ready(&runtime, side));

    let mut figures: [[Vec<Figures>; 3]; 3] = Default::default();
    for run in 0..RUNS {
        for (at, clients) in CLIENTS.into_iter().enumerate() {
            for (side, figures) in sides.iter().zip(&mut figures) {
                if side.name != "docker" || clients <= MOST_OF_DOCKER {
                    figures[at].push(runtime.block_on(measure(side, run, clients)));
                }
            }
        }
    }
    // A daemon that runs is asked for every object when its lab goes.
    our_lab.hosts().iter().for_each(Host::kill);

    let [ours, etcd, docker] = figures;
    report("etcd", &ours, &etcd);
    report("docker", &ours, &docker);
}

fn report(name: &str, ours: &[Vec<Figures>], theirs: &[Vec<Figures>]) {
    let table = Table::new("creates, 3 managers", name);
    for (clients, (ours, theirs)) in CLIENTS.into_iter().zip(ours.iter().zip(theirs)) {
        if theirs.is_empty() {
            continue;
        }
        let row = |what: &str, unit: &str, figure: fn(&Figures) -> f64| {
            let of = |runs: &[Figures]| median(runs.iter().map(figure).collect());
            table.compare(what, unit, of(ours), of(theirs));
        };
        row(&format!("{clients} clients: created"), "/s", |figures| figures.per_second);
        row("  median", "ms", |figures| figures.median_ms);
        row("  99th percentile", "ms", |figures| figures.percentile_99_ms);
        row("  processor time of all members", "ms", |figures| figures.processor_ms);
    }
}

/// Until each member has taken a write.
fn wait_ready(runtime: &Runtime, side: &Group) {
    for number in 0..side.sockets.len() {
        wait(&format!("member {number} of {} to take a write", side.name), Duration::from_secs(60), || {
            runtime.block_on(async {
                let mut connection = side.connect(number).await?;
                let created = connection.create(&format!("first-{number}")).await;
                created.or_else(|refusal| if refusal.contains("exist") { Ok(()) } else { Err(refusal) })
            })
        });
    }
}

async fn measure(side: &Group, run: usize, clients: usize) -> Figures {
    let mut connections = Vec::new();
    for _ in 0..clients {
        connections.push(connect(side).await);
    }
    let busy = side.busy_seconds();
    let begun = Instant::now();
    let mut writers = JoinSet::new();
    for (client, connections) in connections.into_iter().enumerate() {
        writers.spawn(write(
            side.name,
            format!("c{run}-{clients}-{client}"),
            client,
            connections,
            begun + SPAN,
        ));
    }
    let mut took = writers.join_all().await.concat();
    let (seconds, created) = (begun.elapsed().as_secs_f64(), took.len() as f64);
    let busy = side.busy_seconds() - busy;
    took.sort();
    let at = |part: f64| took[((created * part) as usize).min(took.len() - 1)].as_secs_f64() * 1e3;
    Figures {
        per_second: created / seconds,
        median_ms: at(0.5),
        percentile_99_ms: at(0.99),
        processor_ms: busy * 1e3 / created,
    }
}

async fn connect(side: &Group) -> Vec<Connection> {
    let mut connections = Vec::new();
    for number in 0..side.sockets.len() {
        connections.push(side.connect(number).await.unwrap_or_else(|error| panic!("{}: {error}", side.name)));
    }
    connections
}

/// Creates one object after the other until `end`; how long each took.
async fn write(
    side: &str,
    prefix: String,
    client: usize,
    mut connections: Vec<Connection>,
    end: Instant,
) -> Vec<Duration> {
    let mut took = Vec::new();
    let members = connections.len();
    for number in 0.. {
        let begun = Instant::now();
        if begun >= end {
            break;
        }
        let created = connections[(client + number) % members].create(&format!("{prefix}-{number}")).await;
        created.unwrap_or_else(|error| panic!("{side} refused {prefix}-{number}: {error}"));
        took.push(begun.elapsed());
    }
    took
}
