//! `service inspect`.

use anyhow::Result;
use clap::Args;
use proto::model::Service;

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
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
}

impl Inspect {
    pub async fn run(self, client: &Client) -> Result<()> {
        let client = &client.reading(self.reading);
        let services: Vec<Service> = resolve::find_all(client, &self.services).await?;
        self.format.print(&services.iter().map(docker::service::inspect).collect::<Vec<_>>())
    }
}
