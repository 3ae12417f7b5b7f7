//! Which updates of the directory the kernel works by, for managers that ask: a task waits to stop until no node
//! sends it new connections any more.
//!
//! Pure. Invariant: what is confirmed of a network was brought into the kernel by a pass that did not fail for it.

use std::collections::{BTreeMap, BTreeSet};

use proto::model::NetworkId;
use tokio::sync::watch;

use super::directory::Directory;

/// Index of the last update, by network.
pub type Confirmed = BTreeMap<NetworkId, u64>;

#[derive(Debug, Default)]
pub(super) struct Confirmations {
    asked: BTreeSet<NetworkId>,
    confirmed: watch::Sender<Confirmed>,
}

impl Confirmations {
    pub fn watch(&self) -> watch::Receiver<Confirmed> {
        self.confirmed.subscribe()
    }

    /// A manager waits for the network's last update.
    pub fn ask(&mut self, network: NetworkId) {
        self.asked.insert(network);
    }

    /// What a pass over the kernel that begins now confirms, if it does not fail.
    pub fn begin(&mut self, directory: &Directory, covers: impl Fn(&NetworkId) -> bool) -> Confirmed {
        let covered = self.asked.extract_if(.., |network| covers(network));
        covered
            .filter_map(|network| Some((directory.index(&network)?, network)))
            .map(|(i, n)| (n, i))
            .collect()
    }

    /// Where the pass failed, the next one is asked.
    pub fn finish(
        &mut self,
        mut begun: Confirmed,
        directory: &Directory,
        failed: impl Fn(&NetworkId) -> bool,
    ) {
        self.asked.extend(begun.extract_if(.., |network, _| failed(network)).map(|(network, _)| network));
        if begun.is_empty() {
            return;
        }
        self.confirmed.send_modify(|confirmed| {
            confirmed.retain(|network, _| directory.is_known(network));
            confirmed.append(&mut begun);
        });
    }
}
