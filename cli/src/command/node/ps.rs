//! `node ps`.

use anyhow::Result;
use clap::Args;
use proto::wire::list_tasks_request::Filters;

use crate::client::Client;
use crate::command::task::TaskTable;
use crate::resolve;

#[derive(Debug, Args)]
pub struct Ps {
    #[command(flatten)]
    table: TaskTable,
    /// Names or ids [default: the node that is asked]
    #[arg(value_name = "NODE")]
    nodes: Vec<String>,
}

impl Ps {
    pub async fn run(self, client: &Client) -> Result<()> {
        let client = &self.table.client(client);
        let names = if self.nodes.is_empty() { vec!["self".into()] } else { self.nodes };
        let mut node_ids = Vec::new();
        for name in &names {
            node_ids.push(resolve::node(client, name).await?.id.to_string());
        }
        self.table.print(client, Filters { node_ids, ..Default::default() }).await
    }
}
