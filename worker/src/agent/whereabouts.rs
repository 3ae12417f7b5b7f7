//! Where this node's tunnels end, and whether that still holds.
//!
//! Either the operator has given the address: then it stays, and when no device has it any more, users are told. Or it is
//! the one from which the node reaches its manager: then it follows the machine. A session is of one address; when it is
//! another, the next session tells the managers, they tell the other nodes, and the tunnels move.

use std::convert::Infallible;
use std::net::IpAddr;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use tokio::sync::watch;

use super::session::Error;
use crate::network::local_towards;

/// How soon a change is noticed.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Whereabouts {
    /// This node's tunnel end point, once there was a session.
    pub local: Option<IpAddr>,
    /// What is wrong with it, in one line.
    pub problem: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Finder {
    given: Option<IpAddr>,
    told: watch::Sender<Whereabouts>,
}

impl Finder {
    pub fn new(given: Option<IpAddr>, told: watch::Sender<Whereabouts>) -> Self {
        Self { given, told }
    }

    /// For a session with the manager at `manager` (`host:port`).
    pub async fn find(&self, manager: &str) -> Result<IpAddr, Error> {
        let local = match self.given {
            Some(given) => given,
            None => local_towards(manager).await.map_err(Error::Route)?,
        };
        self.tell(local);
        Ok(local)
    }

    /// Ends when the node is found elsewhere than at `local`.
    pub async fn stay(&self, manager: &str, local: IpAddr) -> Result<Infallible, Error> {
        loop {
            tokio::time::sleep(LOOK).await;
            if self.given.is_none()
                // Without a way to the manager it is not known where the node is.
                && let Ok(now) = local_towards(manager).await
                && now != local
            {
                tracing::info!(from = %local, to = %now, "this node's address has changed");
                return Err(Error::Moved { from: local, to: now });
            }
            self.tell(local);
        }
    }

    fn tell(&self, local: IpAddr) {
        let problem = self.given.filter(|given| !is_here(*given)).map(lost);
        let now = Whereabouts { local: Some(local), problem };
        self.told.send_if_modified(|told| {
            if told.problem != now.problem {
                match &now.problem {
                    Some(problem) => tracing::error!("{problem}"),
                    None => {
                        tracing::info!(address = %local, "the address of this node's tunnels is there again");
                    }
                }
            }
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
    use super::*;

    #[tokio::test]
    async fn a_given_address_that_is_nowhere_is_named_and_kept() {
        let nowhere: IpAddr = "192.0.2.77".parse().unwrap();
        let (told, seen) = watch::channel(Whereabouts::default());
        let finder = Finder::new(Some(nowhere), told);
        assert_eq!(finder.find("127.0.0.1:2377").await.unwrap(), nowhere);
        let problem = seen.borrow().problem.clone().unwrap();
        assert!(problem.contains("192.0.2.77") && problem.contains("--advertise-addr"), "{problem}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_is_found_elsewhere_begins_a_new_session() {
        let (told, seen) = watch::channel(Whereabouts::default());
        let finder = Finder::new(None, told);
        let local = finder.find("127.0.0.1:2377").await.unwrap();
        assert_eq!(*seen.borrow(), Whereabouts { local: Some(local), problem: None });
        let before: IpAddr = "127.9.9.9".parse().unwrap();
        let Err(moved) = finder.stay("127.0.0.1:2377", before).await;
        assert!(matches!(moved, Error::Moved { from, to } if from == before && to == local), "{moved}");
    }
}
