//! `node promote`.

use anyhow::Result;
use clap::Args;
use proto::model::Role;

use super::change;
use crate::client::Client;

#[derive(Debug, Args)]
pub struct Promote {
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
}

impl Promote {
    pub async fn run(self, client: &Client) -> Result<()> {
        change::role(client, &self.nodes, Role::Manager).await
    }
}
