//! `network create`.

use std::net::IpAddr;

use anyhow::{Result, bail};
use clap::Args;
use ipnet::IpNet;
use proto::model::{CONFIG_ONLY_DRIVER, OVERLAY_DRIVER};
use proto::wire::network_spec::ConfigFrom;
use proto::wire::{Annotations, CreateNetworkRequest, Driver, IpamConfig, IpamOptions, NetworkSpec};

use crate::client::Client;
use crate::once;
use crate::units;

#[derive(Debug, Args)]
pub struct Create {
    /// Driver of the network
    #[arg(short, long, default_value = OVERLAY_DRIVER, value_name = "DRIVER")]
    driver: String,
    /// Subnet in CIDR; may be given several times [default: the next free one of the swarm's pools]
    #[arg(long, value_name = "CIDR")]
    subnet: Vec<String>,
    /// Gateway of a subnet [default: its first address]
    #[arg(long, value_name = "ADDR")]
    gateway: Vec<IpAddr>,
    /// Part of a subnet from which addresses are given out, CIDR
    #[arg(long, value_name = "CIDR")]
    ip_range: Vec<IpNet>,
    /// Address that is not given out: <name>=<address>
    #[arg(long, value_name = "NAME=ADDR", value_parser = units::pair)]
    aux_address: Vec<(String, String)>,
    /// Give addresses of IPv6 as well
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t, hide_default_value = true, value_name = "BOOL")]
    ipv6: bool,
    /// Give addresses of IPv4: all networks do
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", value_parser = always)]
    ipv4: Option<bool>,
    /// Driver that chooses addresses
    #[arg(long, default_value = "default", value_name = "DRIVER")]
    ipam_driver: String,
    /// Option for that driver
    #[arg(long, value_name = "KEY=VALUE", value_parser = units::pair)]
    ipam_opt: Vec<(String, String)>,
    /// Tasks on the network cannot reach anything else through it
    #[arg(long)]
    internal: bool,
    /// Containers that are no tasks may be attached
    #[arg(long)]
    attachable: bool,
    /// Where the network exists: swarm
    #[arg(long, value_name = "SCOPE", value_parser = ["swarm"])]
    scope: Option<String>,
    /// Make no network but settings for others, which name them with --config-from
    #[arg(long)]
    config_only: bool,
    /// Take subnets, options and labels over from this network, which was made with --config-only
    #[arg(long, value_name = "NETWORK")]
    config_from: Option<String>,
    /// Option for the driver
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = units::pair)]
    opt: Vec<(String, String)>,
    /// Label of the network
    #[arg(long, value_name = "KEY=VALUE", value_parser = units::pair)]
    label: Vec<(String, String)>,
    #[arg(value_name = "NETWORK")]
    name: String,
}

fn always(text: &str) -> Result<bool, String> {
    if text == "true" { Ok(true) } else { Err("every network has IPv4: leave it out".into()) }
}

impl Create {
    pub async fn run(self, client: &Client) -> Result<()> {
        let configs = self.configs()?;
        let driver = if self.config_only { CONFIG_ONLY_DRIVER.into() } else { self.driver };
        let ipam_driver = Driver { name: self.ipam_driver, options: units::map(&self.ipam_opt) };
        let spec = NetworkSpec {
            annotations: Some(Annotations { name: self.name, labels: units::map(&self.label) }),
            driver_config: Some(Driver { name: driver, options: units::map(&self.opt) }),
            // Who names a subnet of IPv6 wants it.
            ipv6_enabled: self.ipv6 || configs.iter().any(|config| config.subnet.contains(':')),
            internal: self.internal,
            attachable: self.attachable,
            ipam: Some(IpamOptions { driver: Some(ipam_driver), configs }),
            config_from: self.config_from.map(ConfigFrom::Network),
            ..Default::default()
        };
        let request = CreateNetworkRequest { spec: Some(spec) };
        let answer =
            once::send(request, async |request| client.control().create_network(request).await).await?;
        println!("{}", answer.network.unwrap_or_default().id);
        Ok(())
    }

    /// Puts gateways, ranges and reserved addresses to the subnets that contain them.
    fn configs(&self) -> Result<Vec<IpamConfig>> {
        let mut configs: Vec<IpamConfig> = self
            .subnet
            .iter()
            .map(|subnet| IpamConfig { subnet: subnet.clone(), ..Default::default() })
            .collect();
        for gateway in &self.gateway {
            let config = containing(&mut configs, "--gateway", *gateway)?;
            once("--gateway", &mut config.gateway, gateway.to_string(), &config.subnet)?;
        }
        for range in &self.ip_range {
            let config = containing(&mut configs, "--ip-range", range.addr())?;
            once("--ip-range", &mut config.range, range.to_string(), &config.subnet)?;
        }
        for (name, address) in &self.aux_address {
            let Ok(addr) = address.parse() else {
                bail!("--aux-address {name}={address}: expected an IP address")
            };
            let config = containing(&mut configs, "--aux-address", addr)?;
            if let Some(other) = config.reserved.insert(name.clone(), address.clone()) {
                bail!("--aux-address {name}={address}: {name} is {other} already; choose another name")
            }
        }
        Ok(configs)
    }
}

/// Sets what a subnet has one of.
fn once(flag: &str, field: &mut String, value: String, subnet: &str) -> Result<()> {
    if !field.is_empty() {
        bail!("{flag} {value}: the subnet {subnet} has {field} already; name one")
    }
    *field = value;
    Ok(())
}

fn containing<'a>(configs: &'a mut [IpamConfig], flag: &str, addr: IpAddr) -> Result<&'a mut IpamConfig> {
    let inside = |config: &IpamConfig| config.subnet.parse().is_ok_and(|net: IpNet| net.contains(&addr));
    match configs.iter().position(inside) {
        Some(found) => Ok(&mut configs[found]),
        None if configs.is_empty() => bail!("{flag} {addr}: name the --subnet that contains it"),
        None => {
            let subnets: Vec<&str> = configs.iter().map(|config| config.subnet.as_str()).collect();
            bail!("{flag} {addr}: it is not in the subnet {}", subnets.join(" nor in "))
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        create: Create,
    }

    fn create(arguments: &str) -> Result<Create, clap::Error> {
        let words = ["create"].into_iter().chain(arguments.split(' ')).chain(["net"]);
        Line::try_parse_from(words).map(|line| line.create)
    }

    fn configs(arguments: &str) -> Result<Vec<IpamConfig>, String> {
        create(arguments).map_err(|error| error.to_string())?.configs().map_err(|error| error.to_string())
    }

    #[test]
    fn what_belongs_to_a_subnet_finds_it() {
        let two = "--subnet 10.0.1.0/24 --subnet fd00:1::/64";
        let more = "--gateway fd00:1::9 --gateway 10.0.1.9 --ip-range 10.0.1.64/26 --aux-address a=fd00:1::7";
        let configs = configs(&format!("{two} {more}")).unwrap();
        assert_eq!((configs[0].gateway.as_str(), configs[1].gateway.as_str()), ("10.0.1.9", "fd00:1::9"));
        assert_eq!(configs[0].range, "10.0.1.64/26");
        assert_eq!(configs[1].reserved["a"], "fd00:1::7");
    }

    #[test]
    fn what_belongs_nowhere_or_is_there_twice_is_refused() {
        for (arguments, says) in [
            ("--gateway 10.0.1.1", "--gateway 10.0.1.1: name the --subnet"),
            ("--subnet 10.0.1.0/24 --gateway 10.0.2.1", "not in the subnet 10.0.1.0/24"),
            ("--subnet 10.0.1.0/24 --gateway 10.0.1.1 --gateway 10.0.1.2", "has 10.0.1.1 already"),
            (
                "--subnet 10.0.1.0/24 --ip-range 10.0.1.0/25 --ip-range 10.0.1.128/25",
                "has 10.0.1.0/25 already",
            ),
            (
                "--subnet 10.0.1.0/24 --aux-address a=10.0.1.5 --aux-address a=10.0.1.6",
                "a is 10.0.1.5 already",
            ),
            ("--subnet 10.0.1.0/24 --aux-address a=here", "--aux-address a=here: expected an IP address"),
        ] {
            let refused = configs(arguments).unwrap_err();
            assert!(refused.contains(says), "{refused}");
        }
    }

    #[test]
    fn scope_and_family_have_one_choice() {
        assert!(create("--scope swarm --ipv4").is_ok() && create("--ipv6").unwrap().ipv6);
        assert!(create("--scope local").err().unwrap().to_string().contains("local"));
        assert!(create("--ipv4=false").err().unwrap().to_string().contains("every network has IPv4"));
    }
}
