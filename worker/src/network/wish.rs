//! What one task needs of the node's network, checked and in plain types.
//!
//! Decides what of the wire's network objects counts here; every refusal names the field.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use netdriver::{NetworkKey, SandboxKey, Subnet, mac_for};
use proto::convert::{Error, Within};
use proto::model::{Network, NetworkId, OVERLAY_DRIVER, TaskId};
use proto::wire;

/// Driver option by which a user sets the MTU of a network, as Docker's drivers have it.
const MTU_OPTION: &str = "com.docker.network.driver.mtu";

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// The networks that the task is attached to, in the order of its interfaces.
    pub places: Vec<Place>,
    /// Who is asked for names that no network knows; none: the node's own servers.
    pub nameservers: Vec<IpAddr>,
}

/// A task's place on one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub network: Arc<OverlayNetwork>,
    pub addresses: Vec<IpNet>,
}

/// What is the same for all tasks on a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayNetwork {
    pub id: NetworkId,
    pub name: String,
    pub vni: u32,
    pub subnets: Vec<Subnet>,
    pub mtu: Option<u16>,
    pub internal: bool,
    pub encrypted: bool,
}

impl Wish {
    /// Reads what an assigned task says.
    pub fn read(task: &wire::Task) -> Result<Self, Error> {
        let numbered = task.networks.iter().enumerate();
        let places = numbered.map(|(i, attachment)| place(attachment).within(&format!("networks[{i}]")));
        let places = places.collect::<Result<Vec<_>, _>>()?;
        let mut seen = std::collections::BTreeSet::new();
        match places.iter().find(|place| !seen.insert(&place.network.id)) {
            Some(twice) => Err(Error::invalid("networks", &twice.network.id, "each network once")),
            None => Ok(Self { places, nameservers: nameservers(task)? }),
        }
    }

    pub fn networks(&self) -> impl Iterator<Item = &NetworkId> {
        self.places.iter().map(|place| &place.network.id)
    }

    /// Tasks reach the world outside, except those on internal networks only.
    pub fn outbound(&self) -> bool {
        self.places.is_empty() || self.places.iter().any(|place| !place.network.internal)
    }

    /// The task's own addresses on its networks.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.places.iter().flat_map(|place| &place.addresses).map(IpNet::addr)
    }

    pub(super) fn sandbox(&self) -> netdriver::Sandbox {
        let attachments = self.places.iter().map(Place::attachment).collect();
        netdriver::Sandbox { attachments, outbound: self.outbound(), resolver: true }
    }
}

impl Place {
    fn attachment(&self) -> netdriver::Attachment {
        // An attachment's MAC follows its IPv4 address if it has one: that is what the directory tells others.
        let first = self.addresses.iter().find(|net| net.addr().is_ipv4()).or(self.addresses.first());
        let addr = first.expect("a place has at least one address, as `place` checks").addr();
        let own = |net: &IpNet| self.addresses.iter().any(|address| net.contains(&address.addr()));
        let subnets = self.network.subnets.iter().map(|subnet| subnet.net);
        netdriver::Attachment {
            network: self.network.key(),
            mac: mac_for(addr),
            addresses: self.addresses.clone(),
            subnets: subnets.filter(|net| !own(net)).collect(),
        }
    }
}

impl OverlayNetwork {
    pub(super) fn key(&self) -> NetworkKey {
        network_key(&self.id)
    }
}

pub(crate) fn network_key(id: &NetworkId) -> NetworkKey {
    NetworkKey::new(id.as_str())
}

pub(crate) fn sandbox_key(task: &TaskId) -> SandboxKey {
    SandboxKey::new(task.as_str())
}

fn nameservers(task: &wire::Task) -> Result<Vec<IpAddr>, Error> {
    let runtime = task.spec.as_ref().and_then(|spec| spec.runtime.as_ref());
    let Some(wire::task_spec::Runtime::Container(container)) = runtime else { return Ok(vec![]) };
    let servers = container.dns_config.iter().flat_map(|config| &config.nameservers);
    let field = "spec.container.dns_config.nameservers";
    servers.map(|text| text.parse().map_err(|_| Error::invalid(field, text, "an IP address"))).collect()
}

fn place(attachment: &wire::NetworkAttachment) -> Result<Place, Error> {
    let network = attachment.network.clone().ok_or_else(|| Error::missing("network"))?;
    let network = overlay(network.try_into().within("network")?).within("network")?;
    let addresses = attachment.addresses.iter().map(|text| {
        text.parse().map_err(|_| Error::invalid("addresses", text, "an IP address with mask length"))
    });
    let addresses = addresses.collect::<Result<Vec<IpNet>, _>>()?;
    if addresses.is_empty() {
        return Err(Error::missing("addresses"));
    }
    Ok(Place { network: Arc::new(network), addresses })
}

fn overlay(network: Network) -> Result<OverlayNetwork, Error> {
    let driver = &network.spec.driver.name;
    if !matches!(driver.as_str(), "" | OVERLAY_DRIVER) {
        return Err(Error::invalid("spec.driver_config.name", driver, "overlay"));
    }
    let encrypted = network.is_encrypted();
    let state = network.state.ok_or_else(|| Error::missing("driver_state"))?;
    if state.vni == 0 {
        return Err(Error::invalid("driver_state.options.vxlanid_list", 0, "1 to 16777215"));
    }
    if state.subnets.is_empty() {
        return Err(Error::missing("ipam.configs"));
    }
    let mtu = state.options.get(MTU_OPTION).or_else(|| network.spec.driver.options.get(MTU_OPTION));
    let mtu = mtu.map(|text| {
        let refuse =
            |_| Error::invalid(format!("driver_state.options.{MTU_OPTION}"), text, "bytes, to 65535");
        text.parse().map_err(refuse)
    });
    Ok(OverlayNetwork {
        id: network.id,
        name: network.spec.annotations.name,
        vni: state.vni,
        subnets: state.subnets.iter().map(|s| Subnet { net: s.net, gateway: s.gateway }).collect(),
        mtu: mtu.transpose()?,
        internal: network.spec.internal,
        encrypted,
    })
}
