//! What the managers told of the networks that this node needs: a [`Book`] for each.
//!
//! Pure: updates go in, books and peers come out. What was told in an earlier session is kept until the present one
//! replaces it, since the kernel still works by it; it only does not count as fresh.
//!
//! Invariant: a network's entry is what the managers knew at `index`, which never decreases within a stream.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use netdriver::{Mac, Peer, PeerKey, Services};
use proto::model::{NetworkId, NodeId};
use proto::network::network_update::Kind;
use proto::network::{self as wire, NetworkDifference, NetworkUpdate};

use super::book::{Book, Endpoint, VirtualIp};
use super::encryption::Told;
use super::services::services;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("directory update of network {0} is neither complete, difference nor gone")]
    Kind(NetworkId),
    #[error("directory update without network_id")]
    NoNetwork,
    #[error("directory of network {0}: a difference came before the complete state")]
    Difference(NetworkId),
    #[error("directory of network {network}: index went back from {from} to {to}")]
    Backwards { network: NetworkId, from: u64, to: u64 },
}

#[derive(Debug, Default)]
pub struct Directory {
    networks: BTreeMap<NetworkId, Entry>,
}

#[derive(Debug, Default)]
struct Entry {
    index: u64,
    /// Told by the present stream.
    fresh: bool,
    book: Book,
    /// As the book has them. The same as before where an update changes none.
    services: Arc<Services>,
    /// Of an encrypted network, once it has keys.
    encryption: Option<Told>,
}

impl Directory {
    /// A new stream begins: it will tell everything again.
    pub fn begin(&mut self) {
        for entry in self.networks.values_mut() {
            entry.fresh = false;
        }
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
                (entry.index, entry.fresh, entry.book) = (update.index, true, book);
                entry.encryption = directory.encryption.and_then(|wire| told(&id, wire));
                entry.follow_services();
            }
            Kind::Difference(difference) => {
                let entry = self.networks.get_mut(&id).filter(|entry| entry.fresh);
                let entry = entry.ok_or_else(|| Error::Difference(id.clone()))?;
                if update.index < entry.index {
                    let (from, to) = (entry.index, update.index);
                    return Err(Error::Backwards { network: id, from, to });
                }
                entry.index = update.index;
                if let Some(wire) = difference.encryption.clone() {
                    entry.encryption = told(&id, wire);
                }
                change(&mut entry.book, &id, difference);
                entry.follow_services();
            }
            Kind::Gone(_) => {
                self.networks.remove(&id);
            }
        }
        Ok(id)
    }

    pub fn is_known(&self, network: &NetworkId) -> bool {
        self.networks.contains_key(network)
    }

    pub fn is_fresh(&self, network: &NetworkId) -> bool {
        self.networks.get(network).is_some_and(|entry| entry.fresh)
    }

    /// Of the last update.
    pub fn index(&self, network: &NetworkId) -> Option<u64> {
        self.networks.get(network).map(|entry| entry.index)
    }

    /// Virtual addresses and who is behind them.
    pub fn services(&self, network: &NetworkId) -> Arc<Services> {
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

    /// The endpoints of a network that are not on the node `own`.
    pub fn peers(&self, network: &NetworkId, own: &NodeId) -> BTreeMap<PeerKey, Peer> {
        let endpoints = self.book(network).into_iter().flat_map(Book::endpoints);
        let remote = endpoints.filter(|(_, endpoint)| endpoint.node != *own);
        remote.map(|(task, endpoint)| (PeerKey::new(task.as_str()), endpoint.peer.clone())).collect()
    }
}

impl Entry {
    fn follow_services(&mut self) {
        let services = services(&self.book);
        if *self.services != services {
            self.services = Arc::new(services);
        }
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

fn endpoint(wire: wire::Endpoint) -> Result<Endpoint, String> {
    let vtep = wire.vtep.parse().map_err(|_| format!("vtep {:?} is no IP address", wire.vtep))?;
    let mac = <[u8; 6]>::try_from(wire.mac.as_slice());
    let mac = mac.map_err(|_| format!("mac has {} bytes, not 6", wire.mac.len()))?;
    Ok(Endpoint {
        peer: Peer { mac: Mac(mac), addresses: addresses(&wire.addresses)?, vtep },
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

fn addresses(texts: &[String]) -> Result<Vec<IpAddr>, String> {
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
        let peers = directory.peers(&"net".into(), &"n1".into());
        peers.keys().map(ToString::to_string).collect()
    }

    #[test]
    fn follows_a_stream_and_leaves_out_its_own_and_unusable_endpoints() {
        let mut directory = Directory::default();
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

    #[test]
    fn addresses_move_within_one_difference_and_unusable_entries_are_void() {
        let mut directory = Directory::default();
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
        let mut directory = Directory::default();
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
