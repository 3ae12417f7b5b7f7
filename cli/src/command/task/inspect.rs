//! `task inspect`.

use anyhow::Result;
use clap::Args;
use proto::model::Task;

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
    #[arg(required = true, value_name = "TASK")]
    tasks: Vec<String>,
}

impl Inspect {
    pub async fn run(self, client: &Client) -> Result<()> {
        let client = &client.reading(self.reading);
        let tasks: Vec<Task> = resolve::find_all(client, &self.tasks).await?;
        self.format.print(&tasks.iter().map(docker::task::inspect).collect::<Vec<_>>())
    }
}
