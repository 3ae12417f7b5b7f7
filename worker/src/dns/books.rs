//! What is told of each network: the books that resolvers read while the directory goes on.
//!
//! What is gone is out at once; what is new comes in only when the kernel's tables have it, so that an address that is
//! told can be reached.

use std::collections::BTreeMap;

use proto::model::NetworkId;
use tokio::sync::watch;

use super::names::Zone;
use crate::network::{Book, OverlayNetwork};

#[derive(Debug, Clone, Default)]
pub struct Books {
    told: watch::Sender<BTreeMap<NetworkId, Book>>,
}

impl Books {
    pub fn tell(&self, network: &NetworkId, book: Book) {
        self.told.send_modify(|told| _ = told.insert(network.clone(), book));
    }

    pub fn forget(&self, network: &NetworkId) {
        self.told.send_if_modified(|told| told.remove(network).is_some());
    }

    /// What is known of all of `networks`; none if there is one that no manager has told yet.
    pub(super) fn zones<'a>(
        &self,
        networks: impl Iterator<Item = &'a OverlayNetwork>,
    ) -> Option<Vec<Zone<'a>>> {
        let told = self.told.borrow();
        networks.map(|network| Some(Zone { network, book: told.get(&network.id)?.clone() })).collect()
    }

    /// Resolves when all of `networks` are known.
    pub(super) async fn known(&self, networks: impl Iterator<Item = &OverlayNetwork> + Clone) {
        let mut told = self.told.subscribe();
        let all = |told: &BTreeMap<_, _>| networks.clone().all(|network| told.contains_key(&network.id));
        let waited = told.wait_for(all).await;
        debug_assert!(waited.is_ok(), "the sender is borrowed meanwhile");
    }
}

/// What may be told of `now`, of which the kernel's tables have `reachable`.
pub fn tellable(now: &Book, reachable: &Book) -> Book {
    let mut book = now.clone();
    for (task, before, endpoint) in now.endpoints_since(reachable) {
        let Some(endpoint) = endpoint.filter(|endpoint| endpoint.ready) else { continue };
        let reached =
            before.is_some_and(|before| before.peer == endpoint.peer && before.node == endpoint.node);
        if !reached {
            let waiting = crate::network::Endpoint { ready: false, ..(**endpoint).clone() };
            book.set_endpoint(task.clone(), waiting);
        }
    }
    for service in now.virtual_ips_since(reachable) {
        let addresses = |book: &Book| book.virtual_ip(service).map(|virtual_ip| virtual_ip.addresses.clone());
        if addresses(reachable) != addresses(now) {
            book.remove_virtual_ip(service);
        }
    }
    book
}
