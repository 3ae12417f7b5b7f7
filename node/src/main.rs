//! `swarmd`: the daemon of a node. Puts worker and manager together.

mod addr;
mod config;
mod daemon;
mod dial;
mod error;
mod expulsion;
mod gate;
mod info;
mod local_api;
mod logging;
mod manager_side;
mod membership;
mod record;
mod sealing;
mod snapshot;
mod swarm;

use std::process::ExitCode;

use clap::Parser as _;

use crate::config::Options;

fn main() -> ExitCode {
    let settings = match Options::parse().settle() {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("swarmd: {}", error::chain(&error));
            return ExitCode::FAILURE;
        }
    };
    logging::start(settings.log_level, settings.log_format);
    forbid_dumps();
    match daemon::run(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Keys are in this process's memory: no core of it is written, and none but root may look into it. Unlike a limit, this
/// is not passed on to containers.
fn forbid_dumps() {
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        tracing::warn!(%error, "cannot keep the kernel from dumping this process");
    }
}
