//! The daemon's own log, on standard error.

use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt;

use crate::config::{LogFormat, LogLevel};

/// Libraries are heard from `warn` on: their debug output is about themselves.
pub fn start(level: LogLevel, format: LogFormat) {
    let ours = match level {
        LogLevel::Debug => "debug",
        LogLevel::Info => "info",
        LogLevel::Warn => "warn",
        LogLevel::Error => "error",
    };
    let crates = ["swarmd", "proto", "identity", "raft_store", "manager", "netdriver", "worker"];
    let floor = if level == LogLevel::Error { "error" } else { "warn" };
    let filter = crates.iter().fold(floor.to_owned(), |filter, name| format!("{filter},{name}={ours}"));
    let log = fmt().with_env_filter(EnvFilter::new(filter)).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().init(),
    }
}
