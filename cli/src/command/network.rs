//! `network …`.

mod audit;
mod create;
mod inspect;
mod ls;
mod rm;
mod rotate_key;
mod trace;

use anyhow::Result;
use clap::Subcommand;

use crate::client::Client;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a network
    Create(Box<create::Create>),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(ls::Ls),
    /// Show networks in detail
    Inspect(inspect::Inspect),
    /// Remove networks
    #[command(visible_alias = "remove")]
    Rm(rm::Rm),
    /// Replace the key of an encrypted network, without losing a packet
    RotateKey(rotate_key::RotateKey),
    /// Compare this node's kernel with what its networks should be, and mend it
    Audit(audit::Audit),
    /// Follow a packet from a task to another end, and name the first step that is wrong
    Trace(trace::Trace),
}

impl Command {
    pub async fn run(self, client: &Client) -> Result<()> {
        match self {
            Self::Create(command) => command.run(client).await,
            Self::Ls(command) => command.run(client).await,
            Self::Inspect(command) => command.run(client).await,
            Self::Rm(command) => command.run(client).await,
            Self::RotateKey(command) => command.run(client).await,
            Self::Audit(command) => command.run(client).await,
            Self::Trace(command) => command.run(client).await,
        }
    }
}
