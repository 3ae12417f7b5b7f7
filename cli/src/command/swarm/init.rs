//! `swarm init`.

use anyhow::{Context as _, Result, bail};
use clap::Args;
use proto::local::{InfoRequest, InitRequest};
use proto::wire::{self, ClusterSpec, node_spec};

use super::addresses::Addresses;
use super::ca;
use super::external_ca::{ExternalCa, read_all};
use super::settings::Settings;
use super::unlock_key;
use super::{Availability, join_command};
use crate::client::{Answer as _, Client};
use crate::resolve;

#[derive(Debug, Args)]
pub struct Init {
    #[command(flatten)]
    addresses: Addresses,
    /// UDP port for traffic between tasks, 1024 to 49151 [default: 4789]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u32).range(1024..=49151))]
    data_path_port: Option<u32>,
    /// Pool from which networks without a subnet are served, CIDR; may be given several times [default: 10.0.0.0/8 and,
    /// for IPv6, an fd00::/8 block of the swarm's own]
    #[arg(long, value_delimiter = ',', value_name = "CIDR")]
    default_addr_pool: Vec<String>,
    /// Mask length of such networks' IPv4 subnets; those of IPv6 have 64 bits
    #[arg(long, default_value_t = 24, value_name = "BITS")]
    default_addr_pool_mask_length: u32,
    /// Whether this node runs tasks
    #[arg(long, value_enum, default_value_t)]
    availability: Availability,
    /// On a manager that has lost the others for good: go on with all that it has, as the only manager
    #[arg(long, conflicts_with_all = ["data_path_port", "default_addr_pool", "default_addr_pool_mask_length", "availability"])]
    force_new_cluster: bool,
    /// Who is to sign certificates instead of the managers: protocol=cfssl,url=https://...,cacert=FILE; may be given
    /// several times. The root of the new swarm changes to that of cacert at once
    #[arg(long, value_name = "SIGNER", conflicts_with = "force_new_cluster")]
    external_ca: Vec<ExternalCa>,
    #[command(flatten)]
    settings: Settings,
}

impl Init {
    pub async fn run(self, client: &Client) -> Result<()> {
        // Before anything is made.
        let signers = Signers::read(&self.external_ca)?;
        let mut spec = ClusterSpec::default();
        self.settings.apply(&mut spec);
        let autolock = spec.encryption_config.is_some_and(|config| config.auto_lock_managers);
        let request = InitRequest {
            advertise_addr: self.addresses.advertise,
            listen_addr: self.addresses.listen,
            data_path_addr: self.addresses.data_path,
            data_path_port: self.data_path_port.unwrap_or_default(),
            default_addr_pool: self.default_addr_pool,
            default_addr_pool_mask_length: self.default_addr_pool_mask_length,
            spec: Some(spec),
            availability: node_spec::Availability::from(self.availability).into(),
            force_new_cluster: self.force_new_cluster,
        };
        let node_id = client.node().init(request).await.answer()?.node_id;
        if self.force_new_cluster {
            println!("Swarm goes on: current node ({node_id}) is now its only manager.");
            return Ok(());
        }
        println!("Swarm initialized: current node ({node_id}) is now a manager.\n");
        if let Some(signers) = signers {
            signers.appoint(client).await?;
        }
        print_invitation(client).await?;
        if autolock {
            println!();
            unlock_key::print(client, false).await?;
        }
        Ok(())
    }
}

/// External CAs, all for one root, to which the new swarm changes: its own first one nobody else has the key of.
struct Signers {
    root: Vec<u8>,
    all: Vec<wire::ExternalCa>,
}

impl Signers {
    fn read(given: &[ExternalCa]) -> Result<Option<Self>> {
        let all = read_all(given, &[])?;
        let Some(first) = all.first() else { return Ok(None) };
        let root = first.ca_cert.clone();
        if root.is_empty() || all.iter().any(|ca| ca.ca_cert != root) {
            bail!(
                "--external-ca: cacert=<file> must name the root in whose name it signs, the same for all: a new swarm \
                 begins with a root of its own, for which no external CA can sign"
            );
        }
        Ok(Some(Self { root, all }))
    }

    async fn appoint(self, client: &Client) -> Result<()> {
        let cluster = resolve::cluster(client).await?;
        let mut spec = ClusterSpec::from(&cluster.spec);
        let ca = spec.ca_config.get_or_insert_default();
        (ca.signing_ca_cert, ca.external_cas) = (self.root, self.all);
        let appointed = ca::change(client, &cluster, spec).await;
        appointed.context(
            "the swarm has begun, with a root of its own that its managers sign for; to change to the external CA, mend \
             this and run \"swarmctl swarm ca --rotate --ca-cert <cacert> --external-ca ...\"",
        )?;
        ca::follow(client, true).await
    }
}

async fn print_invitation(client: &Client) -> Result<()> {
    let cluster = resolve::cluster(client).await?;
    let info = client.node().info(InfoRequest {}).await.answer()?;
    let manager = info.manager_addrs.first().map_or("", String::as_str);
    println!("To add a worker to this swarm, run the following command:\n");
    println!("{}\n", join_command(cluster.root_ca.join_tokens.worker.expose(), manager));
    println!(
        "To add a manager to this swarm, run \"swarmctl swarm join-token manager\" and follow its instructions."
    );
    Ok(())
}
