//! Decides which operations lead from what was found to what is wanted, and what is there afterwards.
//!
//! Pure. Costs what the difference costs, however many services and backends there are beside it. Backends have numbers
//! without gaps; one that goes is followed by a new one or by the last, so the others keep theirs. A number that gets
//! another backend is removed and put within one transaction, so no packet ever sees it missing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::ordset::DiffItem;

use super::balanced::Changes;
use super::operation::{Family, Operation};
use super::{Found, Numbers, Steering, Table};
use crate::desired::Service;

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
    let mut table = Table { resolver: wanted.resolver, ..table.clone() };
    let before = std::mem::replace(&mut table.services, wanted.services.clone());
    let changes = wanted.services.since(&before);
    frame(&mut table.fans, &changes, operations);
    elements(&mut table.numbers, &changes, operations);
    table
}

/// The chains that the services need. Those that they no longer need stay: there are no more than there ever were
/// backends.
fn frame(fans: &mut BTreeMap<Family, BTreeSet<u32>>, changes: &Changes<'_>, operations: &mut Vec<Operation>) {
    let wanted = changes.iter().filter_map(|(address, (_, after))| Some((address, (*after)?)));
    for (address, service) in wanted {
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

fn elements(numbers: &mut Numbers, changes: &Changes<'_>, operations: &mut Vec<Operation>) {
    let gone = changes.iter().filter_map(|(address, (before, after))| match after {
        None => Some((address, (*before)?)),
        Some(_) => None,
    });
    for (address, service) in gone {
        operations.push(remove(*address, service));
        let before = numbers.remove(address).unwrap_or_default();
        backends(*address, &before, &[], operations);
    }
    let wanted = changes.iter().filter_map(|(address, (before, after))| Some((*address, *before, (*after)?)));
    for (address, before, service) in wanted {
        let old = numbers.get(&address).cloned().unwrap_or_default();
        let new = match before {
            Some(before) if before.backends == service.backends => continue,
            Some(before) => renumber(&old, before, service),
            None => service.backends.iter().copied().collect(),
        };
        let resized = before.is_none_or(|before| count(before) != count(service));
        if let Some(before) = before.filter(|_| resized) {
            operations.push(remove(address, before));
        }
        backends(address, &old, &new, operations);
        if resized {
            operations.push(put(address, service));
        }
        numbers.insert(address, Arc::new(new));
    }
}

/// New backends take the numbers of those that are gone, then the next ones; the last fill what is left open.
fn renumber(old: &[IpAddr], before: &Service, after: &Service) -> Vec<IpAddr> {
    let (mut gone, mut new) = (BTreeSet::new(), Vec::new());
    for difference in before.backends.diff(&after.backends) {
        match difference {
            DiffItem::Add(backend) => new.push(*backend),
            DiffItem::Remove(backend) => _ = gone.insert(*backend),
        }
    }
    let mut new = new.into_iter();
    let mut order = old.to_vec();
    let mut number = 0;
    while number < order.len() && !gone.is_empty() {
        if gone.remove(&order[number]) {
            match new.next() {
                Some(backend) => order[number] = backend,
                None => {
                    // What comes in its place may be gone, too.
                    order.swap_remove(number);
                    continue;
                }
            }
        }
        number += 1;
    }
    order.extend(new);
    order
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

fn backends(address: IpAddr, before: &[IpAddr], after: &[IpAddr], operations: &mut Vec<Operation>) {
    for index in 0..before.len().max(after.len()) {
        let (old, new) = (before.get(index), after.get(index));
        if old != new {
            let number = u32::try_from(index).expect("a network has fewer addresses");
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
    use imbl::OrdSet;

    use crate::desired::Services;

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
            assert_eq!(self.addresses.len(), wanted.services.iter().count());
            for (address, service) in wanted.services.iter() {
                let reached: OrdSet<_> =
                    (0..self.addresses[address]).map(|n| self.backends[&(*address, n)]).collect();
                assert_eq!(reached, service.backends);
            }
            let backends: usize = wanted.services.iter().map(|(_, service)| service.backends.len()).sum();
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
            let service = |v6, numbers: BTreeSet<u8>| {
                let backends = numbers.into_iter().map(|number| address(number, v6)).collect();
                Arc::new(Service { backends, ..Service::default() })
            };
            services.into_iter().map(|((n, v6), numbers)| (address(n, v6), service(v6, numbers))).collect()
        }
    }

    prop_compose! {
        fn any_steering()(resolver in any::<bool>(), services in any_services()) -> Steering {
            Steering { resolver, services: std::iter::once(services).collect() }
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
        let service = |numbers: &[u8]| {
            let backends = numbers.iter().map(|number| address(*number, false)).collect();
            Arc::new(Service { backends, ..Service::default() })
        };
        let services = |web: &[u8], db: &[u8]| {
            let all = [(address(1, false), service(web)), (address(2, false), service(db))];
            Steering { resolver: true, services: std::iter::once(Services::from_iter(all)).collect() }
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
