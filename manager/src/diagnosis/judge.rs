//! What is wrong between two tasks: facts in, steps out.
//!
//! Pure. Says of each thing that a packet meets, in that order, whether it is as it ought to be, and of what is not, why
//! and what can be done. What ought to be is what the managers know; what is comes from the nodes.
//!
//! Invariant: a step is wrong only on evidence. What could not be looked at is unknown.

mod probe;
mod step;
#[cfg(test)]
mod tests;
mod way;

use std::collections::BTreeMap;
use std::net::IpAddr;

use proto::network::{Facts, HeardOf, Probed, Resolved, TraceStep};

pub use step::{Step, first_wrong};

/// What the kernel of a node has and the directory does not say is put right by the node's periodic look.
const MENDS: &str = "the node puts it right within a minute, or at once by `swarmctl network audit` there; if it comes back, something else changes it";

/// A task at one end, as the managers know it.
#[derive(Debug, Clone)]
pub struct End {
    pub task: String,
    /// As people call it.
    pub name: String,
    pub node_id: String,
    /// Host name.
    pub node: String,
    pub address: IpAddr,
    pub mac: [u8; 6],
    pub vtep: Option<IpAddr>,
}

/// The virtual address through which the packet goes.
#[derive(Debug, Clone)]
pub struct Service {
    pub virtual_ip: IpAddr,
    /// Who ought to get connections: addresses of ready tasks, and what they are called.
    pub ready: BTreeMap<IpAddr, String>,
}

/// The name that the destination was given by.
#[derive(Debug, Clone)]
pub struct Name {
    pub asked: String,
    /// One of these is to be among the answers; empty: whatever it is.
    pub expected: Vec<IpAddr>,
    pub answer: Result<Resolved, String>,
}

/// All that is known of one way.
#[derive(Debug, Clone)]
pub struct Evidence {
    pub source: End,
    pub destination: End,
    pub network: String,
    pub vni: u32,
    pub udp_port: u32,
    pub encrypted: bool,
    pub service: Option<Service>,
    pub port: Option<u16>,
    /// What each node answered, or why it did not.
    pub near: Result<Facts, String>,
    pub far: Result<Facts, String>,
    /// None: nothing was sent.
    pub probed: Option<Result<Probed, String>>,
    /// What the destination's node heard of it.
    pub heard: Option<Result<HeardOf, String>>,
}

impl Evidence {
    pub fn is_local(&self) -> bool {
        self.source.node_id == self.destination.node_id
    }

    fn is_itself(&self) -> bool {
        self.source.task == self.destination.task
    }

    /// Both ends with what was seen there, each with the other one.
    fn sides(&self) -> Vec<Side<'_>> {
        let near =
            self.near.as_ref().ok().map(|facts| Side { own: &self.source, other: &self.destination, facts });
        let far =
            self.far.as_ref().ok().map(|facts| Side { own: &self.destination, other: &self.source, facts });
        let far = far.filter(|_| !self.is_itself());
        near.into_iter().chain(far).collect()
    }
}

#[derive(Clone, Copy)]
struct Side<'a> {
    own: &'a End,
    other: &'a End,
    facts: &'a Facts,
}

/// Steps of the way from the source to one backend, from its virtual address on.
pub fn way(evidence: &Evidence) -> Vec<TraceStep> {
    let mut steps = Vec::new();
    steps.extend(evidence.service.as_ref().map(|service| way::service(evidence, service)));
    steps.push(way::nodes(evidence));
    steps.push(way::directory(evidence));
    steps.push(way::interface(evidence));
    if !evidence.is_local() {
        // A device that is down has no neighbours either.
        steps.push(way::tunnel(evidence));
        steps.push(way::neighbour(evidence));
        steps.push(way::forwarding(evidence));
        steps.push(way::underlay(evidence));
        steps.extend(evidence.encrypted.then(|| way::key(evidence)));
    }
    steps.push(probe::small(evidence));
    steps.push(probe::full(evidence));
    steps.extend(evidence.port.map(|port| probe::port(evidence, port)));
    steps.extend(evidence.service.as_ref().map(|service| probe::virtual_address(evidence, service)));
    steps
}

/// What the task's name server says.
pub fn name(node: &str, name: &Name) -> TraceStep {
    way::name(node, name)
}
