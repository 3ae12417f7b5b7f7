//! `node rm`.

use anyhow::Result;
use clap::Args;
use proto::wire::RemoveNodeRequest;

use crate::client::{Answer as _, Client};
use crate::resolve;

#[derive(Debug, Args)]
pub struct Rm {
    /// Remove a node although it is not down
    #[arg(short, long)]
    force: bool,
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
}

impl Rm {
    pub async fn run(self, client: &Client) -> Result<()> {
        for name in self.nodes {
            let node = resolve::node(client, &name).await?;
            let request = RemoveNodeRequest { node_id: node.id.to_string(), force: self.force };
            client.control().remove_node(request).await.answer()?;
            println!("{name}");
        }
        Ok(())
    }
}
