//! State and locks by key, so that work on one network or sandbox waits for nothing else.
//!
//! A network is locked for writing while its namespace, bridge or VXLAN device may change, and for reading while
//! sandboxes are attached to it, many at a time. Whoever holds several networks took them in the order of their keys
//! and for reading, so nobody waits in a circle. A sandbox is locked before any network.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::entries::Entries;
use crate::steering;

/// What is worth keeping of a key while nobody works on it.
pub trait Idle: Default {
    fn is_blank(&self) -> bool;
}

/// One network: the MTU of its frame once that is known to be in order, and the entries of its tables once those are.
#[derive(Debug, Default)]
pub struct NetworkState {
    pub frame: tokio::sync::RwLock<Option<u32>>,
    pub entries: tokio::sync::Mutex<Option<Entries>>,
}

impl Idle for NetworkState {
    fn is_blank(&self) -> bool {
        self.frame.try_read().is_ok_and(|frame| frame.is_none())
    }
}

/// One sandbox: what its table was left as.
pub type SandboxState = tokio::sync::Mutex<Option<steering::Known>>;

impl Idle for SandboxState {
    fn is_blank(&self) -> bool {
        self.try_lock().is_ok_and(|known| known.is_none())
    }
}

#[derive(Debug)]
pub struct Keyed<K, V> {
    // Held for look-ups only, never across an await.
    map: Mutex<BTreeMap<K, Arc<V>>>,
}

impl<K, V> Default for Keyed<K, V> {
    fn default() -> Self {
        Self { map: Mutex::default() }
    }
}

impl<K: Ord + Clone, V: Idle> Keyed<K, V> {
    pub fn lease(&self, key: &K) -> Lease<'_, K, V> {
        let value = Arc::clone(self.map().entry(key.clone()).or_default());
        Lease { of: self, key: key.clone(), value }
    }

    /// Whether somebody holds a lease of a key like this.
    pub fn any(&self, like: impl Fn(&K) -> bool) -> bool {
        self.map().iter().any(|(key, value)| Arc::strong_count(value) > 1 && like(key))
    }

    fn map(&self) -> MutexGuard<'_, BTreeMap<K, Arc<V>>> {
        // Whoever panicked did so outside: nothing in here panics half-way.
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the state of a key; what is blank goes with its last lease.
pub struct Lease<'a, K: Ord + Clone, V: Idle> {
    of: &'a Keyed<K, V>,
    key: K,
    value: Arc<V>,
}

impl<K: Ord + Clone, V: Idle> Deref for Lease<'_, K, V> {
    type Target = V;

    fn deref(&self) -> &V {
        &self.value
    }
}

impl<K: Ord + Clone, V: Idle> Drop for Lease<'_, K, V> {
    fn drop(&mut self) {
        let mut map = self.of.map();
        // The map's own and this one.
        if Arc::strong_count(&self.value) == 2 && self.value.is_blank() {
            map.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_nothing_of_what_is_idle_and_blank() {
        let keyed: Keyed<u8, NetworkState> = Keyed::default();
        let (one, two) = (keyed.lease(&1), keyed.lease(&1));
        *one.frame.try_write().unwrap() = Some(1450);
        drop(one);
        assert_eq!(*two.frame.try_read().unwrap(), Some(1450));
        assert!(keyed.any(|key| *key == 1));
        drop(two);
        assert!(!keyed.any(|_| true), "nobody works on it");
        assert_eq!(keyed.map().len(), 1, "a frame that is in order is remembered");
        *keyed.lease(&1).frame.try_write().unwrap() = None;
        assert!(keyed.map().is_empty());
    }
}
