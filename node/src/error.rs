//! Why a node could not become part of a swarm, or leave it.

use tonic::{Code, Status};

use crate::{addr, record};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "this node is already part of a swarm; use \"swarmctl swarm leave\" to leave it and join another one"
    )]
    AlreadyAMember,
    #[error("this node is not part of a swarm")]
    NotAMember,
    #[error("this node is not a manager")]
    NoManager,
    #[error(
        "this manager hears a leader, so the managers are not lost: use \"swarmctl node demote\" and \"swarmctl node rm\" \
         for those that are"
    )]
    HasLeader,
    #[error(
        "this node was removed from its swarm and has stopped its tasks: use \"swarmctl swarm leave\", then join again"
    )]
    Removed,
    #[error("{path} is missing: restore it, or use \"swarmctl swarm leave --force\" and join again")]
    NoRecord { path: std::path::PathBuf },
    #[error("the replica of the managers' state has stopped: {0}")]
    Stopped(String),
    #[error(
        "this node is a manager: leaving takes its vote from the others; demote it first with \
         \"swarmctl node demote\", or use --force"
    )]
    ManagerLeaves,
    #[error(
        "Swarm is encrypted and needs to be unlocked before it can be used: use \"swarmctl swarm unlock\" to unlock it"
    )]
    Locked,
    #[error("this node is not locked")]
    NotLocked,
    #[error(transparent)]
    UnlockKey(#[from] identity::unlock_key::Error),
    #[error("swarm could not be unlocked: this manager's keys were sealed with another unlock key")]
    WrongUnlockKey,
    #[error("{0}")]
    Unresumed(String),
    #[error("this daemon is stopping")]
    Stopping,
    #[error(transparent)]
    Addr(#[from] addr::Error),
    #[error(transparent)]
    Record(#[from] record::Error),
    #[error("{field}: {reason}")]
    Invalid { field: &'static str, reason: String },
    #[error(transparent)]
    Settings(#[from] manager::Error),
    #[error(transparent)]
    Token(#[from] identity::token::Error),
    #[error(transparent)]
    Bootstrap(#[from] identity::bootstrap::Error),
    #[error("cannot make the root certificate")]
    RootCa(#[from] identity::root_ca::Error),
    #[error("cannot use this node's certificate")]
    Certificates(#[source] identity::certificate_dir::Error),
    #[error("cannot use this node's certificate")]
    Tls(#[from] identity::tls::Error),
    #[error(transparent)]
    Store(#[from] raft_store::Error),
    #[error(transparent)]
    Snapshot(#[from] raft_store::backup::Error),
    #[error("cannot listen on {addr}")]
    Listen { addr: std::net::SocketAddr, source: std::io::Error },
    #[error("cannot become a member of the managers: {reason}")]
    Join {
        reason: String,
        /// Asking again would not help.
        refused: bool,
        /// The swarm does not know this node any more, or not as a manager.
        expelled: Option<Expelled>,
    },
    #[error(
        "this node has joined, but is not yet a manager: {reason}; it goes on trying, see \"swarmctl info\""
    )]
    NotYetManager { reason: String },
    #[error("cannot start the worker")]
    Worker(#[from] worker::Error),
    #[error("cannot end the containers of the swarm that was left")]
    Containers(#[from] worker::runtime::Error),
    #[error("cannot remove {path}")]
    Forget { path: std::path::PathBuf, source: std::io::Error },
}

/// What a manager that was away may be told when it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expelled {
    FromTheSwarm,
    FromTheManagers,
}

impl Error {
    pub const fn expelled(&self) -> Option<Expelled> {
        match self {
            Self::Join { expelled, .. } => *expelled,
            _ => None,
        }
    }

    /// Asking again would not help.
    pub const fn is_refusal(&self) -> bool {
        matches!(self, Self::Join { refused: true, .. })
    }
}

impl From<identity::certificate_dir::Error> for Error {
    fn from(error: identity::certificate_dir::Error) -> Self {
        match error {
            identity::certificate_dir::Error::Locked => Self::Locked,
            identity::certificate_dir::Error::WrongUnlockKey => Self::WrongUnlockKey,
            error => Self::Certificates(error),
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::AlreadyAMember
            | Error::NotAMember
            | Error::NoManager
            | Error::HasLeader
            | Error::ManagerLeaves
            | Error::Removed
            | Error::Locked
            | Error::NotLocked => Code::FailedPrecondition,
            Error::UnlockKey(_)
            | Error::WrongUnlockKey
            | Error::Snapshot(_)
            | Error::Addr(_)
            | Error::Invalid { .. }
            | Error::Settings(_)
            | Error::Token(_) => Code::InvalidArgument,
            Error::Stopping
            | Error::Bootstrap(_)
            | Error::Join { .. }
            | Error::NotYetManager { .. }
            | Error::Stopped(_) => Code::Unavailable,
            _ => Code::Internal,
        };
        Self::new(code, chain(&error))
    }
}

/// An error and its causes in one line. What the text says already is not said again.
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |&error| error.source());
    causes.map(ToString::to_string).fold(error.to_string(), |text, cause| {
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let refused = || std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let path = std::path::PathBuf::from("/x");
        let with_cause = Error::Forget { path: path.clone(), source: refused() };
        assert_eq!(chain(&with_cause), "cannot remove /x: connection refused");

        #[derive(Debug, thiserror::Error)]
        #[error("it failed: {0}")]
        struct Repeating(#[source] Error);
        let repeating = Repeating(Error::Forget { path, source: refused() });
        assert_eq!(chain(&repeating), "it failed: cannot remove /x: connection refused");
    }

    #[test]
    fn a_bad_token_is_told_in_one_sentence() {
        let error = Error::from("nonsense".parse::<identity::JoinToken>().unwrap_err());
        let told = chain(&error);
        assert_eq!(told, "the join token is not valid: it must look like SWMTKN-1-<digest>-<secret>");
    }
}
