//! `swarm update`.

use anyhow::{Result, bail};
use clap::Args;
use proto::wire::{ClusterSpec, UpdateClusterRequest, Version};

use super::external_ca::{ExternalCa, read_all};
use super::settings::Settings;
use super::unlock_key;
use crate::client::{Answer as _, Client};
use crate::resolve;

#[derive(Debug, Args)]
pub struct Update {
    #[command(flatten)]
    settings: Settings,
    /// Who signs certificates instead of the managers: protocol=cfssl,url=https://...[,cacert=FILE]; may be given several
    /// times, and replaces those that there were
    #[arg(long, value_name = "SIGNER", conflicts_with = "external_ca_rm")]
    external_ca: Vec<ExternalCa>,
    /// Let managers sign themselves again
    #[arg(long)]
    external_ca_rm: bool,
}

impl Update {
    pub async fn run(self, client: &Client) -> Result<()> {
        if self.settings.is_empty() && self.external_ca.is_empty() && !self.external_ca_rm {
            bail!("nothing to change: name at least one setting");
        }
        let cluster = resolve::cluster(client).await?;
        let mut spec = ClusterSpec::from(&cluster.spec);
        self.settings.apply(&mut spec);
        if self.external_ca_rm || !self.external_ca.is_empty() {
            spec.ca_config.get_or_insert_default().external_cas = read_all(&self.external_ca, &[])?;
        }
        let autolock = spec.encryption_config.is_some_and(|config| config.auto_lock_managers);
        let request = UpdateClusterRequest {
            cluster_id: cluster.id.to_string(),
            cluster_version: Some(Version { index: cluster.meta.version }),
            spec: Some(spec),
            rotation: None,
        };
        client.control().update_cluster(request).await.answer()?;
        println!("Swarm updated.");
        if autolock && !cluster.spec.auto_lock_managers {
            println!();
            unlock_key::print(client, false).await?;
        }
        Ok(())
    }
}
