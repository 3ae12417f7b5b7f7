//! The steps a plan consists of, and how they read in a report.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::mac::Mac;
use crate::model::{DefaultRoute, Link, Place, Port};
use crate::xfrm::{Association, AssociationId, Policy};

/// One change to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    pub place: Place,
    pub change: Change,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    CreateNamespace,
    RemoveNamespace,
    Link {
        name: String,
        change: LinkChange,
    },
    EnableForwarding,
    SetRules(String),
    RemoveRules,
    AddDefaultRoute(DefaultRoute),
    /// Brings the table of service addresses and resolver about, by so many operations in one transaction.
    Steer(usize),
    /// Forgets so many connections to backends that are gone.
    ForgetFlows(usize),
    AddAssociation(Association),
    RemoveAssociation(AssociationId),
    /// Also replaces.
    PutPolicy(Policy),
    RemovePolicy(Policy),
    /// Networks whose packets must be encrypted; none: the table goes.
    SetShield(BTreeMap<u32, u16>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkChange {
    Delete,
    /// Makes the device with its kind, MAC, MTU and master; for a cable also its far end, with MAC and MTU.
    Create {
        link: Box<Link>,
        far: Option<Box<Link>>,
    },
    SetMaster(String),
    SetMac(Mac),
    SetMtu(u32),
    SetAlias(String),
    SetPort(Port),
    /// Of a VXLAN device: whether checksums of what it sends are left to the device below.
    SetOffload(bool),
    Quieten,
    AddAddress(IpNet),
    RemoveAddress(IpNet),
    AddStation(Mac),
    RemoveStation(Mac),
    /// Also replaces.
    PutTunnel(Mac, IpAddr),
    RemoveTunnel(Mac, IpAddr),
    /// Also replaces.
    PutNeighbour(IpAddr, Mac),
    RemoveNeighbour(IpAddr),
    Up,
    /// Reaches the destination over the device, which is up, without a gateway.
    AddRoute(IpNet),
}

impl Action {
    pub(crate) fn new(place: &Place, change: Change) -> Self {
        Self { place: place.clone(), change }
    }

    pub(crate) fn link(place: &Place, name: &str, change: LinkChange) -> Self {
        Self::new(place, Change::Link { name: name.to_owned(), change })
    }

    /// Entries of the forwarding and neighbour tables, which depend on nothing but their device.
    pub(crate) fn is_entry(&self) -> bool {
        use LinkChange::{PutNeighbour, PutTunnel, RemoveNeighbour, RemoveTunnel};
        let Change::Link { change, .. } = &self.change else { return false };
        matches!(change, PutTunnel(..) | RemoveTunnel(..) | PutNeighbour(..) | RemoveNeighbour(..))
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        match &self.change {
            Change::CreateNamespace => f.write_str("create namespace"),
            Change::RemoveNamespace => f.write_str("remove namespace"),
            Change::Link { name, change } => write!(f, "{name}: {change}"),
            Change::EnableForwarding => f.write_str("enable IPv4 forwarding"),
            Change::SetRules(_) => f.write_str("set nftables table"),
            Change::RemoveRules => f.write_str("remove nftables table"),
            Change::AddDefaultRoute(route) => write!(f, "default route via {} dev {}", route.via, route.link),
            Change::Steer(count) => write!(f, "steer packets: {count} operations"),
            Change::ForgetFlows(count) => write!(f, "forget {count} connections to backends that are gone"),
            Change::AddAssociation(association) => {
                write!(f, "add {} from {}, VNI {}", association.id, association.source, association.vni)
            }
            Change::RemoveAssociation(id) => write!(f, "remove {id}"),
            Change::PutPolicy(policy) => write!(f, "send {policy}"),
            Change::RemovePolicy(policy) => write!(f, "no longer send {policy}"),
            Change::SetShield(networks) => {
                write!(f, "let only encrypted packets pass of {} networks", networks.len())
            }
        }
    }
}

impl fmt::Display for LinkChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delete => f.write_str("delete"),
            Self::Create { .. } => f.write_str("create"),
            Self::SetMaster(master) => write!(f, "make it a port of {master}"),
            Self::SetMac(mac) => write!(f, "set MAC {mac}"),
            Self::SetMtu(mtu) => write!(f, "set MTU {mtu}"),
            Self::SetAlias(alias) => write!(f, "set alias {alias}"),
            Self::SetPort(port) => write!(
                f,
                "set port: learning {}, flood {}, isolated {}",
                port.learning, port.flood, port.isolated
            ),
            Self::SetOffload(on) => write!(f, "set checksum offload {on}"),
            Self::Quieten => f.write_str("generate no IPv6 addresses"),
            Self::AddAddress(address) => write!(f, "add address {address}"),
            Self::RemoveAddress(address) => write!(f, "remove address {address}"),
            Self::AddStation(mac) => write!(f, "add static entry {mac}"),
            Self::RemoveStation(mac) => write!(f, "remove static entry {mac}"),
            Self::PutTunnel(mac, vtep) => write!(f, "put {mac} behind {vtep}"),
            Self::RemoveTunnel(mac, vtep) => write!(f, "remove {mac} behind {vtep}"),
            Self::PutNeighbour(address, mac) => write!(f, "put neighbour {address} at {mac}"),
            Self::RemoveNeighbour(address) => write!(f, "remove neighbour {address}"),
            Self::Up => f.write_str("up"),
            Self::AddRoute(destination) => write!(f, "add route {destination}"),
        }
    }
}
