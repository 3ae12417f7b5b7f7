//! `swarmctl`: the operator's command line.
//!
//! One file a verb under `command`; they all ask the daemon on this machine over its unix socket and print what it
//! says, as a table, as Docker's JSON, or through a template.

mod client;
mod command;
mod docker;
mod format;
mod progress;
mod resolve;
mod settings;
mod units;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use crate::command::Command;

/// Operates a swarm.
#[derive(Debug, Parser)]
#[command(name = "swarmctl", version, propagate_version = true, disable_help_subcommand = true)]
pub struct Cli {
    /// Socket of the daemon to talk to
    #[arg(
        short = 'H',
        long,
        env = "SWARMCTL_HOST",
        value_name = "unix://PATH",
        default_value = "unix:///run/swarmd/swarmd.sock"
    )]
    host: String,

    #[command(subcommand)]
    command: Command,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command.run(&cli.host).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to be told if standard error is gone as well.
            let _ = writeln!(std::io::stderr(), "Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `swarmctl … | head` is no failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
