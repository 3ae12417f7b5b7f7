//! `node …`: the machines of the swarm.

mod change;
mod demote;
mod inspect;
mod ls;
mod promote;
mod ps;
mod rm;
mod update;

use anyhow::Result;
use clap::Subcommand;

use crate::client::Client;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List nodes
    #[command(visible_alias = "list")]
    Ls(ls::Ls),
    /// Show nodes in detail
    Inspect(inspect::Inspect),
    /// List the tasks on nodes
    Ps(ps::Ps),
    /// Change availability, labels or role of a node
    Update(update::Update),
    /// Make nodes managers
    Promote(promote::Promote),
    /// Make managers workers
    Demote(demote::Demote),
    /// Remove nodes that have left or are down
    #[command(visible_alias = "remove")]
    Rm(rm::Rm),
}

impl Command {
    pub async fn run(self, client: &Client) -> Result<()> {
        match self {
            Self::Ls(command) => command.run(client).await,
            Self::Inspect(command) => command.run(client).await,
            Self::Ps(command) => command.run(client).await,
            Self::Update(command) => command.run(client).await,
            Self::Promote(command) => command.run(client).await,
            Self::Demote(command) => command.run(client).await,
            Self::Rm(command) => command.run(client).await,
        }
    }
}
