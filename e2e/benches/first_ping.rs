//! Time from `service create` to the first answered ping between replicas on two hosts.

use std::time::Duration;

use e2e::bench::{RUNS, Table, median, seconds};
use e2e::peer::Peer;
use e2e::{Contender, Lab, Ours, wait};

fn main() {
    let (our_lab, their_lab) =
        (Lab::swarm("bench first ping", 1, 1), Lab::new("bench first ping, the peer", 2));
    let (ours, theirs) = (Ours(&our_lab), Peer::form(&their_lab, 1));
    let mut fresh = [vec![], vec![]];
    let mut warm = [vec![], vec![]];
    for run in 0..=RUNS {
        for (at, side) in [&ours as &dyn Contender, &theirs].into_iter().enumerate() {
            let network = format!("net{run}");
            let new = seconds(|| {
                // The peer has 10.0.0.0/24 itself.
                side.create_network(&network, &format!("10.1.{run}.0/24"));
                until_ping(side, "new", &network);
            });
            let again = seconds(|| until_ping(side, "again", &network));
            side.command(&["service", "rm", "new"]).ok();
            side.remove("again");
            // The first round pulls the image.
            if run > 0 {
                fresh[at].push(new);
                warm[at].push(again);
            }
        }
    }
    let table = Table::new("create to first ping across hosts", theirs.name());
    let ([our_fresh, their_fresh], [our_warm, their_warm]) = (fresh, warm);
    table.compare("on a new network", "s", median(our_fresh), median(their_fresh));
    table.compare("on a network that both hosts have", "s", median(our_warm), median(their_warm));
}

fn until_ping(side: &dyn Contender, service: &str, network: &str) {
    side.create(service, network, 2);
    wait("a ping between two hosts", Duration::from_secs(120), || {
        let endpoints = side.endpoints(service);
        let [(one, _), (_, address)] = endpoints[..] else { return Err(format!("{endpoints:?}")) };
        one.reaches(address).then_some(()).ok_or_else(|| "no answer".to_owned())
    });
}
