//! `swarm update`.

use anyhow::{Result, bail};
use clap::Args;
use proto::wire::{ClusterSpec, UpdateClusterRequest, Version};

use super::settings::Settings;
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
        let request = UpdateClusterRequest {
            cluster_id: cluster.id.to_string(),
            cluster_version: Some(Version { index: cluster.meta.version }),
            spec: Some(spec),
            rotation: None,
        };
        client.control().update_cluster(request).await.answer()?;
        println!("Swarm updated.");
        Ok(())
    }
}
