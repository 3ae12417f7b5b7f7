//! Time without a leader: from the last write that was answered to the next one, when the leader is killed, cut off
//! silently or stopped as one stops a daemon; and how long clients of the one that is cut off wait for an answer.
//!
//! One client at each of three managers writes all the time. What counts is what the other two answer; settings are the
//! defaults. Each manager that went comes back before the next one goes.

#[path = "leaderless/probe.rs"]
mod probe;
#[path = "leaderless/side.rs"]
mod side;
#[path = "writers/mod.rs"]
mod writers;

use std::time::{Duration, Instant};

use e2e::Lab;
use e2e::bench::{RUNS, Table, median};
use e2e::etcd::Etcd;
use e2e::peer::Peer;
use nix::sys::signal::Signal;
use probe::Probes;
use side::{Daemons, Side};
use tokio::runtime::Runtime;

/// Before the leader goes, and after the others have another one.
const CALM: Duration = Duration::from_millis(500);
/// The longest that anything is waited for.
const BOUND: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Kill,
    Cut,
    HandOver,
}

/// In seconds.
#[derive(Debug, Default)]
struct Figures {
    kill: Vec<f64>,
    cut: Vec<f64>,
    hand_over: Vec<f64>,
    longest_when_cut: Vec<f64>,
}

fn main() {
    let runtime = Runtime::new().unwrap_or_else(|error| panic!("no runtime: {error}"));
    let (our_lab, etcd_lab) =
        (Lab::plain_swarm("bench leaderless", 3), Lab::new("bench leaderless, etcd", 3));
    let docker_lab = Lab::new("bench leaderless, docker", 3);
    let mut sides = [
        Side::new(&our_lab, Daemons::Swarmd),
        Side::new(&etcd_lab, Daemons::Etcd(Etcd::form(&etcd_lab))),
        Side::new(&docker_lab, Daemons::Docker(Peer::form(&docker_lab, 3))),
    ];
    let mut figures: [Figures; 3] = Default::default();
    for _ in 0..RUNS {
        for (side, figures) in sides.iter_mut().zip(&mut figures) {
            for end in [End::Kill, End::Cut, End::HandOver] {
                measure(&runtime, side, end, figures);
            }
        }
    }
    let [ours, etcd, docker] = &figures;
    report("etcd", ours, etcd);
    report("docker", ours, docker);
}

fn report(name: &str, ours: &Figures, theirs: &Figures) {
    let table = Table::new("time without a leader, 3 managers", name);
    let row = |what: &str, figure: fn(&Figures) -> &Vec<f64>| {
        table.compare(what, "s", median(figure(ours).clone()), median(figure(theirs).clone()));
    };
    row("leader killed", |figures| &figures.kill);
    row("leader cut off silently", |figures| &figures.cut);
    row("  longest request at the one that is cut off", |figures| &figures.longest_when_cut);
    row("leader stopped (SIGTERM)", |figures| &figures.hand_over);
}

fn measure(runtime: &Runtime, side: &mut Side<'_>, end: End, figures: &mut Figures) {
    let prefix = side.wait_whole(runtime);
    let leader = side.leader(runtime);
    let probes = Probes::start(runtime, &side.group(), &prefix);
    std::thread::sleep(CALM);
    let begun = Instant::now();
    match end {
        End::Kill => side.stop(leader, Signal::SIGKILL),
        End::Cut => side.lab().hosts()[leader].cut(),
        End::HandOver => side.stop(leader, Signal::SIGTERM),
    }
    probes.wait_answer_of_others(leader, Instant::now(), BOUND);
    if end == End::Cut {
        // Of what is asked there from now on as well.
        std::thread::sleep(CALM * 10);
        probes.wait_no_request_since(leader, begun + CALM, BOUND);
    }
    std::thread::sleep(CALM);
    let log = probes.stop(runtime);
    match end {
        End::Cut => side.lab().hosts()[leader].heal(),
        End::Kill | End::HandOver => side.restart(leader),
    }
    let silence = log.longest_silence(leader, begun).as_secs_f64();
    match end {
        End::Kill => figures.kill.push(silence),
        End::HandOver => figures.hand_over.push(silence),
        End::Cut => {
            figures.cut.push(silence);
            figures.longest_when_cut.push(log.longest_request(leader, begun).as_secs_f64());
        }
    }
}
