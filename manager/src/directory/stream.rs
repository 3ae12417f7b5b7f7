//! What one node was told, and what it has to be told next.

use std::collections::BTreeMap;

use proto::model::{NetworkId, NodeId};
use proto::network::network_update::Kind;
use proto::network::{Gone, Moment, NetworkDifference, NetworkUpdate};
use raft_store::{Commit, Tables};

use super::journal::Recent;
use super::touched::{Entries, Touched};
use super::{entry, need};
use crate::fanout::Marks;

/// The state of one stream.
#[derive(Debug)]
pub struct Known {
    node: NodeId,
    /// Networks that the node was told of, with what may have changed in them since.
    networks: BTreeMap<NetworkId, Entries>,
    /// What it knows from earlier streams, of networks that it was not told of by this one.
    earlier: BTreeMap<NetworkId, Moment>,
    needs: Needs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    Same,
    /// The node may need other networks.
    Changed,
    /// Changes were missed: everything is to be told again.
    Lost,
}

/// What a stream has to say, still without the entries.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Due {
    gone: Vec<NetworkId>,
    complete: Vec<NetworkId>,
    /// What follows a moment of an earlier stream, which had this index.
    resumed: Vec<(NetworkId, Entries, u64)>,
    changed: Vec<(NetworkId, Entries)>,
}

impl Known {
    /// Nothing was told yet by this stream, and `earlier` by others.
    pub fn new(node: NodeId, earlier: BTreeMap<NetworkId, Moment>) -> Self {
        Self { node, networks: BTreeMap::new(), earlier, needs: Needs::Changed }
    }

    /// Takes what is to be told now. Whoever takes it tells it.
    pub fn take_due(&mut self, tables: &Tables, recent: &Recent) -> Due {
        let mut due = Due::default();
        let needs = std::mem::replace(&mut self.needs, Needs::Same);
        if needs != Needs::Same {
            self.follow_needs(tables, needs == Needs::Lost, recent, &mut due);
        }
        for (network, entries) in &mut self.networks {
            if *entries != Entries::default() {
                due.changed.push((network.clone(), std::mem::take(entries)));
            }
        }
        due
    }

    fn follow_needs(&mut self, tables: &Tables, again: bool, recent: &Recent, due: &mut Due) {
        let needed = need::networks(tables, &self.node);
        let gone = self.networks.extract_if(.., |network, _| !needed.contains(network));
        due.gone = gone.map(|(network, _)| network).collect();
        let mut earlier = std::mem::take(&mut self.earlier);
        for network in needed {
            if !again && self.networks.contains_key(&network) {
                continue;
            }
            self.networks.insert(network.clone(), Entries::default());
            match earlier.remove(&network).and_then(|then| Some((recent.since(&network, &then)?, then))) {
                Some((entries, then)) => due.resumed.push((network, entries, then.index)),
                None => due.complete.push(network),
            }
        }
        due.gone.extend(earlier.into_keys());
    }
}

impl Due {
    /// For the node of the stream.
    pub fn updates(&self, tables: &Tables, node: &NodeId) -> Vec<NetworkUpdate> {
        let update = |network: &NetworkId, kind| NetworkUpdate {
            network_id: network.to_string(),
            index: tables.index(),
            confirm: is_awaited(tables, &kind),
            kind: Some(kind),
        };
        let gone = self.gone.iter().map(|network| update(network, Kind::Gone(Gone {})));
        let complete = self.complete.iter();
        let complete =
            complete.map(|network| update(network, Kind::Complete(entry::complete(tables, network, node))));
        let changed = self.changed.iter().map(|(network, entries)| {
            update(network, Kind::Difference(difference(tables, network, entries, node)))
        });
        let resumed = self.resumed.iter().map(|(network, entries, since)| {
            let difference =
                NetworkDifference { since: *since, ..difference(tables, network, entries, node) };
            let told = update(network, Kind::Difference(difference));
            // Whether it has confirmed what it was told before is not known here.
            NetworkUpdate { confirm: told.confirm || is_left(tables, network), ..told }
        });
        gone.chain(complete).chain(resumed).chain(changed).collect()
    }
}

/// Whether a task waits for nodes to know this.
fn is_awaited(tables: &Tables, kind: &Kind) -> bool {
    let endpoints = match kind {
        Kind::Complete(all) => &all.endpoints,
        Kind::Difference(difference) => &difference.set_endpoints,
        Kind::Gone(_) => return false,
    };
    let mut tasks = endpoints.iter().filter(|endpoint| !endpoint.ready);
    tasks.any(|endpoint| {
        tables.task(&endpoint.task_id.as_str().into()).is_some_and(|task| entry::is_leaving(task))
    })
}

/// Whether a task of the network waits for nodes to know that it goes.
fn is_left(tables: &Tables, network: &NetworkId) -> bool {
    tables.tasks_by_network(network).any(|task| entry::is_leaving(task))
}

fn difference(tables: &Tables, network: &NetworkId, entries: &Entries, node: &NodeId) -> NetworkDifference {
    let mut difference = NetworkDifference::default();
    for task in &entries.tasks {
        match entry::endpoint_of(tables, network, task) {
            Some(endpoint) => difference.set_endpoints.push(endpoint),
            None => difference.removed_endpoints.push(task.to_string()),
        }
    }
    for service in &entries.services {
        match entry::virtual_ip_of(tables, network, service) {
            Some(vip) => difference.set_virtual_ips.push(vip),
            None => difference.removed_virtual_ips.push(service.to_string()),
        }
    }
    if entries.encryption.has(node) {
        difference.encryption = entry::encryption(tables, network, node);
    }
    difference
}

impl Marks for Known {
    type Touched = Touched;
    type Journal = Recent;

    fn touched(commit: &Commit) -> Option<Touched> {
        let touched = Touched::by(commit);
        (!touched.is_empty()).then_some(touched)
    }

    /// Who was told of a network is known to each alone.
    fn nodes(_: &Touched) -> Option<impl Iterator<Item = &NodeId>> {
        None::<std::iter::Empty<&NodeId>>
    }

    fn mark(&mut self, node: &NodeId, touched: &Touched) -> bool {
        let mut marked = touched.nodes.contains(node);
        if marked && self.needs == Needs::Same {
            self.needs = Needs::Changed;
        }
        for (network, entries) in &touched.networks {
            if let Some(known) = self.networks.get_mut(network) {
                marked |= known.merge(entries, node);
            }
        }
        marked
    }

    fn mark_all(&mut self) {
        self.needs = Needs::Lost;
    }
}
