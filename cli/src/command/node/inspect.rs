//! `node inspect`.

use anyhow::Result;
use clap::Args;

use crate::client::Client;
use crate::format::InspectFormat;
use crate::reading::Reading;
use crate::{docker, resolve};

#[derive(Debug, Args)]
pub struct Inspect {
    #[command(flatten)]
    format: InspectFormat,
    #[command(flatten)]
    reading: Reading,
    /// Names or ids; "self" is the node that is asked
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
}

impl Inspect {
    pub async fn run(self, client: &Client) -> Result<()> {
        let client = &client.reading(self.reading);
        let mut objects = Vec::new();
        for name in &self.nodes {
            objects.push(docker::node::inspect(&resolve::node(client, name).await?));
        }
        self.format.print(&objects)
    }
}
