//! Time from the death of a task's process until its address is gone, from names and from load balancing, as tasks on
//! each host see it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use e2e::bench::{RUNS, Table, median};
use e2e::peer::Peer;
use e2e::visit::{until_gone, until_not_behind};
use e2e::{Contender, Inside, Lab, Ours, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const HOSTS: usize = 3;
const BOUND: Duration = Duration::from_secs(60);

fn main() {
    let (our_lab, their_lab) =
        (Lab::swarm("bench killed task", 1, 2), Lab::new("bench killed task, the peer", 3));
    let (ours, theirs) = (Ours(&our_lab), Peer::form(&their_lab, 1));
    let sides = [&ours as &dyn Contender, &theirs];
    let clients = sides.map(|side| {
        side.create_network("net", "10.0.9.0/24");
        (1..=HOSTS).map(|number| client(side, number)).collect::<Vec<_>>()
    });
    let mut names = [[const { Vec::new() }; HOSTS], [const { Vec::new() }; HOSTS]];
    let mut balancing = [const { Vec::new() }; HOSTS];
    for _ in 0..RUNS {
        for (at, side) in sides.into_iter().enumerate() {
            // The peer balances by addresses of its own kind, which do not work on every kernel.
            let balances = side.endpoint_mode() == "vip";
            for (host, seen) in measure(side, &clients[at], balances).into_iter().enumerate() {
                names[at][host].push(seen[0]);
                if balances {
                    balancing[host].push(seen[1]);
                }
            }
        }
    }
    let table = Table::new("task's process killed on h3, to its address gone", theirs.name());
    let [our_names, their_names] = names;
    for (host, (ours, theirs)) in our_names.into_iter().zip(their_names).enumerate() {
        table.compare(&format!("names, seen on h{}", host + 1), "ms", median(ours), median(theirs));
    }
    for (host, ours) in balancing.into_iter().enumerate() {
        table.alone(&format!("load balancing, seen on h{}", host + 1), "ms", median(ours));
    }
}

fn client(side: &dyn Contender, number: usize) -> Inside {
    let name = format!("client{number}");
    side.create_at(&name, "net", number, 1);
    side.wait_running(&name, 1);
    side.endpoints(&name)[0].0
}

/// Milliseconds, for each client: until its names, and until its load balancing, had the address no more.
fn measure(side: &dyn Contender, clients: &[Inside], balances: bool) -> Vec<[f64; 2]> {
    let before = side.containers();
    // The second one stays, so that the name never has no address.
    side.create_at("web", "net", HOSTS, 2);
    side.wait_running("web", 2);
    let (victim, address) = side.endpoints("web")[0];
    let address = IpAddr::V4(address);
    for client in clients {
        wait("all to know the address", BOUND, || {
            let known = client.lookup("tasks.web.").records;
            if known.contains(&address.to_string()) { Ok(()) } else { Err(format!("{known:?}")) }
        });
    }
    let seen = std::thread::scope(|scope| {
        let watch = |client: &Inside| {
            let client = *client;
            let names = scope.spawn(move || until_gone(client, "tasks.web.", address));
            let balancing = balances.then(|| scope.spawn(move || until_not_behind(client, address)));
            (names, balancing)
        };
        let watches: Vec<_> = clients.iter().map(watch).collect();
        let begun = Instant::now();
        kill(Pid::from_raw(victim.pid), Signal::SIGKILL).unwrap_or_else(|error| panic!("no victim: {error}"));
        let since = |at: Instant| at.saturating_duration_since(begun).as_secs_f64() * 1e3;
        let joined = watches.into_iter().map(|(names, balancing)| {
            let names = names.join().unwrap_or_else(|cause| std::panic::resume_unwind(cause));
            let balancing =
                balancing.map(|watch| watch.join().unwrap_or_else(|cause| std::panic::resume_unwind(cause)));
            [since(names), balancing.map_or(0.0, since)]
        });
        joined.collect()
    });
    side.command(&["service", "rm", "web"]).ok();
    wait("the tasks to go", BOUND, || match side.containers() {
        left if left <= before => Ok(()),
        left => Err(format!("{left} are left")),
    });
    seen
}
