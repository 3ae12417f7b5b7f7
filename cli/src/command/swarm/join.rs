//! `swarm join`.

use anyhow::Result;
use clap::Args;
use proto::local::JoinRequest;
use proto::wire::{NodeRole, node_spec};

use super::Availability;
use crate::client::{Answer as _, Client};

#[derive(Debug, Args)]
pub struct Join {
    /// Token for entry into the swarm
    #[arg(long, value_name = "TOKEN")]
    token: String,
    /// Address that other nodes reach: <ip|interface>[:port] [default: that from which the manager is reached]
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ADDR")]
    advertise_addr: String,
    /// Address to listen on, if this node becomes a manager: <ip|interface>[:port] [default: 0.0.0.0:2377, with an IPv6
    /// --advertise-addr [::]:2377]
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ADDR")]
    listen_addr: String,
    /// Address or interface for traffic between tasks [default: that of --advertise-addr]
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ADDR")]
    data_path_addr: String,
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
            listen_addr: self.listen_addr,
            advertise_addr: self.advertise_addr,
            data_path_addr: self.data_path_addr,
            availability: node_spec::Availability::from(self.availability).into(),
        };
        let role = client.node().join(request).await.answer()?.role();
        let role = if role == NodeRole::Manager { "manager" } else { "worker" };
        println!("This node joined a swarm as a {role}.");
        Ok(())
    }
}
