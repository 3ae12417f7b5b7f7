//! `swarm leave`.

use anyhow::Result;
use clap::Args;
use proto::local::LeaveRequest;

use crate::client::{Answer as _, Client};

#[derive(Debug, Args)]
pub struct Leave {
    /// Leave although this node is a manager
    #[arg(short, long)]
    force: bool,
}

impl Leave {
    pub async fn run(self, client: &Client) -> Result<()> {
        client.node().leave(LeaveRequest { force: self.force }).await.answer()?;
        println!("Node left the swarm.");
        Ok(())
    }
}
