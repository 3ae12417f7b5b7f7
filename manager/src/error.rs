//! How a refusal reaches the client: one line with the field, its value, and what is allowed or to be done.
//!
//! Decides which gRPC code a refusal has. Where a rule is checked is decided elsewhere: what concerns one message in
//! `api::validate`, what concerns several objects in the transaction or, for what must hold whoever writes, in the
//! store.

use std::fmt::Display;

use raft_store::{UpdateError, Violation};
use tonic::{Code, Status};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Malformed(#[from] proto::convert::Error),
    #[error("{field} has the value {value:?}: {remedy}")]
    Invalid { field: String, value: String, remedy: String },
    /// The reason names the value.
    #[error("{field}: {reason}")]
    Refused { field: String, reason: String },
    #[error("{field}: {what} are not supported by this version")]
    Unsupported { field: String, what: &'static str },
    #[error("{kind} {name:?} was not found")]
    NotFound { kind: &'static str, name: String },
    #[error("{kind} {name:?} exists already: choose another name")]
    Exists { kind: &'static str, name: String },
    #[error("update out of sequence: {kind} {id} has changed since it was read; read it again and repeat")]
    OutOfSequence { kind: &'static str, id: String },
    /// The request is fine, the state of the swarm is not.
    #[error("{0}")]
    Precondition(String),
    #[error("{0}")]
    Denied(String),
    /// It may work later.
    #[error("{0}")]
    Unavailable(String),
    /// Nothing that the client could mend.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    pub fn invalid(field: impl Into<String>, value: impl Display, remedy: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), value: value.to_string(), remedy: remedy.into() }
    }

    pub fn unsupported(field: impl Into<String>, what: &'static str) -> Self {
        Self::Unsupported { field: field.into(), what }
    }

    pub fn not_found(kind: &'static str, name: impl Display) -> Self {
        Self::NotFound { kind, name: name.to_string() }
    }

    pub const fn code(&self) -> Code {
        match self {
            // `Unimplemented` would mean that the call is unknown; it is the value that is.
            Self::Malformed(_) | Self::Invalid { .. } | Self::Refused { .. } | Self::Unsupported { .. } => {
                Code::InvalidArgument
            }
            Self::NotFound { .. } => Code::NotFound,
            Self::Exists { .. } => Code::AlreadyExists,
            Self::OutOfSequence { .. } => Code::Aborted,
            Self::Precondition(_) => Code::FailedPrecondition,
            Self::Denied(_) => Code::PermissionDenied,
            Self::Unavailable(_) => Code::Unavailable,
            Self::Internal(_) => Code::Internal,
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

/// How the failure of an update is told.
pub fn status(error: UpdateError<Error>) -> Status {
    let code = match &error {
        UpdateError::Aborted(error) => error.code(),
        UpdateError::Violated(violation) => violation_code(violation),
        UpdateError::Conflict => Code::Aborted,
        UpdateError::LostLeadership | UpdateError::NoQuorum(_) => Code::Unavailable,
        // It may have been done.
        UpdateError::Unknown(_) | UpdateError::Stopped => Code::DeadlineExceeded,
        UpdateError::TooLarge { .. } | UpdateError::Unstorable(_) => Code::InvalidArgument,
    };
    Status::new(code, error.to_string())
}

const fn violation_code(violation: &Violation) -> Code {
    match violation {
        Violation::NameTaken { .. } | Violation::Exists { .. } => Code::AlreadyExists,
        Violation::Missing { .. } => Code::NotFound,
        Violation::TooMany { .. } => Code::ResourceExhausted,
        Violation::SubnetOverlap { .. } | Violation::Immutable { .. } => Code::InvalidArgument,
        Violation::AddressTaken { .. }
        | Violation::VniTaken { .. }
        | Violation::InUse { .. }
        | Violation::Backwards { .. } => Code::FailedPrecondition,
    }
}
