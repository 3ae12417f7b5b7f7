//! Which backends stand behind the virtual addresses of a network.
//!
//! Pure. A backend gets new connections while its task is ready. Afterwards it keeps those that it has until its task
//! has ended, for it may want to finish them; unless its node is down, since then the task is given up and clients are
//! better told at once.
//!
//! A change costs as much as there are changed entries, however many services and tasks there are beside them. It counts
//! on what the managers assure: on a network no two have an address.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use netdriver::{Service, Services};
use proto::model::ServiceId;

use super::book::{Book, Endpoint};

/// Brings `services`, which are those of `before`, to those of `now`.
pub fn follow(services: &mut Services, before: &Book, now: &Book) {
    let anew: BTreeSet<&ServiceId> = now.virtual_ips_since(before).collect();
    for address in anew.iter().filter_map(|id| before.virtual_ip(id)).flat_map(|ip| &ip.addresses) {
        services.remove(address);
    }
    for id in &anew {
        let tasks = || now.endpoints_of(id).map(|(_, endpoint)| &**endpoint);
        for address in now.virtual_ip(id).into_iter().flat_map(|ip| &ip.addresses) {
            services.insert(*address, Arc::new(service(*address, tasks())));
        }
    }
    // What one task lost another may have been given.
    let changed = || now.endpoints_since(before);
    for endpoint in changed().filter_map(|(_, old, _)| old) {
        each(services, now, &anew, endpoint, |service, address| {
            service.backends.remove(&address);
            service.leaving.remove(&address);
        });
    }
    for endpoint in changed().filter_map(|(_, _, new)| new) {
        each(services, now, &anew, endpoint, |service, address| add(service, endpoint, address));
    }
}

/// For each address of the endpoint, the services that are to be told of it. Those made `anew` know it.
fn each(
    services: &mut Services,
    now: &Book,
    anew: &BTreeSet<&ServiceId>,
    endpoint: &Endpoint,
    mut tell: impl FnMut(&mut Service, IpAddr),
) {
    let told = Some(&endpoint.service).filter(|id| !anew.contains(id));
    for virtual_address in told.and_then(|id| now.virtual_ip(id)).into_iter().flat_map(|ip| &ip.addresses) {
        let Some(service) = services.get_mut(virtual_address) else { continue };
        for address in endpoint.peer.addresses.iter().filter(|a| a.is_ipv4() == virtual_address.is_ipv4()) {
            tell(Arc::make_mut(service), *address);
        }
    }
}

fn service<'a>(virtual_address: IpAddr, tasks: impl Iterator<Item = &'a Endpoint>) -> Service {
    let mut service = Service::default();
    for task in tasks {
        for address in task.peer.addresses.iter().filter(|a| a.is_ipv4() == virtual_address.is_ipv4()) {
            add(&mut service, task, *address);
        }
    }
    service
}

fn add(service: &mut Service, task: &Endpoint, address: IpAddr) {
    if task.ready {
        service.backends.insert(address);
    } else if !task.lost {
        service.leaving.insert(address);
    }
}

#[cfg(test)]
mod tests {
    use imbl::OrdSet;
    use netdriver::{Peer, mac_for};
    use proptest::prelude::*;

    use super::super::book::VirtualIp;
    use super::*;

    fn endpoint(host: u8, ready: bool, lost: bool) -> Endpoint {
        let address = IpAddr::from([10, 0, 9, host]);
        let other = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, host.into()]);
        Endpoint {
            peer: Arc::new(Peer {
                mac: mac_for(address),
                addresses: vec![address, other],
                vtep: [192, 0, 2, 1].into(),
            }),
            node: "n1".into(),
            service: "s1".into(),
            service_name: "web".into(),
            task_name: format!("web.{host}"),
            aliases: vec![],
            hostname: String::new(),
            ready,
            lost,
        }
    }

    /// Those of a book, from nothing.
    fn of(book: &Book) -> Services {
        let mut services = Services::new();
        follow(&mut services, &Book::default(), book);
        services
    }

    #[test]
    fn who_is_ready_gets_connections_and_who_ends_keeps_those_it_has() {
        let mut book = Book::default();
        let addresses = vec!["10.0.9.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let virtual_ip = VirtualIp { service_name: "web".into(), addresses, aliases: vec![] };
        book.set_virtual_ip("s1".into(), virtual_ip);
        book.set_endpoint("ready".into(), endpoint(3, true, false));
        book.set_endpoint("ending".into(), endpoint(4, false, false));
        book.set_endpoint("lost".into(), endpoint(5, false, true));
        book.set_endpoint("other".into(), Endpoint { service: "s2".into(), ..endpoint(6, true, false) });
        let services = of(&book);
        let shown = |address: &str| {
            let Service { backends, leaving } = &*services[&address.parse::<IpAddr>().unwrap()];
            let text =
                |addresses: &OrdSet<IpAddr>| addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
            (text(backends), text(leaving))
        };
        assert_eq!(shown("10.0.9.2"), (vec!["10.0.9.3".to_owned()], vec!["10.0.9.4".to_owned()]));
        assert_eq!(shown("fd00::2"), (vec!["fd00::3".to_owned()], vec!["fd00::4".to_owned()]));
        assert_eq!(services.len(), 2);
    }

    /// By number of a task: its address, service and state. By number of a service: its address and whether it has one.
    type Entries = (Vec<(u8, u8, u8, bool, bool)>, Vec<(u8, bool)>);

    fn entries() -> impl Strategy<Value = Entries> {
        let task = (0..6u8, 0..3u8, any::<bool>(), any::<bool>());
        let tasks = prop::collection::btree_map(0..6u8, task, 0..6).prop_map(|tasks| {
            let mut taken = BTreeSet::new();
            let tasks = tasks.into_iter().filter(|(_, (host, ..))| taken.insert(*host));
            tasks.map(|(number, (host, service, ready, lost))| (number, host, service, ready, lost)).collect()
        });
        let services = prop::collection::btree_map(0..3u8, any::<bool>(), 0..3);
        (tasks, services.prop_map(|services| services.into_iter().collect()))
    }

    fn bring(book: &mut Book, (tasks, services): &Entries) {
        let known: Vec<_> = book.endpoints().map(|(task, _)| task.clone()).collect();
        known.iter().for_each(|task| book.remove_endpoint(task));
        let known: Vec<_> = book.virtual_ips().map(|(service, _)| service.clone()).collect();
        known.iter().for_each(|service| book.remove_virtual_ip(service));
        for (number, host, service, ready, lost) in tasks {
            let service = format!("s{service}").as_str().into();
            let endpoint = Endpoint { service, ..endpoint(10 + host, *ready, *lost) };
            book.set_endpoint(format!("t{number}").as_str().into(), endpoint);
        }
        for (number, both) in services {
            let v6 = both.then(|| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 1, (*number).into()]));
            let addresses = std::iter::once([10, 0, 9, 100 + number].into()).chain(v6).collect();
            let virtual_ip = VirtualIp { service_name: "web".into(), addresses, aliases: vec![] };
            book.set_virtual_ip(format!("s{number}").as_str().into(), virtual_ip);
        }
    }

    proptest! {
        #[test]
        fn following_is_making_anew(history in prop::collection::vec(entries(), 1..8)) {
            let (mut book, mut services) = (Book::default(), Services::new());
            for entries in &history {
                let before = book.clone();
                bring(&mut book, entries);
                follow(&mut services, &before, &book);
                prop_assert_eq!(&services, &of(&book));
            }
        }
    }
}
