//! `service rm`.

use anyhow::Result;
use clap::Args;
use proto::model::Service;
use proto::wire::RemoveServiceRequest;

use crate::client::{Answer as _, Client};
use crate::resolve;

#[derive(Debug, Args)]
pub struct Rm {
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
}

impl Rm {
    pub async fn run(self, client: &Client) -> Result<()> {
        for name in self.services {
            let service: Service = resolve::find(client, &name).await?;
            let request = RemoveServiceRequest { service_id: service.id.to_string() };
            client.control().remove_service(request).await.answer()?;
            println!("{name}");
        }
        Ok(())
    }
}
