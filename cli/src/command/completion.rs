//! `completion <shell>`.

use anyhow::Result;
use clap::{Args, CommandFactory as _};

#[derive(Debug, Args)]
pub struct Completion {
    shell: clap_complete::Shell,
}

impl Completion {
    #[expect(clippy::unnecessary_wraps, reason = "commands are run alike")]
    pub fn run(self) -> Result<()> {
        clap_complete::generate(self.shell, &mut crate::Cli::command(), "swarmctl", &mut std::io::stdout());
        Ok(())
    }
}
