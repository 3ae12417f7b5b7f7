//! `service ps`.

use anyhow::Result;
use clap::Args;
use proto::model::Service;
use proto::wire::list_tasks_request::Filters;

use crate::client::Client;
use crate::command::task::TaskTable;
use crate::resolve;

#[derive(Debug, Args)]
pub struct Ps {
    #[command(flatten)]
    table: TaskTable,
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
}

impl Ps {
    pub async fn run(self, client: &Client) -> Result<()> {
        let client = &self.table.client(client);
        let services: Vec<Service> = resolve::find_all(client, &self.services).await?;
        let service_ids = services.iter().map(|service| service.id.to_string()).collect();
        self.table.print(client, Filters { service_ids, ..Default::default() }).await
    }
}
