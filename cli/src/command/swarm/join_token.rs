//! `swarm join-token worker|manager`.

use anyhow::Result;
use clap::{Args, ValueEnum};
use proto::local::InfoRequest;
use proto::model::Cluster;
use proto::wire::{KeyRotation, UpdateClusterRequest, Version};

use super::join_command;
use crate::client::{Answer as _, Client};
use crate::reading::Reading;
use crate::resolve;

#[derive(Debug, Args)]
pub struct JoinToken {
    /// Which token
    #[arg(value_enum)]
    role: Role,
    /// Make a new token; the old one is void at once, nodes that have joined stay
    #[arg(long)]
    rotate: bool,
    /// Only print the token
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    reading: Reading,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    Worker,
    Manager,
}

impl JoinToken {
    pub async fn run(self, client: &Client) -> Result<()> {
        let reader = client.reading_unless(self.rotate, self.reading);
        let mut cluster = resolve::cluster(&reader).await?;
        let role = if self.role == Role::Manager { "manager" } else { "worker" };
        if self.rotate {
            cluster = rotate(client, cluster, self.role).await?;
            if !self.quiet {
                println!("Successfully rotated {role} join token.\n");
            }
        }
        let tokens = &cluster.root_ca.join_tokens;
        let token = if self.role == Role::Manager { &tokens.manager } else { &tokens.worker }.expose();
        if self.quiet {
            println!("{token}");
            return Ok(());
        }
        let info = client.node().info(InfoRequest {}).await.answer()?;
        println!("To add a {role} to this swarm, run the following command:\n");
        println!("{}\n", join_command(token, info.manager_addrs.first().map_or("", String::as_str)));
        Ok(())
    }
}

async fn rotate(client: &Client, cluster: Cluster, role: Role) -> Result<Cluster> {
    let request = UpdateClusterRequest {
        cluster_id: cluster.id.to_string(),
        cluster_version: Some(Version { index: cluster.meta.version }),
        spec: Some((&cluster.spec).into()),
        rotation: Some(KeyRotation {
            worker_join_token: role == Role::Worker,
            manager_join_token: role == Role::Manager,
            manager_unlock_key: false,
        }),
    };
    let answer = client.control().update_cluster(request).await.answer()?;
    Ok(answer.cluster.unwrap_or_default().try_into()?)
}
