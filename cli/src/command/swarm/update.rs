//! `swarm update`.

use anyhow::{Result, bail};
use clap::Args;
use proto::wire::{ClusterSpec, UpdateClusterRequest, Version};

use super::settings::Settings;
use super::unlock_key;
use crate::client::{Answer as _, Client};
use crate::resolve;

#[derive(Debug, Args)]
pub struct Update {
    #[command(flatten)]
    settings: Settings,
}

impl Update {
    pub async fn run(self, client: &Client) -> Result<()> {
        if self.settings.is_empty() {
            bail!("nothing to change: name at least one setting");
        }
        let cluster = resolve::cluster(client).await?;
        let mut spec = ClusterSpec::from(&cluster.spec);
        self.settings.apply(&mut spec);
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
