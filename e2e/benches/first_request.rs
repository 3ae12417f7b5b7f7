//! From `service create` to the first page that a task on another host gets by the service's name; and from the removal
//! of service and network until no host shows a trace of them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use e2e::bench::{RUNS, Table, median, seconds};
use e2e::peer::Peer;
use e2e::visit::until_answered;
use e2e::{Contender, Lab, Ours, wait};

const BOUND: Duration = Duration::from_secs(120);

fn main() {
    let (our_lab, their_lab) =
        (Lab::swarm("bench first request", 1, 1), Lab::new("bench first request, the peer", 2));
    let (ours, theirs) = (Ours(&our_lab), Peer::form(&their_lab, 1));
    let mut figures: [[Vec<f64>; 2]; 3] = Default::default();
    for run in 0..=RUNS {
        for (at, side) in [&ours as &dyn Contender, &theirs].into_iter().enumerate() {
            let measured = measure(side, run);
            // The first round pulls the image and makes what stays, such as bridges to the outside.
            if run > 0 {
                figures.iter_mut().zip(measured).for_each(|(figure, took)| figure[at].push(took));
            }
        }
    }
    let table = Table::new("by name across hosts", theirs.name());
    let whats = [
        "service create to first page, host new to the network",
        "service create to first page, host on the network",
        "service rm and network rm to no trace",
    ];
    for (what, [ours, theirs]) in whats.into_iter().zip(figures) {
        table.compare(what, "s", median(ours), median(theirs));
    }
}

fn measure(side: &dyn Contender, run: usize) -> [f64; 3] {
    let before = traces(side.lab());
    let network = format!("net{run}");
    side.create_network(&network, &format!("10.1.{run}.0/24"));
    side.create_at("client", &network, 1, 1);
    side.wait_running("client", 1);
    let fresh = until_page(side, "new", &network);
    let known = until_page(side, "again", &network);
    let removal = seconds(|| {
        for service in ["new", "again", "client"] {
            side.command(&["service", "rm", service]).ok();
        }
        wait("the network to be removed", BOUND, || {
            // The peer refuses as long as a task is on it.
            let removed = side.command(&["network", "rm", &network]);
            if removed.succeeded() { Ok(()) } else { Err(removed) }
        });
        wait("no trace to be left", BOUND, || {
            let now = traces(side.lab());
            let left: Vec<_> = now.difference(&before).collect();
            if left.is_empty() || run == 0 { Ok(()) } else { Err(format!("{left:#?}")) }
        });
    });
    if run == 0 {
        settle(side);
    }
    [fresh, known, removal]
}

/// Seconds from the command to the page.
fn until_page(side: &dyn Contender, service: &str, network: &str) -> f64 {
    let (client, _) = side.endpoints("client")[0];
    std::thread::scope(|scope| {
        let begun = Instant::now();
        let visitor = scope.spawn(|| until_answered(client, service));
        side.create_at(service, network, 2, 1);
        let answered = visitor.join().unwrap_or_else(|cause| std::panic::resume_unwind(cause));
        answered.duration_since(begun).as_secs_f64()
    })
}

/// Processes, namespaces, devices, rules, mounts: of all hosts, seen from all at once.
fn traces(lab: &Lab) -> BTreeSet<String> {
    std::thread::scope(|scope| {
        let looks: Vec<_> = lab
            .hosts()
            .iter()
            .map(|host| {
                scope.spawn(move || {
                    let spaces =
                        host.namespaces().into_iter().map(|path| format!("namespace {}", path.display()));
                    let shims =
                        host.processes("containerd-shim").into_iter().map(|pid| format!("shim {pid}"));
                    let traces = host.footprint().into_iter().chain(spaces).chain(shims);
                    let name = host.name();
                    traces.map(|trace| format!("{name}: {trace}")).collect::<Vec<_>>()
                })
            })
            .collect();
        looks.into_iter().flat_map(|look| look.join().unwrap_or_else(|_| panic!("a look failed"))).collect()
    })
}

/// Waits until nothing changes any more.
fn settle(side: &dyn Contender) {
    let mut before = traces(side.lab());
    wait("the hosts to settle", BOUND, || {
        std::thread::sleep(Duration::from_secs(1));
        let now = traces(side.lab());
        let same = now == before;
        before = now;
        if same { Ok(()) } else { Err("something changes") }
    });
}
