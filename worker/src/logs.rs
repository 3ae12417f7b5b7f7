//! The output of containers as it is kept on disk: what a reader may ask for and what it gets.
//!
//! The files are written by `swarm-logger`, one process a container, in the JSON lines of Docker's `json-file`
//! driver. Nothing here writes.

use std::time::SystemTime;

use futures_util::stream::BoxStream;

/// Lines in the order in which they were written, both streams merged.
pub type LogStream = BoxStream<'static, Result<LogLine, std::io::Error>>;

/// One line without its newline, or a piece of at most 16 KiB of a longer one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    pub time: SystemTime,
    pub source: LogSource,
    /// As the program wrote it, with the newline if there was one.
    pub data: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogSource {
    Stdout,
    Stderr,
}

/// Which lines to read. The default is all that there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogQuery {
    /// Only the last so many lines of what is there at the start.
    pub tail: Option<u64>,
    /// Only lines written then or later.
    pub since: Option<SystemTime>,
    /// Goes on with what is written later, until the container has ended.
    pub follow: bool,
    pub stdout: bool,
    pub stderr: bool,
}

impl Default for LogQuery {
    fn default() -> Self {
        Self { tail: None, since: None, follow: false, stdout: true, stderr: true }
    }
}
