//! What namespaces hold, as far as this driver decides about it. The same words describe what is wanted and what was
//! found, so one planner compares them.
//!
//! Drivers state what they want here (`driver`), `observe` reads the kernel into it, `plan` compares, `apply` acts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use crate::desired::{NetworkKey, SandboxKey};
use crate::mac::Mac;

/// A namespace. The order is the order in which they are built: a cable's sandbox end comes last.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    Host,
    Network(NetworkKey),
    Sandbox(SandboxKey),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Network(key) => write!(f, "network {key}"),
            Self::Sandbox(key) => write!(f, "sandbox {key}"),
        }
    }
}

/// Several namespaces, each whole or in part.
pub type World = BTreeMap<Place, Namespace>;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespace {
    pub links: BTreeMap<String, Link>,
    pub default_route: Option<DefaultRoute>,
    /// Script of the gateway's nftables table.
    pub rules: Option<String>,
    /// Whether IPv4 is forwarded between devices. `None`: not decided, not looked at.
    pub forwarding: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultRoute {
    pub via: Ipv4Addr,
    pub link: String,
}

/// A device. Where it is wanted, `None` leaves an attribute to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub kind: Kind,
    pub mac: Option<Mac>,
    pub mtu: Option<u32>,
    pub alias: Option<String>,
    /// Name of the bridge of which this is a port.
    pub master: Option<String>,
    pub port: Option<Port>,
    /// Makes up no IPv6 addresses of its own (so neither multicast listener reports nor duplicate detection).
    pub quiet: bool,
    pub up: bool,
    pub addresses: BTreeSet<IpNet>,
    /// Destinations that are reached over this device without a gateway. In sandboxes only; those that follow from
    /// addresses are found too.
    pub routes: BTreeSet<IpNet>,
    /// Static entries of the bridge's forwarding table for this port.
    pub stations: BTreeSet<Mac>,
    /// Forwarding table of a VXLAN device: the VTEP behind which a MAC is.
    pub tunnels: BTreeMap<Mac, IpAddr>,
    /// Permanent neighbours.
    pub neighbours: BTreeMap<IpAddr, Mac>,
    /// Of a VXLAN device: checksums of what it sends are left to the device below. `None`: not decided, not looked at.
    pub offload: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Loopback,
    Bridge,
    Vxlan(Vxlan),
    /// One end of a cable. `None`: the other end is not the one that is wanted.
    Veth(Option<End>),
    Other(String),
}

/// Immutable attributes of a VXLAN device; another set is another device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vxlan {
    pub vni: u32,
    pub port: u16,
    pub local: Option<IpAddr>,
    pub learning: bool,
    pub proxy: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct End {
    pub place: Place,
    pub name: String,
}

/// How a bridge treats one of its ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    pub learning: bool,
    /// Gets unicast frames whose destination the bridge does not know.
    pub flood: bool,
    /// Cannot reach other isolated ports.
    pub isolated: bool,
}

impl Port {
    /// As the kernel makes them.
    pub const FRESH: Self = Self { learning: true, flood: true, isolated: false };
}

impl Link {
    /// A device that is down and has nothing on it.
    pub fn bare(kind: Kind) -> Self {
        Self {
            kind,
            mac: None,
            mtu: None,
            alias: None,
            master: None,
            port: None,
            quiet: false,
            up: false,
            addresses: BTreeSet::new(),
            routes: BTreeSet::new(),
            stations: BTreeSet::new(),
            tunnels: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            offload: None,
        }
    }

    /// What the kernel has right after creating `wanted` in `place`.
    ///
    /// Our own namespaces are made with IPv6 address generation off by default, the host's is not ours.
    pub fn fresh(wanted: &Self, place: &Place) -> Self {
        Self {
            mac: wanted.mac,
            mtu: wanted.mtu,
            master: wanted.master.clone(),
            port: wanted.master.as_ref().map(|_| Port::FRESH),
            quiet: *place != Place::Host,
            offload: matches!(wanted.kind, Kind::Vxlan(_)).then_some(true),
            ..Self::bare(wanted.kind.clone())
        }
    }

    pub fn far_end(&self) -> Option<&End> {
        match &self.kind {
            Kind::Veth(end) => end.as_ref(),
            _ => None,
        }
    }
}
