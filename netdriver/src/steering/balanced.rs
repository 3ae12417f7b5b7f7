//! The services of all networks of a sandbox, as one set.
//!
//! Pure. A clone costs nothing, and two sets that come from each other are compared in the time that their difference
//! takes: services of networks are persistent maps, which are kept apart here for that.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::ordmap::DiffItem;

use crate::desired::{Service, Services};

/// Of an address that two networks have, the later one counts.
#[derive(Debug, Clone, Default)]
pub struct Balanced(Vec<Services>);

/// What an address led to, and what it leads to.
pub type Changes<'a> = BTreeMap<IpAddr, (Option<&'a Arc<Service>>, Option<&'a Arc<Service>>)>;

impl Balanced {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, address: &IpAddr) -> Option<&Arc<Service>> {
        self.0.iter().rev().find_map(|services| services.get(address))
    }

    #[cfg(test)]
    pub fn iter(&self) -> impl Iterator<Item = (&IpAddr, &Arc<Service>)> {
        let numbered = self.0.iter().enumerate();
        numbered.flat_map(move |(i, services)| {
            let later = &self.0[i + 1..];
            services
                .iter()
                .filter(|(address, _)| !later.iter().any(|services| services.contains_key(*address)))
        })
    }

    /// What has changed since `before`.
    pub fn since<'a>(&'a self, before: &'a Self) -> Changes<'a> {
        let mut changes = Changes::new();
        let none = Services::new();
        for i in 0..self.0.len().max(before.0.len()) {
            let (old, new) = (before.0.get(i).unwrap_or(&none), self.0.get(i).unwrap_or(&none));
            for difference in old.diff(new) {
                let (DiffItem::Add(address, _)
                | DiffItem::Remove(address, _)
                | DiffItem::Update { old: (address, _), .. }) = difference;
                changes.entry(*address).or_insert_with(|| (before.get(address), self.get(address)));
            }
        }
        changes.retain(|_, (before, after)| before != after);
        changes
    }
}

impl FromIterator<Services> for Balanced {
    /// In the order of the networks.
    fn from_iter<I: IntoIterator<Item = Services>>(services: I) -> Self {
        Self(services.into_iter().filter(|services| !services.is_empty()).collect())
    }
}

impl PartialEq for Balanced {
    fn eq(&self, other: &Self) -> bool {
        self.since(other).is_empty()
    }
}

impl Eq for Balanced {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_services() -> impl Strategy<Value = Services> {
        let service = prop::collection::btree_set(10..14_u8, 0..3).prop_map(|backends| {
            let backends = backends.into_iter().map(|n| IpAddr::from([10, 0, 0, n])).collect();
            Arc::new(Service { backends, ..Service::default() })
        });
        let services = prop::collection::btree_map(0..5_u8, service, 0..5);
        services.prop_map(|all| {
            all.into_iter().map(|(n, service)| (IpAddr::from([10, 0, 1, n]), service)).collect()
        })
    }

    fn merged(all: &[Services]) -> BTreeMap<IpAddr, Arc<Service>> {
        all.iter().flatten().map(|(address, service)| (*address, service.clone())).collect()
    }

    proptest! {
        /// Also where networks have the same address, and come and go.
        #[test]
        fn is_as_if_merged(
            before in prop::collection::vec(any_services(), 0..4),
            after in prop::collection::vec(any_services(), 0..4),
        ) {
            let sets = [&before, &after].map(|services| services.iter().cloned().collect::<Balanced>());
            let maps = [merged(&before), merged(&after)];
            for (set, map) in sets.iter().zip(&maps) {
                let listed: BTreeMap<_, _> = set.iter().map(|(address, of)| (*address, of.clone())).collect();
                prop_assert_eq!(&listed, map);
                prop_assert_eq!(set.is_empty(), map.is_empty());
            }
            let changes = sets[1].since(&sets[0]);
            for address in maps[0].keys().chain(maps[1].keys()) {
                let (old, new) = (maps[0].get(address), maps[1].get(address));
                let change = changes.get(address).copied();
                prop_assert_eq!(change, (old != new).then_some((old, new)));
            }
            prop_assert_eq!(changes.keys().filter(|a| !maps[0].contains_key(a) && !maps[1].contains_key(a)).count(), 0);
        }
    }
}
