//! What the managers told of the networks that this node needs: who is on them, and behind which tunnel.
//!
//! Pure: updates go in, peers come out. What was told in an earlier session is kept until the present one replaces
//! it, since the kernel still works by it; it only does not count as fresh.
//!
//! Invariant: a network's entry is what the managers knew at `index`, which never decreases within a stream.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netdriver::{Mac, Peer, PeerKey};
use proto::model::{NetworkId, NodeId};
use proto::network::network_update::Kind;
use proto::network::{Endpoint, NetworkUpdate};

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
    /// By task id.
    endpoints: BTreeMap<String, Remote>,
}

#[derive(Debug)]
struct Remote {
    node: String,
    peer: Peer,
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
                let endpoints = remotes(&id, directory.endpoints);
                self.networks.insert(id.clone(), Entry { index: update.index, fresh: true, endpoints });
            }
            Kind::Difference(difference) => {
                let entry = self.networks.get_mut(&id).filter(|entry| entry.fresh);
                let entry = entry.ok_or_else(|| Error::Difference(id.clone()))?;
                if update.index < entry.index {
                    let (from, to) = (entry.index, update.index);
                    return Err(Error::Backwards { network: id, from, to });
                }
                entry.index = update.index;
                entry.endpoints.retain(|task, _| !difference.removed_endpoints.contains(task));
                entry.endpoints.extend(remotes(&id, difference.set_endpoints));
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

    /// The endpoints of a network that are not on the node `own`.
    pub fn peers(&self, network: &NetworkId, own: &NodeId) -> BTreeMap<PeerKey, Peer> {
        let endpoints = self.networks.get(network).into_iter().flat_map(|entry| &entry.endpoints);
        let remote = endpoints.filter(|(_, remote)| remote.node != own.as_str());
        remote.map(|(task, remote)| (PeerKey::new(task.as_str()), remote.peer.clone())).collect()
    }
}

/// One unusable endpoint must not cost the node all the others: it is passed over and logged.
fn remotes(network: &NetworkId, endpoints: Vec<Endpoint>) -> BTreeMap<String, Remote> {
    let read = endpoints.into_iter().filter_map(|endpoint| match peer(&endpoint) {
        Ok(peer) => Some((endpoint.task_id, Remote { node: endpoint.node_id, peer })),
        Err(reason) => {
            tracing::warn!(%network, task = endpoint.task_id, reason, "endpoint in the directory is not usable");
            None
        }
    });
    read.collect()
}

fn peer(endpoint: &Endpoint) -> Result<Peer, String> {
    let vtep = endpoint.vtep.parse().map_err(|_| format!("vtep {:?} is no IP address", endpoint.vtep))?;
    let mac = <[u8; 6]>::try_from(endpoint.mac.as_slice());
    let mac = mac.map_err(|_| format!("mac has {} bytes, not 6", endpoint.mac.len()))?;
    let addresses = endpoint.addresses.iter();
    let addresses = addresses
        .map(|text| text.parse::<IpAddr>().map_err(|_| format!("address {text:?} is no IP address")));
    Ok(Peer { mac: Mac(mac), addresses: addresses.collect::<Result<_, _>>()?, vtep })
}

#[cfg(test)]
mod tests {
    use proto::network::{Gone, NetworkDifference, NetworkDirectory};

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
        NetworkUpdate { network_id: "net".into(), index, kind: Some(kind) }
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
