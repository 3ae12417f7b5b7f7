//! What is told about images.

use std::fmt;
use std::time::SystemTime;

/// An image that is present and unpacked on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedImage {
    /// The full name, such as `docker.io/library/nginx:latest`; with the digest if that was asked for.
    pub reference: String,
    /// Of the manifest, or of the index if the name means one: what the registry calls the image.
    pub digest: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSummary {
    pub reference: String,
    pub digest: String,
    /// Compressed layers, configuration and manifest.
    pub size_bytes: u64,
    pub created: Option<SystemTime>,
}

/// How far a pull has come. Its text is fit for a task's status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PullProgress {
    pub phase: PullPhase,
    pub layers: usize,
    pub layers_done: usize,
    pub total_bytes: u64,
    pub done_bytes: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PullPhase {
    /// Asking the registry.
    #[default]
    Resolving,
    Downloading,
    Extracting,
    Done,
}

impl fmt::Display for PullProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { layers, layers_done, .. } = self;
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        match self.phase {
            PullPhase::Resolving => write!(f, "resolving"),
            PullPhase::Downloading => {
                let (done, total) = (megabytes(self.done_bytes), megabytes(self.total_bytes));
                write!(f, "downloading {done:.1}/{total:.1} MB, {layers_done}/{layers} layers")
            }
            PullPhase::Extracting => write!(f, "extracting, {layers_done}/{layers} layers"),
            PullPhase::Done => write!(f, "pulled"),
        }
    }
}
