//! `network inspect`.

use anyhow::Result;
use clap::Args;
use proto::model::{Network, Node, Service, Task};
use proto::wire::list_tasks_request::Filters;

use crate::client::Client;
use crate::docker;
use crate::format::InspectFormat;
use crate::reading::Reading;
use crate::resolve::{self, Named as _};

#[derive(Debug, Args)]
pub struct Inspect {
    #[command(flatten)]
    format: InspectFormat,
    #[command(flatten)]
    reading: Reading,
    /// Show services with their tasks, and where the tunnels of each node end
    #[arg(short, long)]
    verbose: bool,
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

impl Inspect {
    pub async fn run(self, client: &Client) -> Result<()> {
        let client = &client.reading(self.reading);
        let networks: Vec<Network> = resolve::find_all(client, &self.networks).await?;
        let tasks: Vec<Task> = resolve::tasks(client, Filters::default()).await?;
        let nodes: Vec<Node> = Node::list(client, vec![], vec![]).await?;
        let services: Vec<Service> = Service::list(client, vec![], vec![]).await?;
        let swarm = docker::network::Swarm { tasks: &tasks, services: &services, nodes: &nodes };
        let objects: Vec<_> =
            networks.iter().map(|network| docker::network::inspect(network, &swarm, self.verbose)).collect();
        self.format.print(&objects)
    }
}
