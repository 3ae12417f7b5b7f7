//! Whose messages are heard: those of members, each from the node that the group knows it on.
//!
//! A layer around the service lets in whoever shows a manager's certificate, but that outlives the role: a manager
//! that was put out of the group would still be obeyed. What a member may do is Raft's business.
//!
//! A member that was away while the others were replaced knows nobody of those who are there now. So strangers are
//! heard by a member that is in no group yet, and by one that has heard no member for `LONELY`.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use proto::model::NodeId;
use tokio::time::Instant;
use tonic::Status;

use crate::RaftId;
use crate::replicated::Replicated;
use crate::types::{Address, Metrics};

/// Far longer than an election: while a group has a leader, or most of it looks for one, nobody is lonely.
const LONELY: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("only a node may call this")]
    Nobody,
    #[error("node {caller} is not where member {claimed:x} is")]
    Impostor { caller: NodeId, claimed: RaftId },
    #[error("member {claimed:x} on node {caller} does not belong to this group of managers")]
    Stranger { caller: NodeId, claimed: RaftId },
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        Self::permission_denied(refusal.to_string())
    }
}

/// When a member was heard last.
#[derive(Default)]
pub(crate) struct Heard(Mutex<Option<Instant>>);

impl Heard {
    fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn lately(&self) -> bool {
        let heard = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.is_some_and(|at| at.elapsed() < LONELY)
    }
}

/// Whether `member` hears a message that `caller` sends as the member `claimed`.
pub(crate) fn admit(member: &Replicated, caller: Option<NodeId>, claimed: RaftId) -> Result<(), Refusal> {
    let caller = caller.ok_or(Refusal::Nobody)?;
    let known = member.address_of(claimed);
    let cut_off = || {
        let leads = member.leadership.borrow().leading.is_some();
        !leads && !member.heard.lately() && may_be_cut_off(&member.metrics(), member.raft_id)
    };
    decide(caller, claimed, known.as_ref(), cut_off)?;
    if known.is_some() {
        member.heard.note();
    }
    Ok(())
}

/// Others may have gone on without this member; without the only voter there is nobody who could.
fn may_be_cut_off(metrics: &Metrics, me: RaftId) -> bool {
    metrics.membership_config.voter_ids().ne([me])
}

fn decide(
    caller: NodeId,
    claimed: RaftId,
    known: Option<&Address>,
    cut_off: impl FnOnce() -> bool,
) -> Result<(), Refusal> {
    match known {
        Some(known) if known.node_id == caller.as_str() => Ok(()),
        Some(_) => Err(Refusal::Impostor { caller, claimed }),
        None if cut_off() => Ok(()),
        None => Err(Refusal::Stranger { caller, claimed }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_believed_from_its_own_node_and_a_stranger_by_the_lonely_only() {
        let known = Address { node_id: "a".into(), addr: "192.0.2.1:2377".into() };
        assert_eq!(decide("a".into(), 7, Some(&known), || false), Ok(()));
        for cut_off in [false, true] {
            let impostor = decide("b".into(), 7, Some(&known), || cut_off);
            assert_eq!(impostor, Err(Refusal::Impostor { caller: "b".into(), claimed: 7 }));
        }
        let stranger = Refusal::Stranger { caller: "a".into(), claimed: 8 };
        assert_eq!(decide("a".into(), 8, None, || false), Err(stranger));
        assert_eq!(decide("a".into(), 8, None, || true), Ok(()));
    }
}
