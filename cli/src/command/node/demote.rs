//! `node demote`.

use anyhow::Result;
use clap::Args;
use proto::model::Role;

use super::change;
use crate::client::Client;

#[derive(Debug, Args)]
pub struct Demote {
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
}

impl Demote {
    pub async fn run(self, client: &Client) -> Result<()> {
        change::role(client, &self.nodes, Role::Worker).await
    }
}
