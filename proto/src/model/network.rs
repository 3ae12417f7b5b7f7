//! Overlay networks.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Annotations, Driver, Meta, NetworkId};

/// The driver that networks have unless another is named.
pub const OVERLAY_DRIVER: &str = "overlay";

/// The driver of networks that hold nothing but settings for others (`--config-only`), as Docker shows it.
pub const CONFIG_ONLY_DRIVER: &str = "null";

/// Driver option that carries the VXLAN network identifier, as Docker's overlay driver has it.
pub const VXLAN_ID_LIST: &str = "com.docker.network.driver.overlay.vxlanid_list";

/// Driver option for networks whose packets are encrypted between nodes. Docker takes the bare option for yes.
pub const ENCRYPTED: &str = "encrypted";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    pub id: NetworkId,
    pub meta: Meta,
    pub spec: NetworkSpec,
    /// What the allocator gave it; none before.
    pub state: Option<NetworkState>,
    /// To be removed once no task needs it.
    pub pending_delete: bool,
}

impl Network {
    pub fn name(&self) -> &str {
        &self.spec.annotations.name
    }

    pub fn is_encrypted(&self) -> bool {
        self.spec.driver.options.get(ENCRYPTED).is_some_and(|value| value != "false" && value != "0")
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkSpec {
    pub annotations: Annotations,
    pub driver: Driver,
    pub ipv6: bool,
    /// No way out of the network.
    pub internal: bool,
    /// Containers that are no tasks may be attached to it.
    pub attachable: bool,
    /// None of a family: the allocator chooses a subnet.
    pub ipam: Vec<IpamConfig>,
    /// Name of the network whose settings these are; none: its own.
    pub config_from: Option<String>,
}

impl NetworkSpec {
    /// Holds settings for other networks: nothing is allocated for it and nobody can be attached to it.
    pub fn is_config_only(&self) -> bool {
        self.driver.name == CONFIG_ONLY_DRIVER
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpamConfig {
    pub subnet: IpNet,
    /// Part of the subnet from which addresses are given out; none: all of it.
    pub range: Option<IpNet>,
    pub gateway: Option<IpAddr>,
    /// Addresses that are not given out, by name.
    pub reserved: BTreeMap<String, IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkState {
    /// VXLAN network identifier, 24 bits (RFC 7348); unique in the swarm.
    pub vni: u32,
    pub subnets: Vec<Subnet>,
    /// Options that nodes need beside the identifier.
    pub options: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    pub net: IpNet,
    pub range: Option<IpNet>,
    pub gateway: IpAddr,
    pub reserved: BTreeMap<String, IpAddr>,
}
