//! The update loop: closure on a view, change set, one entry, answer; on a conflict again on a newer view.

use std::time::Duration;

use prost::bytes::Bytes;
use tokio::time::timeout;

use crate::change_set::{Proposal, ProposalId};
use crate::codec;
use crate::state_machine::Outcome;
use crate::{Store, Term, Transaction, Violation};

/// Runs of the closure before an update gives up on conflicts.
const ATTEMPTS: usize = 32;

/// How long the leader's answer may be ahead of this manager's replica: it may have been cut off just then.
const CATCH_UP: Duration = Duration::from_secs(10);

/// Encoded, one entry. Bounds what a single write can cost everybody.
pub(crate) const MAX_ENTRY_BYTES: usize = 4 << 20;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error<E> {
    /// The closure's own error. Nothing was changed.
    #[error("{0}")]
    Aborted(E),
    #[error("{0}")]
    Violated(Violation),
    /// The objects changed under the update again and again, or were out of date from the start.
    #[error("the object was changed by somebody else at the same time: try again")]
    Conflict,
    /// This manager does not lead in the term for which the update was.
    #[error("this manager has lost the leadership")]
    LostLeadership,
    /// Certain: nothing was changed.
    #[error("no leader within {} s: most managers must be up and reach each other", .0.as_secs())]
    NoQuorum(Duration),
    /// The update was sent, and no answer came: it may have been applied or may be yet.
    #[error("no answer within {} s: the change may have been made or not; look before trying again", .0.as_secs())]
    Unknown(Duration),
    #[error("the change takes {bytes} bytes, allowed are {max}")]
    TooLarge { bytes: usize, max: usize },
    /// An object holds something that its wire form cannot: a mistake of the caller's.
    #[error("the change cannot be stored: {0}")]
    Unstorable(String),
    /// It may have been applied before that.
    #[error("the store is stopped; the change may have been made or not")]
    Stopped,
}

impl<E> Error<E> {
    /// Whether the same update may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Conflict | Self::NoQuorum(_) | Self::Unknown(_))
    }

    /// The same error for a caller with another abort error.
    pub fn map_aborted<F>(self, map: impl FnOnce(E) -> F) -> Error<F> {
        match self {
            Self::Aborted(error) => Error::Aborted(map(error)),
            Self::Violated(violation) => Error::Violated(violation),
            Self::Conflict => Error::Conflict,
            Self::LostLeadership => Error::LostLeadership,
            Self::NoQuorum(after) => Error::NoQuorum(after),
            Self::Unknown(after) => Error::Unknown(after),
            Self::TooLarge { bytes, max } => Error::TooLarge { bytes, max },
            Self::Unstorable(reason) => Error::Unstorable(reason),
            Self::Stopped => Error::Stopped,
        }
    }
}

/// Why a proposal got no outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    NoQuorum(Duration),
    Unknown(Duration),
    TooLarge { bytes: usize, max: usize },
    Unstorable(String),
    Stopped,
}

/// The entry for a proposal, and the proposal as every replica will read it.
pub(crate) fn entry(proposal: &Proposal) -> Result<(Bytes, Proposal), Failure> {
    let bytes = codec::encode_proposal(proposal);
    if bytes.len() > MAX_ENTRY_BYTES {
        return Err(Failure::TooLarge { bytes: bytes.len(), max: MAX_ENTRY_BYTES });
    }
    // What cannot be read would stop every replica when it is applied.
    let read = codec::decode_proposal(&bytes).map_err(|error| Failure::Unstorable(error.to_string()))?;
    Ok((bytes, read))
}

impl<E> From<Failure> for Error<E> {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NoQuorum(after) => Self::NoQuorum(after),
            Failure::Unknown(after) => Self::Unknown(after),
            Failure::TooLarge { bytes, max } => Self::TooLarge { bytes, max },
            Failure::Unstorable(reason) => Self::Unstorable(reason),
            Failure::Stopped => Self::Stopped,
        }
    }
}

/// Whether there is a newer view than that of `base`, now that this manager has all that was committed. Without a quorum
/// what is known has to do.
async fn catches_up(store: &Store, base: u64) -> bool {
    store.linearize().await.is_ok() && store.view().index() > base
}

pub(crate) async fn update<T, E>(
    store: &Store,
    term: Option<Term>,
    mut ids: impl FnMut() -> ProposalId + Send,
    mut change: impl FnMut(&mut Transaction) -> Result<T, E> + Send,
) -> Result<T, Error<E>> {
    let mut current = false;
    for _ in 0..ATTEMPTS {
        let view = store.view();
        let base = view.index();
        let mut transaction = Transaction::new(view, store.now());
        let value = match change(&mut transaction) {
            Ok(value) => value,
            // What it was refused for, such as a name that is taken, may be over, and another manager's client may
            // know it.
            Err(_)
                if term.is_none()
                    && !std::mem::replace(&mut current, true)
                    && catches_up(store, base).await =>
            {
                continue;
            }
            Err(error) => return Err(Error::Aborted(error)),
        };
        if transaction.is_outdated() {
            return Err(Error::Conflict);
        }
        let Some(proposal) = transaction.into_proposal(ids(), term) else {
            return Ok(value);
        };
        match store.propose(proposal).await? {
            Outcome::Applied { index } => {
                if timeout(CATCH_UP, store.applied(index)).await.is_err() {
                    tracing::warn!(index, "the change is made, but this manager has not heard of it yet");
                }
                return Ok(value);
            }
            Outcome::Conflict { index } | Outcome::Forgotten { index } => {
                if timeout(CATCH_UP, store.applied(index)).await.is_err() {
                    return Err(Error::NoQuorum(CATCH_UP));
                }
                tokio::task::yield_now().await;
            }
            Outcome::Violated(violation) => return Err(Error::Violated(violation)),
            Outcome::Deposed => return Err(Error::LostLeadership),
        }
    }
    Err(Error::Conflict)
}
