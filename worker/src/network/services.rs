//! Which backends stand behind the virtual addresses of a network.
//!
//! Pure. A backend gets new connections while its task is ready. Afterwards it keeps those that it has until its task
//! has ended, for it may want to finish them; unless its node is down, since then the task is given up and clients are
//! better told at once.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netdriver::{Service, Services};

use super::book::{Book, Endpoint};

pub fn services(book: &Book) -> Services {
    let mut services = Services::new();
    for (id, virtual_ip) in book.virtual_ips() {
        let tasks: Vec<&Endpoint> = book.endpoints_of(id).map(|(_, endpoint)| &**endpoint).collect();
        services.extend(virtual_ip.addresses.iter().map(|address| (*address, service(*address, &tasks))));
    }
    services
}

fn service(address: IpAddr, tasks: &[&Endpoint]) -> Service {
    let addresses_of = |wanted: fn(&Endpoint) -> bool| -> BTreeSet<IpAddr> {
        let addresses = tasks.iter().filter(|task| wanted(task)).flat_map(|task| &task.peer.addresses);
        addresses.filter(|backend| backend.is_ipv4() == address.is_ipv4()).copied().collect()
    };
    Service {
        backends: addresses_of(|task| task.ready),
        leaving: addresses_of(|task| !task.ready && !task.lost),
    }
}

#[cfg(test)]
mod tests {
    use netdriver::{Peer, mac_for};

    use super::super::book::VirtualIp;
    use super::*;

    fn endpoint(host: u8, ready: bool, lost: bool) -> Endpoint {
        let address = IpAddr::from([10, 0, 9, host]);
        let other = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, host.into()]);
        Endpoint {
            peer: Peer {
                mac: mac_for(address),
                addresses: vec![address, other],
                vtep: [192, 0, 2, 1].into(),
            },
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
        let services = services(&book);
        let shown = |address: &str| {
            let Service { backends, leaving } = &services[&address.parse::<IpAddr>().unwrap()];
            let text =
                |addresses: &BTreeSet<IpAddr>| addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
            (text(backends), text(leaving))
        };
        assert_eq!(shown("10.0.9.2"), (vec!["10.0.9.3".to_owned()], vec!["10.0.9.4".to_owned()]));
        assert_eq!(shown("fd00::2"), (vec!["fd00::3".to_owned()], vec!["fd00::4".to_owned()]));
        assert_eq!(services.len(), 2);
    }
}
