//! `task ls`.

use anyhow::Result;
use clap::Args;
use proto::wire::list_tasks_request::Filters;

use super::TaskTable;
use crate::client::Client;

#[derive(Debug, Args)]
pub struct Ls {
    #[command(flatten)]
    table: TaskTable,
}

impl Ls {
    pub async fn run(self, client: &Client) -> Result<()> {
        let client = &self.table.client(client);
        self.table.print(client, Filters::default()).await
    }
}
