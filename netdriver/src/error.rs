//! The one error of this crate: what was being done, to what, and the kernel's own words for why it failed.
//!
//! The cause is part of each message, not a source, so that printing an error gives the whole line.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::Ipv4Net;

use crate::capability::Lacks;
use crate::desired::{NetworkKey, PeerKey, SandboxKey};
use crate::netlink::Refusal;
use crate::plan::Action;
use crate::xfrm::AssociationId;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{field} \"{value}\": {allowed}")]
    Invalid { field: &'static str, value: String, allowed: &'static str },

    #[error(
        "VXLAN network identifier {vni} is in use by another VXLAN device of this host on UDP port {port}"
    )]
    VniTaken { vni: u32, port: u16 },

    #[error("UDP port {port} is in use by another program of this host; VXLAN needs it")]
    PortTaken { port: u16 },

    #[error(
        "the device name {name} is in use by a device of this host that is not swarmd's; rename or delete it"
    )]
    NameTaken { name: String },

    #[error("no device of this host has the address {local}, which is to be its VXLAN tunnel endpoint")]
    NoUnderlay { local: IpAddr },

    #[error(
        "peer {peer} is left out: its tunnel end {vtep} is not of the address family of {local}, this host's"
    )]
    ForeignTunnel { peer: PeerKey, vtep: IpAddr, local: IpAddr },

    #[error("attached to network {0}, which is not among the desired networks")]
    UnknownNetwork(NetworkKey),

    #[error("network {network}: {cause}")]
    Network { network: NetworkKey, cause: String },

    #[error("no address is free in {subnet}, the subnet of the gateway bridge")]
    GatewayFull { subnet: Ipv4Net },

    #[error("{action}: {cause}")]
    Action { action: Box<Action>, cause: Refusal },

    #[error("reading {what}: {cause}")]
    Read { what: String, cause: Refusal },

    #[error("{doing} {path}: {cause}", path = path.display())]
    File { doing: &'static str, path: PathBuf, cause: io::Error },

    #[error("steering packets of sandbox {sandbox}: {cause}")]
    Steering { sandbox: SandboxKey, cause: Refusal },

    #[error("nft: {0}")]
    Nft(String),

    #[error("the network is encrypted, and this node's kernel lacks what that needs: {0}")]
    CannotEncrypt(Lacks),

    #[error(
        "the security parameter index 0x{spi:08x} is in use by another network: another incarnation is needed"
    )]
    SpiTaken { spi: u32 },

    #[error("the {id} is gone, and its keys must not be used again: another incarnation is needed")]
    Spent { id: AssociationId },
}

impl Error {
    pub(crate) fn file(doing: &'static str, path: impl Into<PathBuf>, cause: impl Into<io::Error>) -> Self {
        Self::File { doing, path: path.into(), cause: cause.into() }
    }

    pub(crate) fn read(what: impl Into<String>) -> impl FnOnce(Refusal) -> Self {
        move |cause| Self::Read { what: what.into(), cause }
    }

    /// Whether it takes another [`Incarnation`](crate::Incarnation) to go on.
    pub fn needs_incarnation(&self) -> bool {
        matches!(self, Self::SpiTaken { .. } | Self::Spent { .. })
    }

    /// Whether the same call may succeed later although the desired state stays as it is.
    pub fn is_retryable(&self) -> bool {
        let hopeless = matches!(
            self,
            Self::Invalid { .. }
                | Self::UnknownNetwork(_)
                | Self::ForeignTunnel { .. }
                | Self::CannotEncrypt(_)
        );
        !hopeless
    }
}
