//! Watches that no address is ever in use twice, in the kernel itself.
//!
//! All hosts of a lab share one kernel, so the watch sees both sides of a partition at once, which no manager can.
//! It reads `/proc/<pid>/net/fib_trie` of the containers' processes: the local addresses of their namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;
use std::os::linux::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::lab::Lab;
use crate::process;

const PERIOD: Duration = Duration::from_millis(20);

type Holders = BTreeMap<Ipv4Addr, BTreeSet<u64>>;

#[derive(Debug)]
pub struct AddressWatch {
    stop: Arc<AtomicBool>,
    watcher: Option<JoinHandle<(Holders, BTreeSet<Ipv4Addr>)>>,
}

impl AddressWatch {
    /// Watches the addresses that begin with `prefix`, such as `10.0.9.`, in all tasks of the lab.
    pub fn start(lab: &Lab, prefix: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, cgroup, prefix) = (stop.clone(), lab.name().to_owned(), prefix.to_owned());
        let watcher = std::thread::spawn(move || {
            let (mut violations, mut seen) = (Holders::new(), BTreeSet::new());
            while !stopped.load(Ordering::Relaxed) {
                let holders = holders(&cgroup, &prefix);
                seen.extend(holders.keys().copied());
                violations.extend(holders.into_iter().filter(|(_, namespaces)| namespaces.len() > 1));
                std::thread::sleep(PERIOD);
            }
            (violations, seen)
        });
        Self { stop, watcher: Some(watcher) }
    }

    /// Ends the watch.
    ///
    /// # Panics
    ///
    /// When an address was held by two namespaces at the same time, or when none was ever seen: then the watch
    /// looked at the wrong place.
    #[track_caller]
    pub fn finish(mut self) {
        let (violations, seen) = self.join().unwrap_or_default();
        assert!(violations.is_empty(), "addresses held by several namespaces at once: {violations:?}");
        assert!(!seen.is_empty(), "no task's address was ever seen");
    }

    fn join(&mut self) -> Option<(Holders, BTreeSet<Ipv4Addr>)> {
        self.stop.store(true, Ordering::Relaxed);
        self.watcher.take().and_then(|watcher| watcher.join().ok())
    }
}

impl Drop for AddressWatch {
    fn drop(&mut self) {
        self.join();
    }
}

fn holders(cgroup: &str, prefix: &str) -> Holders {
    let mut holders = Holders::new();
    for pid in process::in_cgroup(cgroup) {
        // A process that ends in between has no address any more.
        let Ok(namespace) = fs::metadata(format!("/proc/{pid}/ns/net")) else { continue };
        let trie = fs::read_to_string(format!("/proc/{pid}/net/fib_trie")).unwrap_or_default();
        for address in local_addresses(&trie).filter(|address| address.to_string().starts_with(prefix)) {
            holders.entry(address).or_default().insert(namespace.st_ino());
        }
    }
    holders
}

/// In the trie a line `|-- <address>` is followed by lines that say what it is; a local one has `host LOCAL`.
fn local_addresses(trie: &str) -> impl Iterator<Item = Ipv4Addr> {
    let pairs = trie.lines().zip(trie.lines().skip(1));
    let local = pairs.filter(|(_, next)| next.contains("host LOCAL"));
    local.filter_map(|(line, _)| line.trim().strip_prefix("|-- ")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_local_addresses_count() {
        let trie = "Main:
  +-- 10.0.9.0/24 2 0 2
     |-- 10.0.9.0
        /24 link UNICAST
     |-- 10.0.9.3
        /32 host LOCAL
     |-- 10.0.9.255
        /32 link BROADCAST";
        assert_eq!(local_addresses(trie).collect::<Vec<_>>(), [Ipv4Addr::new(10, 0, 9, 3)]);
    }
}
