//! `node ls`.

use anyhow::Result;
use clap::Args;
use proto::local::InfoRequest;
use proto::model::{Node, Reachability};
use serde_json::{Value, json};

use crate::client::{Answer as _, Client};
use crate::docker;
use crate::format::ListFormat;
use crate::reading::Reading;
use crate::resolve::Named as _;

#[derive(Debug, Args)]
pub struct Ls {
    #[command(flatten)]
    format: ListFormat,
    #[command(flatten)]
    reading: Reading,
}

impl Ls {
    pub async fn run(self, client: &Client) -> Result<()> {
        let client = &client.reading(self.reading);
        let mut nodes = Node::list(client, vec![], vec![]).await?;
        nodes.sort_by(|a, b| (a.hostname(), &a.id).cmp(&(b.hostname(), &b.id)));
        let own = client.node().info(InfoRequest {}).await.answer()?.node_id;
        let rows: Vec<Value> = nodes.iter().map(|node| row(node, node.id.as_str() == own)).collect();
        self.format.print(
            &[
                ("ID", "ID"),
                ("HOSTNAME", "Hostname"),
                ("STATUS", "Status"),
                ("AVAILABILITY", "Availability"),
                ("MANAGER STATUS", "ManagerStatus"),
                ("LAG", "Lag"),
                ("ENGINE VERSION", "EngineVersion"),
            ],
            &rows,
        )
    }
}

fn row(node: &Node, is_self: bool) -> Value {
    let manager = match &node.manager {
        None => "",
        Some(manager) if manager.leader => "Leader",
        Some(manager) => match manager.reachability {
            Reachability::Reachable => "Reachable",
            Reachability::Unreachable => "Unreachable",
            Reachability::Unknown => "Unknown",
        },
    };
    let lag = node.manager.as_ref().and_then(|manager| manager.lag);
    json!({
        "ID": node.id.as_str(),
        "Hostname": node.hostname(),
        "Status": docker::capitalized(docker::node::state(node.status.state)),
        "Availability": docker::capitalized(docker::node::availability(node.spec.availability)),
        "ManagerStatus": manager,
        // Entries of the log. Empty for workers, and where no leader knows.
        "Lag": lag.map(|lag| lag.to_string()).unwrap_or_default(),
        "EngineVersion": node.description.as_ref().map_or("", |description| &description.engine.version),
        "Self": is_self,
        "Address": node.status.addr,
    })
}
