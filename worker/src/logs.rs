//! The output of containers as it is kept on disk: what a reader may ask for and what it gets.
//!
//! The files are written by `swarm-logger` (see [`writer`]), one process a container, in the JSON lines of Docker's
//! `json-file` driver. A lock on a file beside them tells whether the writer lives: it ends with the container.

mod files;
mod reader;
mod record;
pub mod timestamp;
pub mod writer;

use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use futures_util::stream::BoxStream;

use reader::{Reader, Step};

/// How often a follower looks for more. Nothing is looked for while nobody follows.
const POLL: Duration = Duration::from_millis(100);

/// Lines in the order in which they were written, both streams merged.
pub type LogStream = BoxStream<'static, io::Result<LogLine>>;

/// One line, or a piece of at most 16 KiB of a longer one.
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

impl LogQuery {
    fn wants(&self, line: &LogLine) -> bool {
        let source = match line.source {
            LogSource::Stdout => self.stdout,
            LogSource::Stderr => self.stderr,
        };
        source && self.since.is_none_or(|since| line.time >= since)
    }
}

/// Reads the output kept in `directory`. `expected` tells whether output may still begin where there is none yet.
pub fn read(
    directory: PathBuf,
    query: LogQuery,
    expected: impl Fn() -> bool + Send + Sync + 'static,
) -> LogStream {
    async_stream::try_stream! {
        let mut reader = Reader::new(directory, query);
        loop {
            let step;
            (reader, step) = blocking(reader).await?;
            match step {
                Step::Lines(lines) => {
                    for line in lines {
                        yield line;
                    }
                }
                Step::Idle => tokio::time::sleep(POLL).await,
                Step::Absent if expected() => tokio::time::sleep(POLL).await,
                Step::Absent | Step::End => break,
            }
        }
    }
    .boxed()
}

async fn blocking(mut reader: Reader) -> io::Result<(Reader, Step)> {
    let step = tokio::task::spawn_blocking(move || {
        let step = reader.step()?;
        Ok((reader, step))
    });
    step.await.map_err(io::Error::other)?
}
