//! Where a node is reached: the flags of all commands by which it becomes part of a swarm.

use clap::Args;

#[derive(Debug, Args)]
pub struct Addresses {
    /// Address that other nodes reach: <ip|interface>[:port] [default: this machine's, if it has one; of one that joins,
    /// that from which it reaches the manager]
    #[arg(long = "advertise-addr", default_value = "", hide_default_value = true, value_name = "ADDR")]
    pub advertise: String,
    /// Address to listen on, as a manager: <ip|interface>[:port] [default: 0.0.0.0:2377, with an IPv6 --advertise-addr
    /// [::]:2377]
    #[arg(long = "listen-addr", default_value = "", hide_default_value = true, value_name = "ADDR")]
    pub listen: String,
    /// Address or interface for traffic between tasks [default: that of --advertise-addr]
    #[arg(long = "data-path-addr", default_value = "", hide_default_value = true, value_name = "ADDR")]
    pub data_path: String,
}
