//! What may be asked of a network. That it overlaps no other one is checked where it is written.

use std::net::IpAddr;

use ipnet::IpNet;
use proto::convert::Within;
use proto::model::{
    CONFIG_ONLY_DRIVER, ENCRYPTED, Hosts, IpamConfig, NetworkSpec, OVERLAY_DRIVER, VXLAN_ID_LIST,
};
use proto::wire;

use super::{labels, object_name};
use crate::api::limits;
use crate::error::Error;

/// Longest masks that leave room for the gateway and one task beside the network's own addresses.
const LONGEST_V4_MASK: u8 = 30;
const LONGEST_V6_MASK: u8 = 126;
const MTU: &str = "com.docker.network.driver.mtu";
/// RFC 791.
const LEAST_MTU: u32 = 68;
/// RFC 8200.
const LEAST_V6_MTU: u32 = 1280;
/// 24 bits (RFC 7348).
const LARGEST_VNI: u32 = (1 << 24) - 1;

/// Checks the spec and writes out what it leaves open.
pub fn check(spec: Option<wire::NetworkSpec>) -> Result<NetworkSpec, Error> {
    let spec = spec.ok_or_else(|| proto::convert::Error::missing("spec"))?;
    limits::spec_size("spec", &spec)?;
    let mut spec = NetworkSpec::try_from(spec).within("spec")?;
    object_name("spec.annotations.name", &spec.annotations.name)?;
    labels("spec.annotations", &spec.annotations)?;
    driver(&mut spec)?;
    settings(&spec)?;
    limits::count("spec.ipam.configs", spec.ipam.len())?;
    for (i, config) in spec.ipam.iter().enumerate() {
        ipam(&format!("spec.ipam.configs[{i}]"), config)?;
        apart(&format!("spec.ipam.configs[{i}].subnet"), config.subnet, &spec.ipam[..i])?;
    }
    families(&spec)?;
    Ok(spec)
}

/// Who takes settings over from another network, or holds them for others, has none of what the other one decides.
fn settings(spec: &NetworkSpec) -> Result<(), Error> {
    let refuse = |field: &str, value: &str, remedy: String| Err(Error::invalid(field, value, remedy));
    if spec.is_config_only() {
        let remedy =
            || "a network that holds settings only cannot have it: set it where they are used".into();
        return match (&spec.config_from, spec.internal, spec.attachable) {
            (Some(from), ..) => refuse("spec.config_from", from, remedy()),
            (None, true, _) => refuse("spec.internal", "true", remedy()),
            (None, _, true) => refuse("spec.attachable", "true", remedy()),
            _ => Ok(()),
        };
    }
    let Some(from) = &spec.config_from else { return Ok(()) };
    let remedy = || format!("the settings come from network {from:?}: leave it out");
    if let Some(config) = spec.ipam.first() {
        return refuse("spec.ipam.configs[0].subnet", &config.subnet.to_string(), remedy());
    }
    if let Some((name, value)) = spec.driver.options.first_key_value() {
        return refuse(&format!("spec.driver_config.options.{name}"), value, remedy());
    }
    if spec.ipv6 { refuse("spec.ipv6_enabled", "true", remedy()) } else { Ok(()) }
}

fn driver(spec: &mut NetworkSpec) -> Result<(), Error> {
    if spec.driver.name.is_empty() {
        spec.driver.name = OVERLAY_DRIVER.into();
    }
    if !matches!(spec.driver.name.as_str(), OVERLAY_DRIVER | CONFIG_ONLY_DRIVER) {
        let remedy = format!("there is no such driver; {OVERLAY_DRIVER} is the one that there is");
        return Err(Error::invalid("spec.driver_config.name", &spec.driver.name, remedy));
    }
    options("spec.driver_config.options", spec)
}

/// What the driver knows. Anything else would be a wish that is silently not granted.
const OPTIONS: [&str; 3] = [ENCRYPTED, MTU, VXLAN_ID_LIST];

fn options(field: &str, spec: &NetworkSpec) -> Result<(), Error> {
    let options = &spec.driver.options;
    limits::map(field, options)?;
    if let Some((name, value)) = options.iter().find(|(name, _)| !OPTIONS.contains(&name.as_str())) {
        let remedy = format!("there is no such option; {OVERLAY_DRIVER} knows {}", OPTIONS.join(", "));
        return Err(Error::invalid(format!("{field}.{name}"), value, remedy));
    }
    // Docker takes the bare option for yes.
    if let Some(value) = options.get(ENCRYPTED)
        && !matches!(value.as_str(), "" | "true" | "1" | "false" | "0")
    {
        return Err(Error::invalid(format!("{field}.{ENCRYPTED}"), value, "true or false is needed"));
    }
    let least_mtu = if spec.ipv6 { LEAST_V6_MTU } else { LEAST_MTU };
    for (name, allowed) in [(MTU, least_mtu..=u16::MAX.into()), (VXLAN_ID_LIST, 1..=LARGEST_VNI)] {
        let Some(value) = options.get(name) else { continue };
        if !value.parse().is_ok_and(|value: u32| allowed.contains(&value)) {
            let remedy = format!("a number from {} to {} is needed", allowed.start(), allowed.end());
            return Err(Error::invalid(format!("{field}.{name}"), value, remedy));
        }
    }
    Ok(())
}

fn ipam(field: &str, config: &IpamConfig) -> Result<(), Error> {
    let net = config.subnet;
    subnet(&format!("{field}.subnet"), net)?;
    if let Some(range) = config.range {
        let field = format!("{field}.range");
        aligned(&field, range)?;
        if !net.contains(&range) {
            return Err(Error::invalid(field, range, format!("a part of {net} is needed")));
        }
        if Hosts::of_net(&net).within(&range).count() == 0 {
            return Err(Error::invalid(field, range, "there is no address for a task in it"));
        }
    }
    let gateway = config.gateway.iter().map(|gateway| (format!("{field}.gateway"), *gateway));
    let reserved = config.reserved.iter();
    let reserved = reserved.map(|(name, address)| (format!("{field}.reserved.{name}"), *address));
    for (field, address) in gateway.chain(reserved) {
        usable(&field, net, address)?;
    }
    Ok(())
}

/// Whether tasks can have addresses of `net`.
pub fn subnet(field: &str, net: IpNet) -> Result<(), Error> {
    aligned(field, net)?;
    let longest = if net.addr().is_ipv4() { LONGEST_V4_MASK } else { LONGEST_V6_MASK };
    if net.prefix_len() > longest {
        let remedy =
            format!("too small for a gateway and a task: a mask of at most {longest} bits is needed");
        return Err(Error::invalid(field, net, remedy));
    }
    let first = net.network();
    let special =
        first.is_loopback() || first.is_multicast() || first.is_unspecified() || net.prefix_len() == 0;
    let link_local = match first {
        IpAddr::V4(first) => first.is_link_local() || first.octets()[0] >= 240,
        IpAddr::V6(first) => first.is_unicast_link_local(),
    };
    if special || link_local {
        return Err(Error::invalid(
            field,
            net,
            "a subnet of unicast addresses such as 10.0.9.0/24 is needed",
        ));
    }
    Ok(())
}

fn aligned(field: &str, net: IpNet) -> Result<(), Error> {
    if net == net.trunc() {
        return Ok(());
    }
    Err(Error::invalid(field, net, format!("bits after the mask are set; the subnet is {}", net.trunc())))
}

fn usable(field: &str, net: IpNet, address: IpAddr) -> Result<(), Error> {
    if !net.contains(&address) {
        return Err(Error::invalid(field, address, format!("an address of {net} is needed")));
    }
    let broadcast = net.addr().is_ipv4() && address == net.broadcast();
    if address == net.network() || broadcast {
        let remedy = format!("the first and the last address of {net} belong to the network itself");
        return Err(Error::invalid(field, address, remedy));
    }
    Ok(())
}

fn apart(field: &str, net: IpNet, others: &[IpamConfig]) -> Result<(), Error> {
    let overlaps = |other: &&IpamConfig| other.subnet.contains(&net) || net.contains(&other.subnet);
    match others.iter().find(overlaps) {
        Some(other) => {
            let remedy = format!("it overlaps {} of the same network: choose another subnet", other.subnet);
            Err(Error::invalid(field, net, remedy))
        }
        None => Ok(()),
    }
}

/// A task gets one address a family, of whichever of its subnets has one left.
fn families(spec: &NetworkSpec) -> Result<(), Error> {
    let v6 = spec.ipam.iter().enumerate().find(|(_, config)| config.subnet.addr().is_ipv6());
    match v6 {
        Some((i, config)) if !spec.ipv6 => {
            let field = format!("spec.ipam.configs[{i}].subnet");
            Err(Error::invalid(field, config.subnet, "an IPv6 subnet needs ipv6_enabled (--ipv6)"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(subnets: &[&str], change: impl FnOnce(&mut wire::NetworkSpec)) -> Result<NetworkSpec, Error> {
        let configs =
            subnets.iter().map(|subnet| wire::IpamConfig { subnet: (*subnet).into(), ..Default::default() });
        let mut spec = wire::NetworkSpec {
            annotations: Some(wire::Annotations { name: "net".into(), ..Default::default() }),
            ipam: Some(wire::IpamOptions { configs: configs.collect(), ..Default::default() }),
            ..Default::default()
        };
        change(&mut spec);
        check(Some(spec))
    }

    fn refusal(subnet: &str) -> String {
        spec(&[subnet], |_| ()).unwrap_err().to_string()
    }

    fn with(change: impl FnOnce(&mut wire::IpamConfig)) -> String {
        let changed = spec(&["10.0.9.0/24"], |spec| change(&mut spec.ipam.as_mut().unwrap().configs[0]));
        changed.unwrap_err().to_string()
    }

    #[test]
    fn the_driver_is_overlay_unless_said() {
        assert_eq!(spec(&["10.0.9.0/24"], |_| ()).unwrap().driver.name, "overlay");
        let driver = |name: &str| wire::Driver { name: name.into(), ..Default::default() };
        let refused = spec(&[], |spec| spec.driver_config = Some(driver("macvlan"))).unwrap_err();
        assert!(
            refused.to_string().contains("\"macvlan\": there is no such driver; overlay is"),
            "{refused}"
        );
    }

    #[test]
    fn options_are_known_and_checked() {
        let with = |name: &str, value: &str| {
            let options = [(name.to_owned(), value.to_owned())].into();
            spec(&[], |spec| spec.driver_config = Some(wire::Driver { name: String::new(), options }))
        };
        for value in ["0", "16777216", "4100,4101", "x"] {
            assert!(with(VXLAN_ID_LIST, value).unwrap_err().to_string().contains("1 to 16777215"), "{value}");
        }
        assert!(with(MTU, "10").unwrap_err().to_string().contains("68 to 65535"));
        with(VXLAN_ID_LIST, "4100").unwrap();
        with(MTU, "1400").unwrap();
        for value in ["", "true", "1", "false", "0"] {
            with(ENCRYPTED, value).unwrap();
        }
        assert!(with(ENCRYPTED, "yes").unwrap_err().to_string().contains("true or false"));
        let refused = with("encrpyted", "").unwrap_err().to_string();
        assert!(
            refused.contains("options.encrpyted") && refused.contains("knows encrypted, com.docker"),
            "{refused}"
        );
    }

    #[test]
    fn subnets_are_subnets_with_room() {
        assert!(refusal("10.0.9/24").contains("expected a subnet such as 10.0.9.0/24"));
        assert!(refusal("10.0.9.5/24").contains("the subnet is 10.0.9.0/24"));
        assert!(refusal("10.0.9.0/31").contains("too small for a gateway and a task"));
        for special in
            ["127.0.0.0/8", "224.0.0.0/4", "0.0.0.0/0", "169.254.0.0/16", "240.0.0.0/4", "0.0.0.0/8"]
        {
            assert!(refusal(special).contains("unicast"), "{special}");
        }
        spec(&["10.0.9.0/30"], |_| ()).unwrap();
    }

    #[test]
    fn gateway_and_range_are_inside() {
        assert!(with(|c| c.gateway = "10.0.8.1".into()).contains("an address of 10.0.9.0/24 is needed"));
        assert!(with(|c| c.gateway = "10.0.9.255".into()).contains("belong to the network itself"));
        assert!(with(|c| c.range = "10.0.8.0/25".into()).contains("a part of 10.0.9.0/24"));
        assert!(with(|c| c.range = "10.0.9.1/25".into()).contains("the subnet is 10.0.9.0/25"));
        let reserve = |c: &mut wire::IpamConfig| drop(c.reserved.insert("router".into(), "10.0.8.9".into()));
        assert!(with(reserve).contains("configs[0].reserved.router"));
    }

    #[test]
    fn several_subnets_lie_apart() {
        spec(&["10.0.1.0/24", "10.0.2.0/24"], |_| ()).unwrap();
        let refused = spec(&["10.0.1.0/24", "10.1.0.0/24", "10.0.0.0/16"], |_| ()).unwrap_err().to_string();
        assert_eq!(
            refused,
            "spec.ipam.configs[2].subnet has the value \"10.0.0.0/16\": it overlaps 10.0.1.0/24 of the same network: \
             choose another subnet"
        );
        assert!(spec(&["10.0.1.0/24", "10.0.1.0/24"], |_| ()).is_err());
    }

    #[test]
    fn ipv6_is_asked_for() {
        let refused = spec(&["10.0.1.0/24", "fd00::/64"], |_| ()).unwrap_err().to_string();
        assert!(refused.contains("configs[1].subnet") && refused.contains("--ipv6"), "{refused}");
        spec(&["10.0.1.0/24", "fd00::/64", "fd00:1::/64"], |spec| spec.ipv6_enabled = true).unwrap();
        spec(&["fd00::/64"], |spec| spec.ipv6_enabled = true).unwrap();
        spec(&["10.0.1.0/24"], |spec| spec.ipv6_enabled = true).unwrap();
        spec(&[], |_| ()).unwrap();
    }

    #[test]
    fn a_range_has_room() {
        assert!(with(|c| c.range = "10.0.9.0/32".into()).contains("no address for a task"));
        assert!(with(|c| c.range = "10.0.9.255/32".into()).contains("no address for a task"));
    }

    #[test]
    fn settings_are_given_in_one_place() {
        let from = || Some(wire::network_spec::ConfigFrom::Network("base".into()));
        spec(&[], |spec| spec.config_from = from()).unwrap();
        let both = spec(&["10.0.1.0/24"], |spec| spec.config_from = from()).unwrap_err().to_string();
        assert!(both.contains("10.0.1.0/24") && both.contains("come from network \"base\""), "{both}");
        let both = spec(&[], |spec| (spec.config_from, spec.ipv6_enabled) = (from(), true)).unwrap_err();
        assert!(both.to_string().contains("spec.ipv6_enabled"), "{both}");

        let base = || Some(wire::Driver { name: "null".into(), ..Default::default() });
        assert!(spec(&["10.0.1.0/24"], |spec| spec.driver_config = base()).unwrap().is_config_only());
        let internal = spec(&[], |spec| (spec.driver_config, spec.internal) = (base(), true)).unwrap_err();
        assert!(internal.to_string().contains("spec.internal"), "{internal}");
        let nested = spec(&[], |spec| (spec.driver_config, spec.config_from) = (base(), from())).unwrap_err();
        assert!(nested.to_string().contains("spec.config_from"), "{nested}");
    }
}
