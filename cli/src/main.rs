//! `swarmctl`: the operator's command line.
//!
//! One file a verb under `command`; they all ask the daemon on this machine over its unix socket and print what it
//! says, as a table, as Docker's JSON, or through a template.

mod client;
mod command;
mod docker;
mod format;
mod once;
mod progress;
mod reading;
mod resolve;
mod settings;
mod units;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};

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
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misunderstood(&error),
    };
    match Box::pin(cli.command.run(&cli.host)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to be told if standard error is gone as well.
            let _ = writeln!(std::io::stderr(), "Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A command that is not understood is shown how it is used; a value that cannot be is an error like any other.
fn misunderstood(error: &clap::Error) -> ExitCode {
    if is_bad_value(error) {
        let text = error.to_string();
        let lines: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
        let text = lines.join(" ");
        let _ = writeln!(std::io::stderr(), "Error: {}", text.strip_prefix("error: ").unwrap_or(&text));
        return ExitCode::FAILURE;
    }
    // As above: nobody is left to be told if it cannot be printed.
    let _ = error.print();
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

fn is_bad_value(error: &clap::Error) -> bool {
    let given = matches!(error.get(ContextKind::InvalidValue), Some(ContextValue::String(value)) if !value.is_empty());
    error.kind() == ErrorKind::ValueValidation || (error.kind() == ErrorKind::InvalidValue && given)
}

/// `swarmctl … | head` is no failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_cannot_be_is_told_from_a_command_that_is_not_understood() {
        let is_bad_value = |arguments: &[&str]| {
            let arguments = [&["swarmctl"], arguments].concat();
            is_bad_value(&Cli::try_parse_from(arguments).unwrap_err())
        };
        assert!(is_bad_value(&["service", "create", "--limit-memory", "much", "nginx"]));
        assert!(is_bad_value(&["service", "create", "--mode", "sideways", "nginx"]));
        assert!(is_bad_value(&["service", "create", "-p", "80:80", "nginx"]));
        assert!(is_bad_value(&["service", "update", "--secret-add", "key", "web"]));
        assert!(!is_bad_value(&["service", "dance"]));
        assert!(!is_bad_value(&["service", "create", "--name"]));
        assert!(!is_bad_value(&["node", "ls", "--no-such-flag"]));
    }
}
