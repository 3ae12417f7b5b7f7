//! The commands: what is asked, and by whom it is answered.

mod completion;
mod image;
mod info;
mod network;
mod node;
mod service;
mod swarm;
mod task;
mod version;

use anyhow::Result;
use clap::Subcommand;

use crate::client::Client;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Form, join and leave swarms
    #[command(subcommand)]
    Swarm(swarm::Command),
    /// Manage nodes
    #[command(subcommand)]
    Node(node::Command),
    /// Manage networks
    #[command(subcommand)]
    Network(network::Command),
    /// Manage services
    #[command(subcommand)]
    Service(service::Command),
    /// Look at tasks
    #[command(subcommand)]
    Task(task::Command),
    /// Manage the images on this node
    #[command(subcommand)]
    Image(image::Command),
    /// Show what this node is
    Info(info::Info),
    /// Show the versions of client and daemon
    Version(version::Version),
    /// Print a completion script for a shell
    Completion(completion::Completion),
}

impl Command {
    pub async fn run(self, host: &str) -> Result<()> {
        match self {
            Self::Completion(command) => command.run(),
            Self::Version(command) => command.run(host).await,
            Self::Swarm(command) => command.run(&Client::connect(host).await?).await,
            Self::Node(command) => command.run(&Client::connect(host).await?).await,
            Self::Network(command) => command.run(&Client::connect(host).await?).await,
            Self::Service(command) => command.run(&Client::connect(host).await?).await,
            Self::Task(command) => command.run(&Client::connect(host).await?).await,
            Self::Image(command) => command.run(&Client::connect(host).await?).await,
            Self::Info(command) => command.run(&Client::connect(host).await?).await,
        }
    }
}
