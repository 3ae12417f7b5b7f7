//! Decides which operations lead from what was found to what is wanted, and what is there afterwards.
//!
//! Pure. Backends are numbered in the order of their addresses. A number that gets another backend is removed and put
//! within one transaction, so no packet ever sees it missing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::operation::{Family, Operation};
use super::{Found, Steering, Table};
use crate::desired::{Service, Services};

/// The table is none where nothing is wanted.
pub fn plan(found: &Found, wanted: &Steering) -> (Vec<Operation>, Option<Table>) {
    if wanted.is_empty() {
        let drop = if *found == Found::Nothing { vec![] } else { vec![Operation::Drop] };
        return (drop, None);
    }
    match found {
        Found::Table(table) if wanted.resolver || !table.resolver => {
            let mut operations = Vec::new();
            let table = change(table, wanted, &mut operations);
            (operations, Some(table))
        }
        Found::Nothing => anew(vec![Operation::Make], wanted),
        Found::Strange | Found::Table(_) => anew(vec![Operation::Drop, Operation::Make], wanted),
    }
}

fn anew(mut operations: Vec<Operation>, wanted: &Steering) -> (Vec<Operation>, Option<Table>) {
    let table = change(&Table::default(), wanted, &mut operations);
    (operations, Some(table))
}

fn change(table: &Table, wanted: &Steering, operations: &mut Vec<Operation>) -> Table {
    if wanted.resolver && !table.resolver {
        operations.push(Operation::Resolve);
    }
    let mut fans = table.fans.clone();
    if !Arc::ptr_eq(&table.services, &wanted.services) {
        frame(&mut fans, &wanted.services, operations);
        elements(&table.services, &wanted.services, operations);
    }
    Table { resolver: wanted.resolver, fans, services: Arc::clone(&wanted.services) }
}

/// The chains that the services need. Those that they no longer need stay: there are no more than there ever were
/// backends.
fn frame(fans: &mut BTreeMap<Family, BTreeSet<u32>>, services: &Services, operations: &mut Vec<Operation>) {
    for (address, service) in services {
        let family = Family::of(address);
        let fans = fans.entry(family).or_insert_with(|| {
            operations.push(Operation::Serve(family));
            BTreeSet::new()
        });
        if count(service) > 0 && fans.insert(count(service)) {
            operations.push(Operation::Fan(family, count(service)));
        }
    }
}

fn elements(found: &Services, wanted: &Services, operations: &mut Vec<Operation>) {
    let none = Service::default();
    for (address, service) in found.iter().filter(|(address, _)| !wanted.contains_key(address)) {
        operations.push(remove(*address, service));
        backends(*address, service, &none, operations);
    }
    for (address, service) in wanted {
        match found.get(address) {
            Some(before) if before.backends == service.backends => {}
            Some(before) => {
                if count(before) != count(service) {
                    operations.push(remove(*address, before));
                }
                backends(*address, before, service, operations);
                if count(before) != count(service) {
                    operations.push(put(*address, service));
                }
            }
            None => {
                backends(*address, &none, service, operations);
                operations.push(put(*address, service));
            }
        }
    }
}

fn put(address: IpAddr, service: &Service) -> Operation {
    match count(service) {
        0 => Operation::Refuse(address),
        backends => Operation::Put(address, backends),
    }
}

fn remove(address: IpAddr, service: &Service) -> Operation {
    if service.backends.is_empty() { Operation::Permit(address) } else { Operation::Remove(address) }
}

fn backends(address: IpAddr, found: &Service, wanted: &Service, operations: &mut Vec<Operation>) {
    let (mut before, mut after) = (found.backends.iter(), wanted.backends.iter());
    for number in 0.. {
        let (old, new) = (before.next(), after.next());
        if old.is_none() && new.is_none() {
            return;
        }
        if old != new {
            operations.extend(old.map(|_| Operation::RemoveBackend(address, number)));
            operations.extend(new.map(|backend| Operation::PutBackend(address, number, *backend)));
        }
    }
}

pub fn count(service: &Service) -> u32 {
    u32::try_from(service.backends.len()).expect("a network has fewer addresses")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the operations do to a table; panics where the kernel would refuse.
    #[derive(Debug, Default, Clone, PartialEq)]
    struct Kernel {
        table: bool,
        resolver: bool,
        fans: BTreeMap<Family, BTreeSet<u32>>,
        addresses: BTreeMap<IpAddr, u32>,
        backends: BTreeMap<(IpAddr, u32), IpAddr>,
    }

    impl Kernel {
        fn perform(&mut self, operation: &Operation) {
            use Operation::*;
            assert_eq!(self.table, *operation != Make, "{operation:?}");
            let family = |address| Family::of(address);
            match operation {
                Drop => *self = Self::default(),
                Make => self.table = true,
                Resolve => assert!(!std::mem::replace(&mut self.resolver, true)),
                Serve(family) => assert!(self.fans.insert(*family, BTreeSet::new()).is_none()),
                Fan(family, n) => assert!(self.fans.get_mut(family).unwrap().insert(*n)),
                Refuse(address) => {
                    assert!(self.fans.contains_key(&family(address)));
                    assert!(self.addresses.insert(*address, 0).is_none());
                }
                Permit(address) => assert_eq!(self.addresses.remove(address), Some(0)),
                Put(address, n) => {
                    assert!(self.fans[&family(address)].contains(n));
                    assert!(self.addresses.insert(*address, *n).is_none());
                }
                Remove(address) => assert!(self.addresses.remove(address).is_some_and(|n| n > 0)),
                PutBackend(address, n, backend) => {
                    assert!(self.fans.contains_key(&family(address)));
                    assert!(self.backends.insert((*address, *n), *backend).is_none());
                }
                RemoveBackend(address, n) => assert!(self.backends.remove(&(*address, *n)).is_some()),
            }
        }

        /// Each address leads to its backends, each once, and nothing else is there.
        fn check(&self, wanted: &Steering) {
            assert_eq!((self.table, self.resolver), (!wanted.is_empty(), wanted.resolver));
            assert_eq!(self.addresses.len(), wanted.services.len());
            for (address, service) in &*wanted.services {
                let reached: BTreeSet<_> =
                    (0..self.addresses[address]).map(|n| self.backends[&(*address, n)]).collect();
                assert_eq!(reached, service.backends);
            }
            let backends: usize = wanted.services.values().map(|service| service.backends.len()).sum();
            assert_eq!(self.backends.len(), backends);
        }
    }

    fn address(number: u8, v6: bool) -> IpAddr {
        if v6 { [0xfd00, 0, 0, 0, 0, 0, 0, number.into()].into() } else { [10, 0, 0, number].into() }
    }

    prop_compose! {
        fn any_services()(
            services in prop::collection::btree_map((0..4_u8, any::<bool>()), prop::collection::btree_set(10..18_u8, 0..6), 0..6),
        ) -> Services {
            let service = |v6, numbers: BTreeSet<u8>| Service {
                backends: numbers.into_iter().map(|number| address(number, v6)).collect(),
                ..Service::default()
            };
            services.into_iter().map(|((n, v6), numbers)| (address(n, v6), service(v6, numbers))).collect()
        }
    }

    prop_compose! {
        fn any_steering()(resolver in any::<bool>(), services in any_services()) -> Steering {
            Steering { resolver, services: Arc::new(services) }
        }
    }

    proptest! {
        #[test]
        fn each_transaction_leads_to_what_is_wanted(
            wishes in prop::collection::vec(any_steering(), 1..6),
            strange_at in 0..8_usize,
        ) {
            let (mut kernel, mut found) = (Kernel::default(), Found::Nothing);
            for (i, wanted) in wishes.iter().enumerate() {
                if i == strange_at && found != Found::Nothing {
                    found = Found::Strange;
                }
                let (operations, table) = plan(&found, wanted);
                operations.iter().for_each(|operation| kernel.perform(operation));
                kernel.check(wanted);
                found = table.map_or(Found::Nothing, Found::Table);
                prop_assert_eq!(plan(&found, wanted).0, []);
            }
        }
    }

    #[test]
    fn one_backend_more_is_two_elements_and_no_rule_if_there_is_a_chain() {
        let service = |numbers: &[u8]| Service {
            backends: numbers.iter().map(|number| address(*number, false)).collect(),
            ..Service::default()
        };
        let services = |web: &[u8], db: &[u8]| {
            let all = [(address(1, false), service(web)), (address(2, false), service(db))];
            Steering { resolver: true, services: Arc::new(all.into()) }
        };
        let (_, table) = plan(&Found::Nothing, &services(&[10, 11], &[20]));
        let (operations, _) = plan(&Found::Table(table.unwrap()), &services(&[10, 11], &[20, 21]));
        let db = address(2, false);
        assert_eq!(
            operations,
            [Operation::Remove(db), Operation::PutBackend(db, 1, address(21, false)), Operation::Put(db, 2)]
        );
    }
}
