//! `swarm unlock-key`.

use anyhow::{Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use clap::Args;
use proto::wire::{GetUnlockKeyRequest, KeyRotation, UpdateClusterRequest, Version};

use crate::client::{Answer as _, Client};
use crate::resolve;

#[derive(Debug, Args)]
pub struct UnlockKey {
    /// Make a new key; every manager that runs seals its keys with it at once
    #[arg(long)]
    rotate: bool,
    /// Only print the key
    #[arg(short, long)]
    quiet: bool,
}

impl UnlockKey {
    pub async fn run(self, client: &Client) -> Result<()> {
        if self.rotate {
            rotate(client).await?;
            if !self.quiet {
                println!("Successfully rotated manager unlock key.\n");
            }
        }
        print(client, self.quiet).await
    }
}

async fn rotate(client: &Client) -> Result<()> {
    let cluster = resolve::cluster(client).await?;
    if !cluster.spec.auto_lock_managers {
        bail!("cannot rotate because autolock is not turned on");
    }
    let request = UpdateClusterRequest {
        cluster_id: cluster.id.to_string(),
        cluster_version: Some(Version { index: cluster.meta.version }),
        spec: Some((&cluster.spec).into()),
        rotation: Some(KeyRotation { manager_unlock_key: true, ..Default::default() }),
    };
    client.control().update_cluster(request).await.answer().map(drop)
}

/// Shows the key that the swarm has now.
pub async fn print(client: &Client, quiet: bool) -> Result<()> {
    let answer = client.ca().get_unlock_key(GetUnlockKeyRequest {}).await.answer()?;
    if answer.unlock_key.is_empty() {
        bail!("no unlock key is set: autolock is not turned on");
    }
    // As SwarmKit writes it.
    let key = format!("SWMKEY-1-{}", STANDARD_NO_PAD.encode(&answer.unlock_key));
    if quiet {
        println!("{key}");
        return Ok(());
    }
    println!(
        "To unlock a swarm manager after it restarts, run the `swarmctl swarm unlock`\n\
         command and provide the following key:\n\n    {key}\n\n\
         Remember to store this key in a password manager, since without it you\n\
         will not be able to restart the manager."
    );
    Ok(())
}
