//! The states of a task, in the order of its life.

use std::fmt;

/// Observed states only move forward. A desired state is one of `Ready`, `Running`, `Shutdown` and `Remove`
/// (and `Complete` for jobs).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TaskState {
    /// Made by an orchestrator.
    #[default]
    New,
    /// Has its addresses, waits for a node.
    Pending,
    /// Has a node.
    Assigned,
    /// The node knows of it.
    Accepted,
    /// The node fetches the image, makes network and container.
    Preparing,
    /// All is prepared; waits until it is desired to run.
    Ready,
    Starting,
    Running,
    /// Ended by itself, successfully.
    Complete,
    /// Stopped since that was desired.
    Shutdown,
    /// Ended by itself, with an error.
    Failed,
    /// The node cannot run it.
    Rejected,
    /// To be removed from the store as soon as it has ended.
    Remove,
    /// Its node is gone for good.
    Orphaned,
}

impl TaskState {
    /// The task has ended and will never run again: it needs no address, no resources and no network.
    pub fn is_terminal(self) -> bool {
        self > Self::Running
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Pending => "pending",
            Self::Assigned => "assigned",
            Self::Accepted => "accepted",
            Self::Preparing => "preparing",
            Self::Ready => "ready",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Shutdown => "shutdown",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Remove => "remove",
            Self::Orphaned => "orphaned",
        }
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
