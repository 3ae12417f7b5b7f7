//! `swarm …`: forming, joining and leaving a swarm, and its settings.

mod addresses;
mod ca;
mod external_ca;
mod init;
mod join;
mod join_token;
mod leave;
mod settings;
mod snapshot;
mod unlock;
mod unlock_key;
mod update;

use anyhow::Result;
use clap::{Subcommand, ValueEnum};
use proto::wire::node_spec;

use crate::client::Client;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the root certificate, or replace it
    Ca(ca::Ca),
    /// Make a new swarm with this node as its first manager
    Init(init::Init),
    /// Join an existing swarm
    Join(join::Join),
    /// Show or rotate the tokens with which nodes join
    JoinToken(join_token::JoinToken),
    /// Leave the swarm
    Leave(leave::Leave),
    /// Take up a locked manager again; the key is read from standard input
    Unlock(unlock::Unlock),
    /// Show or rotate the key that locked managers need after a restart
    UnlockKey(unlock_key::UnlockKey),
    /// Save the state of the swarm to a file, or make a swarm of one
    #[command(subcommand)]
    Snapshot(snapshot::Command),
    /// Change settings of the swarm
    Update(update::Update),
}

impl Command {
    pub async fn run(self, client: &Client) -> Result<()> {
        match self {
            Self::Ca(command) => command.run(client).await,
            Self::Init(command) => command.run(client).await,
            Self::Join(command) => command.run(client).await,
            Self::JoinToken(command) => command.run(client).await,
            Self::Leave(command) => command.run(client).await,
            Self::Unlock(command) => command.run(client).await,
            Self::UnlockKey(command) => command.run(client).await,
            Self::Snapshot(command) => command.run(client).await,
            Self::Update(command) => command.run(client).await,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum Availability {
    #[default]
    Active,
    Pause,
    Drain,
}

impl From<Availability> for node_spec::Availability {
    fn from(availability: Availability) -> Self {
        match availability {
            Availability::Active => Self::Active,
            Availability::Pause => Self::Pause,
            Availability::Drain => Self::Drain,
        }
    }
}

/// The command that another machine runs to join.
pub fn join_command(token: &str, manager: &str) -> String {
    format!("    swarmctl swarm join --token {token} {manager}")
}
