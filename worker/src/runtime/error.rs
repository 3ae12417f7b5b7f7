//! Why something could not be done with a container or an image, and what that means for the task.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Cloneable, because all who wait for one pull get its outcome. Messages are one line for the user and stand in
/// the task's status; [`Error::report`] adds the causes.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("invalid image reference {reference:?}: {reason}")]
    Reference { reference: String, reason: String },
    #[error("No such image: {image}")]
    NoSuchImage { image: String },
    #[error("access to image {image} denied: {reason}")]
    Denied { image: String, reason: String },
    #[error("registry {registry} speaks plain HTTP: allow it with --insecure-registry {registry}")]
    PlainHttp { registry: String },
    #[error("cannot reach registry {registry}: {reason}")]
    Unreachable { registry: String, reason: String },
    #[error("pull of {image} failed: {reason}")]
    Pull { image: String, reason: String, retry: bool },
    #[error("image {image} has no variant for {platform}")]
    Platform { image: String, platform: String },
    #[error("image archive is not usable: {reason}")]
    Archive { reason: String },
    #[error("invalid {field}: {reason}")]
    Config { field: &'static str, reason: String },
    #[error("bind source path does not exist: {}", .0.display())]
    BindSource(PathBuf),
    /// The OCI runtime refused; the text names what, such as `exec: "foo": executable file not found in $PATH`.
    #[error("{reason}")]
    Start { reason: String },
    #[error("No such container: {id}")]
    NoSuchContainer { id: String },
    #[error("container {id} exists already")]
    Exists { id: String },
    #[error("container {id} is not running")]
    NotRunning { id: String },
    #[error("containerd is not available: {reason}")]
    Unavailable { reason: String },
    #[error("containerd cannot {action}: {reason}")]
    Containerd { action: &'static str, reason: String },
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: Arc<io::Error>,
    },
}

/// What an error means for the task it happened to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// What was asked for cannot be had on this node: the task is REJECTED.
    Reject,
    /// It went wrong while running: the task FAILED.
    Fail,
    /// It may work in a moment, with the same task.
    Retry,
}

impl Error {
    pub fn config(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Config { field, reason: reason.into() }
    }

    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source: Arc::new(source) }
    }

    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Reference { .. }
            | Self::NoSuchImage { .. }
            | Self::Denied { .. }
            | Self::PlainHttp { .. }
            | Self::Unreachable { .. }
            | Self::Platform { .. }
            | Self::Archive { .. }
            | Self::Config { .. }
            | Self::BindSource(_)
            | Self::Pull { retry: false, .. } => Verdict::Reject,
            Self::Pull { retry: true, .. } | Self::Unavailable { .. } => Verdict::Retry,
            Self::Start { .. }
            | Self::NoSuchContainer { .. }
            | Self::Exists { .. }
            | Self::NotRunning { .. }
            | Self::Containerd { .. }
            | Self::Io { .. } => Verdict::Fail,
        }
    }

    /// The message and its causes, in one line.
    pub fn report(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text.replace('\n', " ")
    }
}
