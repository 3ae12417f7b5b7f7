//! Moments at which keys are planned again though nothing has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use super::Scope;

pub(super) struct Wakes<K> {
    by_time: BTreeSet<(SystemTime, K)>,
    /// One a key: the earliest.
    by_key: BTreeMap<K, SystemTime>,
}

impl<K> Default for Wakes<K> {
    fn default() -> Self {
        Self { by_time: BTreeSet::new(), by_key: BTreeMap::new() }
    }
}

impl<K: Ord + Clone> Wakes<K> {
    /// What was planned for the scope before is void.
    pub(super) fn replace(&mut self, scope: &Scope<K>, wakes: Vec<(SystemTime, K)>) {
        match scope {
            Scope::All => *self = Self::default(),
            Scope::Keys(keys) => keys.iter().for_each(|key| self.remove(key)),
        }
        for (at, key) in wakes {
            if self.by_key.get(&key).is_none_or(|set| at < *set) {
                self.remove(&key);
                self.by_key.insert(key.clone(), at);
                self.by_time.insert((at, key));
            }
        }
    }

    pub(super) fn next(&self) -> Option<SystemTime> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes out the keys whose moment has come.
    pub(super) fn due(&mut self, now: SystemTime) -> Vec<K> {
        let due = |(at, _): &&(SystemTime, K)| *at <= now;
        let keys: Vec<K> = self.by_time.iter().take_while(due).map(|(_, key)| key.clone()).collect();
        keys.iter().for_each(|key| self.remove(key));
        keys
    }

    fn remove(&mut self, key: &K) {
        if let Some((key, at)) = self.by_key.remove_entry(key) {
            self.by_time.remove(&(at, key));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(s: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(s)
    }

    #[test]
    fn a_key_has_its_earliest_moment_and_loses_it_when_planned_anew() {
        let mut wakes = Wakes::default();
        wakes.replace(&Scope::All, vec![(at(5), 'a'), (at(3), 'a'), (at(9), 'b')]);
        assert_eq!(wakes.next(), Some(at(3)));
        assert_eq!(wakes.due(at(4)), ['a']);
        wakes.replace(&Scope::Keys(['b'].into()), vec![]);
        assert_eq!(wakes.next(), None);
    }
}
