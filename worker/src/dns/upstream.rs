//! Who is asked when no network of a task knows a name.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use nix::net::if_::if_nametoindex;

use crate::network::Wish;
use crate::resolv_conf::{Nameserver, ResolvConf};

const DNS_PORT: u16 = 53;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstream {
    /// The task's networks are all there is.
    Nobody,
    /// The node's servers, from where the node is.
    Node,
    /// Those that the task names, from where the task is.
    Task(Vec<SocketAddr>),
}

impl Upstream {
    pub fn of(wish: &Wish) -> Self {
        match &wish.nameservers[..] {
            [] if wish.outbound() => Self::Node,
            [] => Self::Nobody,
            named => Self::Task(named.iter().map(|server| (*server, DNS_PORT).into()).collect()),
        }
    }
}

/// The node's own name servers, as its `/etc/resolv.conf` has them at the moment.
#[derive(Debug)]
pub struct NodeServers {
    path: PathBuf,
    read: Mutex<Option<(Stamp, Arc<[SocketAddr]>)>>,
}

/// By which a changed file is told.
type Stamp = (SystemTime, u64);

impl NodeServers {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), read: Mutex::default() }
    }

    pub fn get(&self) -> Arc<[SocketAddr]> {
        let stamp = fs::metadata(&self.path).and_then(|meta| Ok((meta.modified()?, meta.len()))).ok();
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*read, stamp) {
            (Some((known, servers)), Some(stamp)) if *known == stamp => servers.clone(),
            (_, stamp) => {
                let named = self.read_file();
                let servers: Arc<[SocketAddr]> = named.iter().filter_map(socket_address).collect();
                // A device comes and goes without the file.
                let lasts = named.iter().all(|server| server.zone.is_none());
                *read = stamp.filter(|_| lasts).map(|stamp| (stamp, servers.clone()));
                servers
            }
        }
    }

    fn read_file(&self) -> Vec<Nameserver> {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        let mut servers = ResolvConf::parse(&text).nameservers;
        if servers.is_empty() {
            // What the C library does, resolv.conf(5).
            servers.push(IpAddr::V4(Ipv4Addr::LOCALHOST).into());
        }
        servers
    }
}

/// None if its device is not there.
fn socket_address(server: &Nameserver) -> Option<SocketAddr> {
    let (IpAddr::V6(address), Some(zone)) = (server.address, &server.zone) else {
        return Some((server.address, DNS_PORT).into());
    };
    let index = zone.parse().or_else(|_| if_nametoindex(zone.as_str())).ok()?;
    Some(SocketAddrV6::new(address, DNS_PORT, 0, index).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_servers_are_read_again_when_they_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let servers = NodeServers::new(&path);
        let local: SocketAddr = "127.0.0.1:53".parse().unwrap();
        assert_eq!(*servers.get(), [local]);
        fs::write(&path, "nameserver 192.0.2.1\nnameserver fd00::1\n").unwrap();
        let two = ["192.0.2.1:53", "[fd00::1]:53"].map(|text| text.parse().unwrap());
        assert_eq!(*servers.get(), two);
        assert!(Arc::ptr_eq(&servers.get(), &servers.get()), "it was read although it had not changed");
        fs::write(&path, "search x\n").unwrap();
        assert_eq!(*servers.get(), [local]);
    }

    #[test]
    fn a_link_local_server_is_asked_on_its_link() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        fs::write(&path, "nameserver fe80::1%none\nnameserver fe80::1%lo\nnameserver fe80::2%7\n").unwrap();
        let servers = NodeServers::new(&path).get();
        // The loopback device is the first of every namespace.
        let expected = [("fe80::1", 1), ("fe80::2", 7)]
            .map(|(text, index)| SocketAddrV6::new(text.parse().unwrap(), 53, 0, index).into());
        assert_eq!(*servers, expected);
    }
}
