//! What the caller wants to exist in the kernel of one node: plain types, no swarm words.
//!
//! A `Desired` is the whole truth about the node. What is absent from it and owned by this driver is removed as
//! soon as a scope covers it. Keys become file names and, hashed, device names, so they must be stable.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;

use crate::esp::Encryption;
use crate::mac::Mac;

macro_rules! key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn new(key: impl AsRef<str>) -> Self {
                Self(key.as_ref().into())
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl<S: AsRef<str>> From<S> for $name {
            fn from(key: S) -> Self {
                Self::new(key)
            }
        }
    };
}

key! {
    /// Names a network on this node: 1 to 64 characters of `a-z A-Z 0-9 . _ -`, not starting with a dot.
    NetworkKey
}
key! {
    /// Names the network namespace of one task; the same alphabet as [`NetworkKey`].
    SandboxKey
}
key! {
    /// Names a remote endpoint within one network; any string.
    PeerKey
}

/// Everything that is to exist on the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    pub networks: BTreeMap<NetworkKey, Overlay>,
    pub sandboxes: BTreeMap<SandboxKey, Sandbox>,
}

/// One VXLAN network (RFC 7348) as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// VXLAN network identifier, 1 to 2^24 - 1 (RFC 7348 section 5).
    pub vni: u32,
    /// UDP port of the tunnel, the same on every node; IANA assigned 4789.
    pub port: u16,
    /// This node's own VTEP. It must be an address of a device in the host's namespace.
    pub local: IpAddr,
    pub subnets: Vec<Subnet>,
    /// Bytes of an inner IP packet; `None` derives it from the device that holds `local`, less 50 (IPv4 underlay)
    /// or 70 (IPv6 underlay), and less what
    /// ESP adds on an encrypted network.
    pub mtu: Option<u16>,
    /// An internal network has no gateway: the gateways' addresses are answered by nobody.
    pub internal: bool,
    /// `None`: in cleartext.
    pub encryption: Option<Encryption>,
    /// Endpoints on other nodes. Those whose VTEP is `local` are this node's own and are passed over.
    pub peers: Peers,
    /// Balanced in each sandbox that is attached.
    pub services: Services,
}

/// Persistent, like [`Services`]: the driver remembers what it has told the kernel, and two versions of one set are
/// compared in the time that their difference takes.
pub type Peers = OrdMap<PeerKey, Arc<Peer>>;

/// By virtual address: one of a subnet of the network that no device has.
pub type Services = OrdMap<IpAddr, Arc<Service>>;

/// What stands behind a virtual address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Service {
    /// Get new connections, each as many as any other. Of the family of the virtual address. With none of them,
    /// connections are refused.
    pub backends: OrdSet<IpAddr>,
    /// Get no new connection and keep those that they have. Connections to anybody else are forgotten, so that their
    /// next packet goes to a backend.
    pub leaving: OrdSet<IpAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    pub net: IpNet,
    /// Held by the bridge of every node, so it is always answered locally.
    pub gateway: IpAddr,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub mac: Mac,
    pub addresses: Vec<IpAddr>,
    pub vtep: IpAddr,
}

/// The network namespace of one task.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sandbox {
    /// In order: the first becomes `eth0`, the next `eth1`, …; at most one for each network.
    pub attachments: Vec<Attachment>,
    /// Adds a last interface on the node's NAT bridge, and the default route (IPv4) through it.
    pub outbound: bool,
    /// Leads 127.0.0.11:53 (UDP and TCP) to [`RESOLVER_PORT`] of the same address.
    pub resolver: bool,
}

/// Where a resolver has to listen on 127.0.0.11 of a sandbox. Fixed, since rules outlive the process that answers;
/// outside of the ports that Linux gives to clients, so that no application comes to have it.
pub const RESOLVER_PORT: u16 = 61053;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    pub network: NetworkKey,
    pub mac: Mac,
    /// Addresses with the prefix length of their subnet.
    pub addresses: Vec<IpNet>,
    /// Other subnets of the network: reached directly, as they are on the same wire.
    pub subnets: Vec<IpNet>,
}

/// How much of the node one [`ensure`](crate::Netdriver::ensure) looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// The whole node; also removes everything owned that nobody wants.
    All,
    /// The named parts. A named key that is not desired is removed. A sandbox brings the networks it is attached to:
    /// they are made when they are missing and not looked at any further when they exist. A network brings its
    /// services into the sandboxes that are attached to it and exist.
    Only { networks: BTreeSet<NetworkKey>, sandboxes: BTreeSet<SandboxKey> },
}

impl Scope {
    pub fn network(key: impl Into<NetworkKey>) -> Self {
        Self::Only { networks: BTreeSet::from([key.into()]), sandboxes: BTreeSet::new() }
    }

    pub fn sandbox(key: impl Into<SandboxKey>) -> Self {
        Self::Only { networks: BTreeSet::new(), sandboxes: BTreeSet::from([key.into()]) }
    }
}
