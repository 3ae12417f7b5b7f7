//! `swarm unlock`.

use std::io::{self, IsTerminal as _};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use console::Term;
use proto::local::info_response::State;
use proto::local::{InfoRequest, UnlockRequest};

use crate::client::{Answer as _, Client};

#[derive(Debug, Args)]
pub struct Unlock {}

impl Unlock {
    pub async fn run(self, client: &Client) -> Result<()> {
        let info = client.node().info(InfoRequest {}).await.answer()?;
        match info.state() {
            State::Locked => {}
            State::Inactive => bail!("this node is not part of a swarm"),
            _ => bail!("swarm is not locked"),
        }
        client.node().unlock(UnlockRequest { unlock_key: read_key()? }).await.answer()?;
        println!("Swarm unlocked.");
        Ok(())
    }
}

/// A person types it unseen; a program sends a line.
fn read_key() -> Result<String> {
    if io::stdin().is_terminal() {
        let terminal = Term::stderr();
        terminal.write_str("Enter unlock key: ")?;
        return terminal.read_secure_line().context("cannot read the unlock key");
    }
    let mut line = String::new();
    io::stdin().read_line(&mut line).context("cannot read the unlock key")?;
    Ok(line.trim().to_owned())
}
