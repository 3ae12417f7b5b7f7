//! What the managers told of the networks that this node needs: a [`Book`] for each.
//!
//! Pure: updates go in, books and peers come out. What was told in an earlier session is kept until the present one
//! replaces it or goes on from it, since the kernel still works by it; it only does not count as fresh. What was told to an
//! earlier process of this node is good for names alone: the kernel may have been told more.
//!
//! Invariant: a network's entry is what the managers knew at `index`, which never decreases within a stream, and nothing
//! up to its moment is missing in it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use netdriver::{Mac, Peer, PeerKey, Peers, Services};
use proto::model::{NetworkId, NodeId};
use proto::network::network_update::Kind;
use proto::network::{self as wire, Known, Moment, NetworkDifference, NetworkUpdate};

use super::book::{Book, Endpoint, VirtualIp};
use super::encryption::Told;
use super::services;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("directory update of network {0} is neither complete, difference nor gone")]
    Kind(NetworkId),
    #[error("directory update without network_id")]
    NoNetwork,
    #[error("directory of network {0}: a difference came that does not follow what is known")]
    Difference(NetworkId),
    #[error("directory of network {network}: index went back from {from} to {to}")]
    Backwards { network: NetworkId, from: u64, to: u64 },
}

#[derive(Debug)]
pub struct Directory {
    own: NodeId,
    networks: BTreeMap<NetworkId, Entry>,
    /// Up to where the present stream has told all of the networks that are fresh.
    moment: Option<Moment>,
}

/// What outlives the process, of one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    pub index: u64,
    /// None: it is of no use to a manager.
    pub moment: Option<Moment>,
    pub book: Book,
}

#[derive(Debug, Default)]
struct Entry {
    index: u64,
    /// Told by the present stream.
    fresh: bool,
    /// Told to this process.
    told: bool,
    /// Of an earlier stream.
    moment: Option<Moment>,
    book: Book,
    /// As the book has them: the endpoints on other nodes.
    peers: Peers,
    /// As the book has them.
    services: Services,
    /// Of an encrypted network, once it has keys.
    encryption: Option<Told>,
}

impl Directory {
    /// Of the node `own`.
    pub fn new(own: NodeId) -> Self {
        Self { own, networks: BTreeMap::new(), moment: None }
    }

    /// A new stream begins: it will tell everything again, or what has changed.
    pub fn begin(&mut self) {
        let moment = self.moment.take();
        for entry in self.networks.values_mut() {
            if std::mem::take(&mut entry.fresh) {
                entry.moment = moment;
            }
        }
    }

    /// What was told to an earlier process of this node.
    pub fn remember(&mut self, network: NetworkId, Remembered { index, moment, book }: Remembered) {
        let entry = self.networks.entry(network).or_default();
        (entry.index, entry.moment) = (index, moment);
        entry.turn_to(book, &self.own);
    }

    /// The networks of which a manager may tell only what has changed, and since when; and the highest index at which
    /// anything was told.
    pub fn known(&self) -> (u64, Vec<Known>) {
        let index = self.networks.values().map(|entry| entry.index).max().unwrap_or_default();
        let known = self.networks.iter().filter_map(|(network, entry)| {
            let moment = if entry.fresh { self.moment } else { entry.moment };
            Some(Known { network_id: network.to_string(), moment: Some(moment?) })
        });
        (index, known.collect())
    }

    /// Something is wrong with what was told: the next stream shall tell everything.
    pub fn distrust(&mut self) {
        self.moment = None;
        self.networks.values_mut().for_each(|entry| entry.moment = None);
    }

    /// Of all networks that the present stream told, everything up to here was told.
    pub fn reach(&mut self, moment: Option<Moment>) {
        self.moment = moment.or(self.moment);
    }

    /// What shall outlive the process: all but keys, and what can be gone on from without any.
    pub fn to_remember(&self) -> impl Iterator<Item = (&NetworkId, Remembered)> {
        self.networks.iter().map(|(network, entry)| {
            let moment = if entry.fresh { self.moment } else { entry.moment };
            let moment = moment.filter(|_| entry.encryption.is_none());
            (network, Remembered { index: entry.index, moment, book: entry.book.clone() })
        })
    }

    /// Takes an update over and returns the network that it is about.
    pub fn apply(&mut self, update: NetworkUpdate) -> Result<NetworkId, Error> {
        if update.network_id.is_empty() {
            return Err(Error::NoNetwork);
        }
        let id = NetworkId::from(update.network_id);
        match update.kind.ok_or_else(|| Error::Kind(id.clone()))? {
            Kind::Complete(directory) => {
                let everything = NetworkDifference {
                    set_endpoints: directory.endpoints,
                    set_virtual_ips: directory.virtual_ips,
                    ..NetworkDifference::default()
                };
                let mut book = Book::default();
                change(&mut book, &id, everything);
                let entry = self.networks.entry(id.clone()).or_default();
                (entry.index, entry.fresh, entry.told) = (update.index, true, true);
                entry.encryption = directory.encryption.and_then(|wire| told(&id, wire));
                entry.turn_to(book, &self.own);
            }
            Kind::Difference(difference) => {
                let entry = self.networks.get_mut(&id).filter(|entry| entry.goes_on(difference.since));
                let entry = entry.ok_or_else(|| Error::Difference(id.clone()))?;
                if update.index < entry.index {
                    let (from, to) = (entry.index, update.index);
                    return Err(Error::Backwards { network: id, from, to });
                }
                (entry.index, entry.fresh, entry.told) = (update.index, true, true);
                if let Some(wire) = difference.encryption.clone() {
                    entry.encryption = told(&id, wire);
                }
                let mut book = entry.book.clone();
                change(&mut book, &id, difference);
                entry.turn_to(book, &self.own);
            }
            Kind::Gone(_) => {
                self.networks.remove(&id);
            }
        }
        Ok(id)
    }

    /// A manager has told of it, now or before: the kernel can be brought to it.
    pub fn is_known(&self, network: &NetworkId) -> bool {
        self.networks.get(network).is_some_and(|entry| entry.told)
    }

    pub fn is_fresh(&self, network: &NetworkId) -> bool {
        self.networks.get(network).is_some_and(|entry| entry.fresh)
    }

    /// Up to where nothing is missing of a network that the present stream told, or else the index of the last update.
    pub fn index(&self, network: &NetworkId) -> Option<u64> {
        let entry = self.networks.get(network)?;
        let moment = self.moment.filter(|_| entry.fresh);
        Some(moment.map_or(entry.index, |moment| moment.index))
    }

    /// Virtual addresses and who is behind them.
    pub fn services(&self, network: &NetworkId) -> Services {
        self.networks.get(network).map(|entry| entry.services.clone()).unwrap_or_default()
    }

    /// What is known of a network, fresh or not.
    pub fn book(&self, network: &NetworkId) -> Option<&Book> {
        self.networks.get(network).map(|entry| &entry.book)
    }

    /// How a network is encrypted; none if it is not, or if its keys are not known.
    pub(super) fn encryption(&self, network: &NetworkId) -> Option<&Told> {
        self.networks.get(network)?.encryption.as_ref()
    }

    /// The endpoints of a network that are on other nodes.
    pub fn peers(&self, network: &NetworkId) -> Peers {
        self.networks.get(network).map(|entry| entry.peers.clone()).unwrap_or_default()
    }
}

impl Entry {
    /// Whether a difference follows what is known: the last update, or what an earlier stream told.
    fn goes_on(&self, since: u64) -> bool {
        match since {
            0 => self.fresh,
            since => !self.fresh && self.moment.is_some_and(|moment| moment.index == since),
        }
    }

    /// Costs as much as there is another in this book.
    fn turn_to(&mut self, book: Book, own: &NodeId) {
        let before = std::mem::replace(&mut self.book, book);
        for (task, _, endpoint) in self.book.endpoints_since(&before) {
            let key = PeerKey::new(task.as_str());
            match endpoint.filter(|endpoint| endpoint.node != *own) {
                Some(endpoint) => _ = self.peers.insert(key, endpoint.peer.clone()),
                None => _ = self.peers.remove(&key),
            }
        }
        services::follow(&mut self.services, &before, &self.book);
    }
}

/// Removals first: an address that one task lost may be given to another in the same difference.
///
/// One unusable entry must not cost the node all the others: it is passed over and logged, and what was known under
/// its id is void.
fn change(book: &mut Book, network: &NetworkId, difference: NetworkDifference) {
    let set = difference.set_endpoints.iter().map(|endpoint| &endpoint.task_id);
    for task in difference.removed_endpoints.iter().chain(set) {
        book.remove_endpoint(&task.as_str().into());
    }
    let set = difference.set_virtual_ips.iter().map(|virtual_ip| &virtual_ip.service_id);
    for service in difference.removed_virtual_ips.iter().chain(set) {
        book.remove_virtual_ip(&service.as_str().into());
    }
    for wire in difference.set_endpoints {
        let task = wire.task_id.as_str().into();
        match endpoint(wire) {
            Ok(endpoint) => book.set_endpoint(task, endpoint),
            Err(reason) => tracing::warn!(%network, %task, reason, "endpoint in the directory is not usable"),
        }
    }
    for wire in difference.set_virtual_ips {
        let service = wire.service_id.as_str().into();
        match addresses(&wire.addresses) {
            Ok(addresses) => {
                let (service_name, aliases) = (wire.service_name, wire.aliases);
                book.set_virtual_ip(service, VirtualIp { service_name, addresses, aliases });
            }
            Err(reason) => {
                tracing::warn!(%network, %service, reason, "virtual address in the directory is not usable");
            }
        }
    }
}

/// Without keys that can be used the network waits, as it does before it has any.
fn told(network: &NetworkId, wire: wire::Encryption) -> Option<Told> {
    let told = Told::read(network, wire);
    told.inspect_err(|reason| tracing::warn!(%network, reason, "keys in the directory are not usable")).ok()
}

pub(super) fn endpoint(wire: wire::Endpoint) -> Result<Endpoint, String> {
    let vtep = wire.vtep.parse().map_err(|_| format!("vtep {:?} is no IP address", wire.vtep))?;
    let mac = <[u8; 6]>::try_from(wire.mac.as_slice());
    let mac = mac.map_err(|_| format!("mac has {} bytes, not 6", wire.mac.len()))?;
    Ok(Endpoint {
        peer: Arc::new(Peer { mac: Mac(mac), addresses: addresses(&wire.addresses)?, vtep }),
        node: wire.node_id.into(),
        service: wire.service_id.into(),
        service_name: wire.service_name,
        task_name: wire.task_name,
        aliases: wire.aliases,
        hostname: wire.hostname,
        ready: wire.ready,
        lost: wire.lost,
    })
}

pub(super) fn addresses(texts: &[String]) -> Result<Vec<IpAddr>, String> {
    let read = |text: &String| text.parse().map_err(|_| format!("address {text:?} is no IP address"));
    texts.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use proto::network::{Gone, NetworkDirectory};
    use wire::{Endpoint, VirtualIp};

    use super::super::book::Bearer;
    use super::*;

    fn endpoint(task: &str, node: &str, vtep: &str) -> Endpoint {
        Endpoint {
            task_id: task.into(),
            node_id: node.into(),
            vtep: vtep.into(),
            mac: vec![2, 0x42, 10, 0, 9, 3],
            addresses: vec!["10.0.9.3".into()],
            ..Endpoint::default()
        }
    }

    fn update(index: u64, kind: Kind) -> NetworkUpdate {
        NetworkUpdate { network_id: "net".into(), index, kind: Some(kind), confirm: false }
    }

    fn complete(endpoints: Vec<Endpoint>) -> Kind {
        Kind::Complete(NetworkDirectory { endpoints, ..NetworkDirectory::default() })
    }

    fn keys(directory: &Directory) -> Vec<String> {
        let peers = directory.peers(&"net".into());
        peers.keys().map(ToString::to_string).collect()
    }

    #[test]
    fn follows_a_stream_and_leaves_out_its_own_and_unusable_endpoints() {
        let mut directory = Directory::new("n1".into());
        let endpoints =
            vec![endpoint("a", "n1", "192.0.2.1"), endpoint("b", "n2", "192.0.2.2"), endpoint("c", "n3", "")];
        directory.apply(update(5, complete(endpoints))).unwrap();
        assert_eq!(keys(&directory), ["b"]);
        let difference = NetworkDifference {
            set_endpoints: vec![endpoint("d", "n3", "192.0.2.3")],
            removed_endpoints: vec!["b".into()],
            ..NetworkDifference::default()
        };
        directory.apply(update(6, Kind::Difference(difference.clone()))).unwrap();
        assert_eq!(keys(&directory), ["d"]);
        let back = directory.apply(update(4, Kind::Difference(difference))).unwrap_err();
        assert_eq!(back, Error::Backwards { network: "net".into(), from: 6, to: 4 });
        directory.apply(update(7, Kind::Gone(Gone {}))).unwrap();
        assert!(!directory.is_known(&"net".into()));
    }

    fn moment(index: u64) -> Moment {
        Moment { index, mark: 7 }
    }

    #[test]
    fn a_new_stream_goes_on_from_what_is_known() {
        let mut directory = Directory::new("n1".into());
        directory.apply(update(6, complete(vec![endpoint("b", "n2", "192.0.2.2")]))).unwrap();
        directory.reach(Some(moment(5)));
        assert_eq!(directory.index(&"net".into()), Some(5), "what came after the moment may be missing");
        directory.begin();
        let known = Known { network_id: "net".into(), moment: Some(moment(5)) };
        assert_eq!(directory.known(), (6, vec![known]));
        let since = |since| {
            let set_endpoints = vec![endpoint("c", "n3", "192.0.2.3")];
            Kind::Difference(NetworkDifference { set_endpoints, since, ..NetworkDifference::default() })
        };
        for wrong in [0, 4] {
            let refused = directory.apply(update(9, since(wrong)));
            assert_eq!(refused, Err(Error::Difference("net".into())));
        }
        let back = Error::Backwards { network: "net".into(), from: 6, to: 5 };
        assert_eq!(directory.apply(update(5, since(5))), Err(back));
        directory.apply(update(9, since(5))).unwrap();
        directory.reach(Some(moment(9)));
        assert!(directory.is_fresh(&"net".into()));
        assert_eq!(keys(&directory), ["b", "c"]);
        assert!(
            directory.apply(update(10, since(5))).is_err(),
            "only the first goes on from an earlier stream"
        );
        directory.distrust();
        directory.begin();
        assert_eq!(directory.known(), (9, vec![]));
    }

    #[test]
    fn what_an_earlier_process_was_told_is_for_names_and_for_going_on() {
        let mut before = Directory::new("n1".into());
        before.apply(update(6, complete(vec![endpoint("b", "n2", "192.0.2.2")]))).unwrap();
        before.reach(Some(moment(6)));
        let mut directory = Directory::new("n1".into());
        for (network, remembered) in before.to_remember() {
            directory.remember(network.clone(), remembered);
        }
        let network = "net".into();
        assert!(!directory.is_known(&network) && !directory.is_fresh(&network));
        assert_eq!(directory.book(&network), before.book(&network));
        assert_eq!(directory.known(), before.known());
        let since = NetworkDifference { since: 6, ..NetworkDifference::default() };
        directory.apply(update(8, Kind::Difference(since))).unwrap();
        assert!(directory.is_known(&network) && keys(&directory) == ["b"]);
    }

    #[test]
    fn addresses_move_within_one_difference_and_unusable_entries_are_void() {
        let mut directory = Directory::new("n1".into());
        let vip = |address: &str| VirtualIp {
            service_id: "s1".into(),
            service_name: "web".into(),
            addresses: vec![address.into()],
            ..VirtualIp::default()
        };
        let all = NetworkDirectory {
            endpoints: vec![endpoint("b", "n2", "192.0.2.2")],
            virtual_ips: vec![vip("10.0.9.2")],
            ..NetworkDirectory::default()
        };
        directory.apply(update(5, Kind::Complete(all))).unwrap();
        let difference = NetworkDifference {
            set_endpoints: vec![endpoint("a", "n2", "192.0.2.2")],
            removed_endpoints: vec!["b".into()],
            set_virtual_ips: vec![vip("nonsense")],
            ..NetworkDifference::default()
        };
        directory.apply(update(6, Kind::Difference(difference))).unwrap();
        let book = directory.book(&"net".into()).unwrap();
        assert_eq!(book.bearer_of([10, 0, 9, 3].into()), Some(&Bearer::Task("a".into())));
        assert_eq!((book.virtual_ips().count(), book.bearers("web").count()), (0, 0));
    }

    #[test]
    fn a_new_stream_must_begin_with_the_complete_state() {
        let mut directory = Directory::new("n1".into());
        directory.apply(update(5, complete(vec![endpoint("b", "n2", "192.0.2.2")]))).unwrap();
        directory.begin();
        assert_eq!(keys(&directory), ["b"], "the kernel still works by it");
        assert!(!directory.is_fresh(&"net".into()));
        let difference = Kind::Difference(NetworkDifference::default());
        assert_eq!(directory.apply(update(9, difference)), Err(Error::Difference("net".into())));
        directory.apply(update(3, complete(vec![]))).unwrap();
        assert!(directory.is_fresh(&"net".into()) && keys(&directory).is_empty());
    }
}
