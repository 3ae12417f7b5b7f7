//! Where this node's tunnels end, and whether that still holds.
//!
//! Either the operator has given the address: then it stays, and when no device has it any more, users are told. Or it is
//! the one from which the node reaches its manager: then it follows the machine. A session is of one address; when it is
//! another, the next session tells the managers, they tell the other nodes, and the tunnels move.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use tokio::net::lookup_host;
use tokio::sync::watch;

use super::session::Error;
use crate::network::{Kernel, local_towards, mtu_problem, path_mtu};

/// How soon a change of address is noticed.
const LOOK: Duration = Duration::from_secs(1);
/// Sizes of packets are looked at once in so many looks.
const SIZES: u32 = 10;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Whereabouts {
    /// This node's tunnel end point, once there was a session.
    pub local: Option<IpAddr>,
    /// That it is on no device any more, for users.
    lost: Option<String>,
    /// That packets cannot be as large as they should, for users.
    narrow: Option<String>,
}

impl Whereabouts {
    /// What is wrong there, a line each.
    pub fn problems(&self) -> impl Iterator<Item = &String> {
        self.lost.iter().chain(&self.narrow)
    }
}

pub(crate) struct Finder {
    given: Option<IpAddr>,
    kernel: Arc<dyn Kernel>,
    told: watch::Sender<Whereabouts>,
}

impl Finder {
    pub fn new(given: Option<IpAddr>, kernel: Arc<dyn Kernel>, told: watch::Sender<Whereabouts>) -> Self {
        Self { given, kernel, told }
    }

    /// For a session with the manager at `manager` (`host:port`).
    pub async fn find(&self, manager: &str) -> Result<IpAddr, Error> {
        let local = match self.given {
            Some(given) => given,
            None => local_towards(manager).await.map_err(Error::Route)?,
        };
        self.tell(local, self.narrow(manager, local).await);
        Ok(local)
    }

    /// Ends when the node is found elsewhere than at `local`.
    pub async fn stay(&self, manager: &str, local: IpAddr) -> Result<Infallible, Error> {
        // A name is looked up once, not with every look.
        let manager = lookup_host(manager).await.ok().and_then(|mut found| found.next());
        let Some(manager) = manager.map(|addr| addr.to_string()) else { return std::future::pending().await };
        let manager = manager.as_str();
        let mut narrow = self.told.borrow().narrow.clone();
        for look in 1_u32.. {
            tokio::time::sleep(LOOK).await;
            if self.given.is_none()
                // Without a way to the manager it is not known where the node is.
                && let Ok(now) = local_towards(manager).await
                && now != local
            {
                tracing::info!(from = %local, to = %now, "this node's address has changed");
                return Err(Error::Moved { from: local, to: now });
            }
            if look % SIZES == 0 {
                narrow = self.narrow(manager, local).await;
            }
            self.tell(local, narrow.clone());
        }
        std::future::pending().await
    }

    async fn narrow(&self, manager: &str, local: IpAddr) -> Option<String> {
        let (device, mtu) = self.kernel.underlay(local).await?;
        mtu_problem(local, &device, mtu, manager, path_mtu(manager).await)
    }

    fn tell(&self, local: IpAddr, narrow: Option<String>) {
        let lost = self.given.filter(|given| !is_here(*given)).map(lost);
        let now = Whereabouts { local: Some(local), lost, narrow };
        self.told.send_if_modified(|told| {
            let new = now.problems().filter(|problem| told.problems().all(|known| known != *problem));
            new.for_each(|problem| tracing::warn!("{problem}"));
            let gone = told.problems().filter(|problem| now.problems().all(|left| left != *problem));
            gone.for_each(|problem| tracing::info!("no longer: {problem}"));
            let changed = *told != now;
            *told = now;
            changed
        });
    }
}

/// Whether a device of this machine has the address. Where that cannot be told, it counts as there.
fn is_here(address: IpAddr) -> bool {
    let Ok(all) = getifaddrs() else { return true };
    let mut addresses = all.filter_map(|interface| {
        let storage = interface.address?;
        let v4 = storage.as_sockaddr_in().map(|addr| IpAddr::V4(addr.ip()));
        v4.or_else(|| storage.as_sockaddr_in6().map(|addr| IpAddr::V6(addr.ip())))
    });
    addresses.any(|found| found == address)
}

fn lost(given: IpAddr) -> String {
    format!(
        "no device of this machine has the address {given}, which --data-path-addr or --advertise-addr gave: overlay \
         networks do not work here; give the machine that address again, or leave the swarm and join it anew"
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io;
    use std::net::SocketAddr;
    use std::path::PathBuf;

    use ipnet::IpNet;
    use netdriver::{Desired, ResolverSockets, SandboxKey, Scope};
    use tokio::net::{TcpSocket, UdpSocket};

    use super::*;
    use crate::network::Outcome;

    /// A kernel that knows the device below the overlays, and nothing else.
    struct Flat;

    #[async_trait::async_trait]
    impl Kernel for Flat {
        async fn ensure(&self, _: &Desired, _: Scope) -> Outcome {
            Outcome::default()
        }

        fn sandbox_path(&self, _: &SandboxKey) -> PathBuf {
            PathBuf::new()
        }

        async fn resolver_sockets(&self, _: &SandboxKey) -> io::Result<ResolverSockets> {
            Err(io::ErrorKind::Unsupported.into())
        }

        async fn udp_towards(&self, _: &SandboxKey, _: SocketAddr) -> io::Result<UdpSocket> {
            Err(io::ErrorKind::Unsupported.into())
        }

        async fn tcp_towards(&self, _: &SandboxKey, _: SocketAddr) -> io::Result<TcpSocket> {
            Err(io::ErrorKind::Unsupported.into())
        }

        async fn routes(&self) -> BTreeSet<IpNet> {
            BTreeSet::new()
        }

        async fn underlay(&self, _: IpAddr) -> Option<(String, u32)> {
            Some(("eth0".to_owned(), 1300))
        }
    }

    #[tokio::test]
    async fn a_given_address_that_is_nowhere_is_named_and_kept() {
        let nowhere: IpAddr = "192.0.2.77".parse().unwrap();
        let (told, seen) = watch::channel(Whereabouts::default());
        let finder = Finder::new(Some(nowhere), Arc::new(Flat), told);
        assert_eq!(finder.find("127.0.0.1:2377").await.unwrap(), nowhere);
        let problem = seen.borrow().problems().next().unwrap().clone();
        assert!(problem.contains("192.0.2.77") && problem.contains("--advertise-addr"), "{problem}");
        assert_eq!(seen.borrow().problems().count(), 2, "and packets are small");
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_is_found_elsewhere_begins_a_new_session() {
        let (told, seen) = watch::channel(Whereabouts::default());
        let finder = Finder::new(None, Arc::new(Flat), told);
        let local = finder.find("127.0.0.1:2377").await.unwrap();
        assert_eq!(seen.borrow().local, Some(local));
        let before: IpAddr = "127.9.9.9".parse().unwrap();
        let Err(moved) = finder.stay("127.0.0.1:2377", before).await;
        assert!(matches!(moved, Error::Moved { from, to } if from == before && to == local), "{moved}");
    }
}
