//! `service …`.

mod create;
mod health;
mod inspect;
mod logs;
mod ls;
mod names;
mod options;
mod ps;
mod rm;
mod scale;
mod update;

use anyhow::Result;
use clap::Subcommand;

use crate::client::Client;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a service
    Create(Box<create::Create>),
    /// Change a service
    Update(Box<update::Update>),
    /// List services
    #[command(visible_alias = "list")]
    Ls(ls::Ls),
    /// List the tasks of services
    Ps(ps::Ps),
    /// Show services in detail
    Inspect(inspect::Inspect),
    /// Change the number of replicas of services
    Scale(scale::Scale),
    /// Remove services
    #[command(visible_alias = "remove")]
    Rm(rm::Rm),
    /// Show the output of a service or a task
    Logs(logs::Logs),
}

impl Command {
    pub async fn run(self, client: &Client) -> Result<()> {
        match self {
            Self::Create(command) => command.run(client).await,
            Self::Update(command) => command.run(client).await,
            Self::Ls(command) => command.run(client).await,
            Self::Ps(command) => command.run(client).await,
            Self::Inspect(command) => command.run(client).await,
            Self::Scale(command) => command.run(client).await,
            Self::Rm(command) => command.run(client).await,
            Self::Logs(command) => command.run(client).await,
        }
    }
}
