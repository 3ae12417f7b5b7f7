//! `network create`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Result, bail};
use clap::Args;
use ipnet::IpNet;
use proto::wire::{Annotations, CreateNetworkRequest, Driver, IpamConfig, IpamOptions, NetworkSpec};

use crate::client::{Answer as _, Client};
use crate::units;

#[derive(Debug, Args)]
pub struct Create {
    /// Driver of the network
    #[arg(short, long, default_value = "overlay", value_name = "DRIVER")]
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
    /// Tasks on the network cannot reach anything else through it
    #[arg(long)]
    internal: bool,
    /// Containers that are no tasks may be attached
    #[arg(long)]
    attachable: bool,
    /// Option for the driver
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = units::pair)]
    opt: Vec<(String, String)>,
    /// Label of the network
    #[arg(long, value_name = "KEY=VALUE", value_parser = units::pair)]
    label: Vec<(String, String)>,
    #[arg(value_name = "NETWORK")]
    name: String,
}

impl Create {
    pub async fn run(self, client: &Client) -> Result<()> {
        let configs = self.configs()?;
        let spec = NetworkSpec {
            annotations: Some(Annotations { name: self.name, labels: units::map(&self.label) }),
            driver_config: Some(Driver { name: self.driver, options: units::map(&self.opt) }),
            ipv6_enabled: configs.iter().any(|config| config.subnet.contains(':')),
            internal: self.internal,
            attachable: self.attachable,
            ipam: Some(IpamOptions { driver: None, configs }),
            ..Default::default()
        };
        let answer =
            client.control().create_network(CreateNetworkRequest { spec: Some(spec) }).await.answer()?;
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
            containing(&mut configs, "--gateway", *gateway)?.gateway = gateway.to_string();
        }
        for range in &self.ip_range {
            containing(&mut configs, "--ip-range", range.addr())?.range = range.to_string();
        }
        for (name, address) in &self.aux_address {
            let Ok(addr) = address.parse() else {
                bail!("--aux-address {name}={address}: expected an IP address")
            };
            let reserved: &mut BTreeMap<_, _> =
                &mut containing(&mut configs, "--aux-address", addr)?.reserved;
            reserved.insert(name.clone(), address.clone());
        }
        Ok(configs)
    }
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
