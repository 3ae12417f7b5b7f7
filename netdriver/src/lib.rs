//! Everything that touches kernel networking on one node.
//!
//! Declarative: [`Netdriver::ensure`] reads the kernel, plans the difference to a [`Desired`], applies it and reports
//! all errors. Running it twice changes nothing. What is owned is told by its name, so a process killed at any
//! instant leaves nothing that the next `ensure` does not mend or remove. Swarms are not known here.

mod address;
mod apply;
mod capability;
mod check;
mod checksum;
mod desired;
mod driver;
mod ensure;
mod entries;
mod error;
mod esp;
mod ethtool;
mod keyed;
mod link;
mod look;
mod mac;
mod model;
mod name;
mod neigh;
mod netlink;
mod netns;
mod nfnetlink;
mod nft;
mod observe;
mod plan;
mod probe;
mod report;
mod resolver;
mod route;
mod site;
mod steering;
mod sysctl;
mod xfrm;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net};
use netlink_packet_route::RouteNetlinkMessage;
use tokio::sync::{Mutex, Semaphore};

pub use capability::Lacks;
pub use check::Lack;
pub use checksum::Corrupted;
pub use desired::{
    Attachment, Desired, NetworkKey, Overlay, Peer, PeerKey, Peers, RESOLVER_PORT, Sandbox, SandboxKey,
    Scope, Service, Services, Subnet,
};
pub use error::Error;
pub use esp::{Counterpart, Encryption, Handover, Incarnation, Secret};
pub use look::{Far, KeySeen, Keys, Sight, Underlay, View, vxlan_of};
pub use mac::{Mac, mac_for};
pub use model::{DefaultRoute, End, Kind, Link, Namespace, Place, Port, Vxlan, World};
pub use netlink::Refusal;
pub use plan::{Action, Change, LinkChange};
pub use probe::{Connected, Ears, Echoed, Heard, Passage, Probe, Probed, Trail, Tunnel};
pub use report::{Report, Subject};
pub use resolver::ResolverSockets;
pub use steering::Seen as Table;
pub use xfrm::{Association, AssociationId, Policy};

use ensure::{Legs, Shield};
use keyed::{Keyed, NetworkState, SandboxState};
use observe::Look;
use route::Route;
use site::Sites;

#[derive(Debug, Clone)]
pub struct Config {
    /// Where namespaces are kept as bind mounts, `<exec-root>/netns`. Owned whole: made, and mounted on itself.
    pub netns_dir: PathBuf,
    /// Addresses of tasks on the NAT bridge; the bridge has the first.
    pub gateway_subnet: Ipv4Net,
    /// Name of the NAT bridge, at most 15 bytes.
    pub gateway_bridge: String,
    /// The namespace that is the host: where the underlay and the NAT bridge live. `None` is the process's own.
    pub host_netns: Option<PathBuf>,
    /// Whether checksums of packets within tunnels may be left to the device below. Some network cards and hypervisors
    /// get them wrong; without it they are reckoned before, which costs throughput.
    pub vxlan_checksum_offload: bool,
}

impl Config {
    /// The defaults: subnet 172.18.0.0/16 on `swarm_gwbridge`, in the process's own namespace.
    pub fn new(netns_dir: impl Into<PathBuf>) -> Self {
        Self {
            netns_dir: netns_dir.into(),
            gateway_subnet: Ipv4Net::new_assert([172, 18, 0, 0].into(), 16),
            gateway_bridge: "swarm_gwbridge".to_owned(),
            host_netns: None,
            vxlan_checksum_offload: true,
        }
    }
}

/// The kernel networking of one node. Share it behind an `Arc`: all methods may be called at once.
#[derive(Debug)]
pub struct Netdriver {
    config: Config,
    networks: Keyed<NetworkKey, NetworkState>,
    sandboxes: Keyed<SandboxKey, SandboxState>,
    legs: Mutex<Legs>,
    shield: Mutex<Shield>,
    /// Associations that this node has sent with.
    spent: std::sync::Mutex<BTreeSet<AssociationId>>,
    lacks: Lacks,
    turns: Semaphore,
}

impl Netdriver {
    /// Prepares the directory of namespaces and reads what exists. Changes no network.
    pub async fn open(config: Config) -> Result<Self, Error> {
        driver::gateway::validate(&config)?;
        let prepared = netns::prepare(&config.netns_dir);
        prepared.map_err(|cause| Error::file("preparing", &config.netns_dir, cause))?;
        let node = Self {
            config,
            networks: Keyed::default(),
            sandboxes: Keyed::default(),
            legs: Mutex::default(),
            shield: Mutex::default(),
            spent: std::sync::Mutex::default(),
            lacks: capability::probe().await,
            turns: Semaphore::new(site::AT_ONCE),
        };
        node.read_legs().await?;
        Ok(node)
    }

    /// Brings what `scope` covers to what `desired` says.
    ///
    /// Calls may overlap. Each network and each sandbox is worked on by one call at a time; of two calls that cover
    /// the same one with different wishes, the later to start on it wins, so the caller orders those. In particular
    /// [`Scope::All`] removes what its `desired` does not name: nothing may be added by another call between the
    /// moment `desired` was taken and the call's return.
    pub async fn ensure(&self, desired: &Desired, scope: Scope) -> Report {
        let report = ensure::ensure(self, desired, scope).await;
        for action in &report.changes {
            tracing::debug!("{action}");
        }
        report
    }

    /// The namespace of a sandbox, for the OCI spec. It exists once `ensure` has brought the sandbox about.
    pub fn sandbox_path(&self, key: &SandboxKey) -> PathBuf {
        self.config.netns_dir.join(format!("s-{key}"))
    }

    /// What exists of ours, namespace by namespace, for audits; of the host, the gateway's legs. Ends of cables are not
    /// matched.
    pub async fn observe(&self) -> Result<World, Error> {
        let mut sites = self.sites().await;
        let mut world = World::new();
        let mut places = site::list(&self.config.netns_dir)?;
        places.push(Place::Host);
        for place in places {
            let Some(site) = sites.enter(&place).await? else { continue };
            let view =
                observe::read(site, &place, Look::Whole).await.map_err(Error::read(place.to_string()))?;
            sites.leave(&place);
            world.insert(place, view.namespace);
        }
        Ok(world)
    }

    /// Destinations of the host's own routes, and the subnet of the NAT bridge whether it exists or not: what networks
    /// should not be given. Default routes tell nothing.
    pub async fn routes(&self) -> Result<BTreeSet<IpNet>, Error> {
        let mut sites = self.sites().await;
        let mut routes = BTreeSet::from([IpNet::V4(self.config.gateway_subnet.trunc())]);
        let Some(host) = sites.enter(&Place::Host).await? else { return Ok(routes) };
        let dumped = host.netlink.dump(route::dump()).await.map_err(Error::read("the host's routes"))?;
        for message in dumped {
            let RouteNetlinkMessage::NewRoute(message) = message else { continue };
            routes.extend(route::parse(&message).filter(Route::is_telling).map(|route| route.destination));
        }
        Ok(routes)
    }

    /// The host's device that has the address `local`, and the bytes of a packet that it takes.
    pub async fn underlay(&self, local: IpAddr) -> Result<(String, u32), Error> {
        ensure::underlay(&mut self.sites().await, local).await
    }

    /// What this kernel lacks for encrypted networks; empty if it can.
    pub fn lacks_for_encryption(&self) -> &Lacks {
        &self.lacks
    }

    fn can_encrypt(&self) -> Result<(), Error> {
        if self.lacks.is_empty() { Ok(()) } else { Err(Error::CannotEncrypt(self.lacks.clone())) }
    }

    async fn sites(&self) -> Sites<'_> {
        Sites::new(&self.config, &self.turns).await
    }

    /// Gives up the directory of namespaces if none is left in it, so that it can be deleted. For a node that leaves.
    pub fn retire(self) -> Result<(), Error> {
        let dir = &self.config.netns_dir;
        netns::retire(dir).map_err(|cause| Error::file("retiring", dir, cause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Callers run `ensure` in tasks of their own. Checked by the compiler; never called.
    #[allow(dead_code, reason = "only has to compile")]
    fn ensure_may_change_threads(node: &Netdriver, desired: &Desired) {
        fn moves<F: Future + Send>(_: F) {}
        moves(node.ensure(desired, Scope::All));
        moves(node.observe());
    }
}
