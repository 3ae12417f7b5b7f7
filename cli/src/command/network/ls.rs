//! `network ls`.

use anyhow::Result;
use clap::Args;
use proto::model::Network;
use serde_json::{Value, json};

use crate::client::Client;
use crate::format::ListFormat;
use crate::reading::Reading;
use crate::resolve::Named as _;
use crate::units;

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
        let mut networks = Network::list(client, vec![], vec![]).await?;
        networks.sort_by(|a, b| a.name().cmp(b.name()));
        let rows: Vec<Value> = networks.iter().map(row).collect();
        self.format.print(
            &[
                ("NETWORK ID", "ID"),
                ("NAME", "Name"),
                ("DRIVER", "Driver"),
                ("SCOPE", "Scope"),
                ("SUBNETS", "Subnets"),
            ],
            &rows,
        )
    }
}

fn row(network: &Network) -> Value {
    let subnets = network.state.iter().flat_map(|state| &state.subnets).map(|subnet| subnet.net.to_string());
    json!({
        "ID": network.id.as_str(),
        "Name": network.name(),
        "Driver": network.spec.driver.name,
        "Scope": "swarm",
        "Subnets": subnets.collect::<Vec<_>>().join(", "),
        "Internal": network.spec.internal.to_string(),
        "IPv6": network.spec.ipv6.to_string(),
        "CreatedAt": units::timestamp(network.meta.created_at),
    })
}
