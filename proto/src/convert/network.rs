//! Networks.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::enums::enum_in;
use super::scalar::{
    annotations_in, annotations_out, each, id, meta_in, meta_out, parse, parse_optional, required,
};
use super::{Error, Within};
use crate::model::{IpamConfig, Network, NetworkSpec, NetworkState, Subnet, VXLAN_ID_LIST};
use crate::wire::{self, ipam_config::AddressFamily};

/// Largest VXLAN network identifier: 24 bits (RFC 7348, section 5).
const VNI_MAX: u32 = (1 << 24) - 1;

impl TryFrom<wire::Network> for Network {
    type Error = Error;

    fn try_from(network: wire::Network) -> Result<Self, Error> {
        Ok(Self {
            id: id("id", network.id)?,
            meta: meta_in(network.meta)?,
            spec: required("spec", network.spec)?.try_into().within("spec")?,
            state: network.driver_state.map(|driver| state_in(driver, network.ipam)).transpose()?,
            pending_delete: network.pending_delete,
        })
    }
}

impl From<&Network> for wire::Network {
    fn from(network: &Network) -> Self {
        Self {
            id: network.id.to_string(),
            meta: meta_out(&network.meta),
            spec: Some((&network.spec).into()),
            driver_state: network.state.as_ref().map(|state| driver_out(&network.spec.driver.name, state)),
            ipam: network
                .state
                .as_ref()
                .map(|state| ipam_out(state.subnets.iter().map(Into::into).collect())),
            pending_delete: network.pending_delete,
        }
    }
}

impl TryFrom<wire::NetworkSpec> for NetworkSpec {
    type Error = Error;

    fn try_from(spec: wire::NetworkSpec) -> Result<Self, Error> {
        if spec.ingress {
            return Err(Error::unsupported("ingress", "ingress networks"));
        }
        Ok(Self {
            annotations: annotations_in(spec.annotations),
            driver: spec.driver_config.unwrap_or_default().into(),
            ipv6: spec.ipv6_enabled,
            internal: spec.internal,
            attachable: spec.attachable,
            ipam: configs_in(spec.ipam).within("ipam")?,
            config_from: spec.config_from.map(|wire::network_spec::ConfigFrom::Network(name)| name),
        })
    }
}

impl From<&NetworkSpec> for wire::NetworkSpec {
    fn from(spec: &NetworkSpec) -> Self {
        Self {
            annotations: annotations_out(&spec.annotations),
            driver_config: Some((&spec.driver).into()),
            ipv6_enabled: spec.ipv6,
            internal: spec.internal,
            ipam: Some(ipam_out(spec.ipam.iter().map(Into::into).collect())),
            attachable: spec.attachable,
            config_from: spec.config_from.clone().map(wire::network_spec::ConfigFrom::Network),
            ..Default::default()
        }
    }
}

fn configs_in(ipam: Option<wire::IpamOptions>) -> Result<Vec<IpamConfig>, Error> {
    let ipam = ipam.unwrap_or_default();
    let driver = ipam.driver.unwrap_or_default();
    if !matches!(driver.name.as_str(), "" | "default") {
        return Err(Error::unsupported("driver.name", "address drivers other than \"default\""));
    }
    if !driver.options.is_empty() {
        return Err(Error::unsupported("driver.options", "options of the address driver"));
    }
    each("configs", ipam.configs, IpamConfig::try_from)
}

fn ipam_out(configs: Vec<wire::IpamConfig>) -> wire::IpamOptions {
    let driver = wire::Driver { name: "default".into(), ..Default::default() };
    wire::IpamOptions { driver: Some(driver), configs }
}

impl TryFrom<wire::IpamConfig> for IpamConfig {
    type Error = Error;

    fn try_from(config: wire::IpamConfig) -> Result<Self, Error> {
        let subnet: IpNet = parse("subnet", &config.subnet, "a subnet such as 10.0.9.0/24")?;
        let family = enum_in::<AddressFamily, AddressFamily>("family", config.family)?;
        if family != AddressFamily::Unknown && family != family_of(&subnet) {
            return Err(Error::invalid("family", config.family, "that of the subnet, or none"));
        }
        Ok(Self {
            subnet,
            range: parse_optional("range", &config.range, "a subnet such as 10.0.9.128/25")?,
            gateway: parse_optional("gateway", &config.gateway, "an IP address")?,
            reserved: reserved_in(config.reserved)?,
        })
    }
}

impl From<&IpamConfig> for wire::IpamConfig {
    fn from(config: &IpamConfig) -> Self {
        let gateway = config.gateway.as_ref().map(ToString::to_string);
        config_out(&config.subnet, config.range.as_ref(), gateway, &config.reserved)
    }
}

impl TryFrom<wire::IpamConfig> for Subnet {
    type Error = Error;

    fn try_from(config: wire::IpamConfig) -> Result<Self, Error> {
        let IpamConfig { subnet, range, gateway, reserved } = config.try_into()?;
        Ok(Self { net: subnet, range, gateway: required("gateway", gateway)?, reserved })
    }
}

impl From<&Subnet> for wire::IpamConfig {
    fn from(subnet: &Subnet) -> Self {
        let gateway = Some(subnet.gateway.to_string());
        config_out(&subnet.net, subnet.range.as_ref(), gateway, &subnet.reserved)
    }
}

fn config_out(
    subnet: &IpNet,
    range: Option<&IpNet>,
    gateway: Option<String>,
    reserved: &BTreeMap<String, IpAddr>,
) -> wire::IpamConfig {
    wire::IpamConfig {
        family: family_of(subnet).into(),
        subnet: subnet.to_string(),
        range: range.map(ToString::to_string).unwrap_or_default(),
        gateway: gateway.unwrap_or_default(),
        reserved: reserved.iter().map(|(name, addr)| (name.clone(), addr.to_string())).collect(),
    }
}

fn family_of(subnet: &IpNet) -> AddressFamily {
    if subnet.addr().is_ipv4() { AddressFamily::Ipv4 } else { AddressFamily::Ipv6 }
}

fn reserved_in(reserved: BTreeMap<String, String>) -> Result<BTreeMap<String, IpAddr>, Error> {
    let read = |(name, addr): (String, String)| {
        let addr = parse(&name, &addr, "an IP address").within("reserved")?;
        Ok((name, addr))
    };
    reserved.into_iter().map(read).collect()
}

fn state_in(driver: wire::Driver, ipam: Option<wire::IpamOptions>) -> Result<NetworkState, Error> {
    const FIELD: &str = "driver_state.options.vxlanid_list";
    let mut options = driver.options;
    let list = required(FIELD, options.remove(VXLAN_ID_LIST))?;
    let vni = parse(FIELD, &list, "a VXLAN network identifier")?;
    if vni > VNI_MAX {
        return Err(Error::invalid(FIELD, vni, "at most 16777215"));
    }
    let subnets = each("ipam.configs", ipam.unwrap_or_default().configs, Subnet::try_from)?;
    Ok(NetworkState { vni, subnets, options })
}

fn driver_out(name: &str, state: &NetworkState) -> wire::Driver {
    let mut options = state.options.clone();
    options.insert(VXLAN_ID_LIST.into(), state.vni.to_string());
    wire::Driver { name: name.into(), options }
}
