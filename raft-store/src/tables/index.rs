//! A persistent map from a key to a set of values.

use imbl::{OrdMap, OrdSet};

#[derive(Clone)]
pub(super) struct Index<K, V>(OrdMap<K, OrdSet<V>>);

// Derived, it would ask for `K: Default`.
impl<K, V> Default for Index<K, V> {
    fn default() -> Self {
        Self(OrdMap::new())
    }
}

impl<K: Ord + Clone, V: Ord + Clone> Index<K, V> {
    pub(super) fn insert(&mut self, key: &K, value: V) {
        match self.0.get_mut(key) {
            Some(values) => {
                values.insert(value);
            }
            None => {
                self.0.insert(key.clone(), OrdSet::unit(value));
            }
        }
    }

    pub(super) fn remove(&mut self, key: &K, value: &V) {
        let Some(values) = self.0.get_mut(key) else { return };
        values.remove(value);
        if values.is_empty() {
            self.0.remove(key);
        }
    }

    pub(super) fn get(&self, key: &K) -> Option<&OrdSet<V>> {
        self.0.get(key)
    }

    #[cfg(test)]
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().flat_map(|(key, values)| values.iter().map(move |value| (key, value)))
    }
}
