//! `swarm join`.

use anyhow::Result;
use clap::Args;
use proto::local::JoinRequest;
use proto::wire::{NodeRole, node_spec};

use super::Availability;
use super::addresses::Addresses;
use crate::client::{Answer as _, Client};

#[derive(Debug, Args)]
pub struct Join {
    /// Token for entry into the swarm
    #[arg(long, value_name = "TOKEN")]
    token: String,
    #[command(flatten)]
    addresses: Addresses,
    /// Whether this node runs tasks
    #[arg(long, value_enum, default_value_t)]
    availability: Availability,
    /// A manager of the swarm: <host>[:port]
    #[arg(value_name = "HOST:PORT")]
    manager: String,
}

impl Join {
    pub async fn run(self, client: &Client) -> Result<()> {
        let request = JoinRequest {
            remote_addrs: vec![self.manager],
            token: self.token,
            listen_addr: self.addresses.listen,
            advertise_addr: self.addresses.advertise,
            data_path_addr: self.addresses.data_path,
            availability: node_spec::Availability::from(self.availability).into(),
        };
        let role = client.node().join(request).await.answer()?.role();
        let role = if role == NodeRole::Manager { "manager" } else { "worker" };
        println!("This node joined a swarm as a {role}.");
        Ok(())
    }
}
