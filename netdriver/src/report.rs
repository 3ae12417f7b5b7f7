//! What one `ensure` did and what it could not do.

use std::fmt;

use crate::desired::{NetworkKey, SandboxKey};
use crate::error::Error;
use crate::plan::Action;

/// Whom an error concerns.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// The node as a whole: its host namespace or the directory of namespaces.
    Host,
    Gateway,
    Network(NetworkKey),
    Sandbox(SandboxKey),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Gateway => f.write_str("gateway"),
            Self::Network(key) => write!(f, "network {key}"),
            Self::Sandbox(key) => write!(f, "sandbox {key}"),
        }
    }
}

#[derive(Debug, Default)]
#[must_use]
pub struct Report {
    /// Changes made to the kernel, in order; empty if all was as desired.
    pub changes: Vec<Action>,
    /// Everything that failed. One failure does not keep unrelated parts from being brought about.
    pub errors: Vec<(Subject, Error)>,
}

impl Report {
    /// The first error that concerns this sandbox: its own, its gateway's or that of a network it needed.
    ///
    /// A sandbox whose network could not be made carries an error of its own, so looking at its key is enough.
    pub fn sandbox_error(&self, key: &SandboxKey) -> Option<&Error> {
        let concerns = |subject: &Subject| matches!(subject, Subject::Sandbox(k) if k == key);
        self.errors.iter().find(|(subject, _)| concerns(subject)).map(|(_, error)| error)
    }

    /// For callers whose scope was a single thing: the first error, if any.
    pub fn into_result(self) -> Result<Vec<Action>, Error> {
        match self.errors.into_iter().next() {
            Some((_, error)) => Err(error),
            None => Ok(self.changes),
        }
    }

    pub(crate) fn absorb(&mut self, other: Self) {
        self.changes.extend(other.changes);
        self.errors.extend(other.errors);
    }
}
