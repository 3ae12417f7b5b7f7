//! `network rm`.

use anyhow::Result;
use clap::Args;
use proto::model::Network;
use proto::wire::RemoveNetworkRequest;

use crate::client::{Answer as _, Client};
use crate::resolve;

#[derive(Debug, Args)]
pub struct Rm {
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

impl Rm {
    pub async fn run(self, client: &Client) -> Result<()> {
        for name in self.networks {
            let network: Network = resolve::find(client, &name).await?;
            let request = RemoveNetworkRequest { name: String::new(), network_id: network.id.to_string() };
            client.control().remove_network(request).await.answer()?;
            println!("{name}");
        }
        Ok(())
    }
}
