//! `network rotate-key`.

use anyhow::{Result, bail};
use clap::Args;
use proto::model::Network;
use proto::network::RotateRequest;

use crate::client::{Answer as _, Client};
use crate::resolve;

#[derive(Debug, Args)]
pub struct RotateKey {
    #[arg(value_name = "NETWORK")]
    network: String,
}

impl RotateKey {
    pub async fn run(self, client: &Client) -> Result<()> {
        let network: Network = resolve::find(client, &self.network).await?;
        let request = RotateRequest { network_id: network.id.to_string() };
        let answer = client.keys().rotate(request).await.answer()?;
        if !answer.complete {
            bail!("{}: the rotation takes long; it goes on by itself", self.network);
        }
        println!("{}", self.network);
        Ok(())
    }
}
