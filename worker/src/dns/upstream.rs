//! Who is asked when no network of a task knows a name.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::network::Wish;
use crate::resolv_conf::ResolvConf;

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
                let servers = self.read_file();
                *read = stamp.map(|stamp| (stamp, servers.clone()));
                servers
            }
        }
    }

    fn read_file(&self) -> Arc<[SocketAddr]> {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        let mut servers = ResolvConf::parse(&text).nameservers;
        if servers.is_empty() {
            // What the C library does, resolv.conf(5).
            servers.push(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        servers.into_iter().map(|server| (server, DNS_PORT).into()).collect()
    }
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
}
