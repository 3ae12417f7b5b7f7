//! Apply: the only mutation of the replicated state.
//!
//! Deterministic: what comes out depends on the state and the entry alone, on every replica and after every
//! restart. Versions are checked first, then invariants, then everything is changed at once or nothing is. Times come
//! with the proposal. How entries get here is left to Raft, who hears of changes to `watch`.
//!
//! Invariant: a proposal is applied at most once, and an object's version is the index of the entry that last
//! changed it.

#[cfg(test)]
mod tests;

use imbl::OrdMap;
use proto::model::Meta;

use crate::change_set::{Proposal, ProposalId, Write};
use crate::tables::checks::check_transition;
use crate::{Change, Object, ObjectId, Tables, Term, Violation};

/// Answered proposals that are remembered, so that one that is sent again gets the same answer and is not applied again.
const REMEMBERED: usize = 8192;

/// In debug builds what was allocated is audited after every so many entries.
const AUDITED: u64 = 64;

/// The replicated state. A clone costs nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) tables: Tables,
    pub(crate) answered: Answered,
}

/// The proposals that were answered last. Those up to `horizon` are forgotten.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answered {
    pub(crate) horizon: u64,
    by_index: OrdMap<u64, Answer>,
    indexes: OrdMap<ProposalId, u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) id: ProposalId,
    pub(crate) applied: bool,
}

/// Where an entry stands in the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Position {
    pub(crate) index: u64,
    /// Of the leader that proposed it.
    pub(crate) term: Term,
}

/// The answer to a proposal.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    /// At this index; it may be an earlier one if the proposal was sent again.
    Applied {
        index: u64,
    },
    /// An object has changed since it was read. The view to try again on must include this index.
    Conflict {
        index: u64,
    },
    Violated(Violation),
    /// The proposal was for another term than that of its entry.
    Deposed,
    /// Made from a view so old that it might have been applied and forgotten.
    Forgotten {
        index: u64,
    },
}

impl State {
    pub(crate) fn apply(&mut self, proposal: Proposal, at: Position) -> (Outcome, Vec<Change>) {
        let refused = |outcome| (outcome, Vec::new());
        self.tables.set_index(at.index);
        if let Some((index, answer)) = self.answered.find(proposal.id) {
            // Of a refusal only this is remembered: that nothing was and nothing will be applied.
            let again = if answer.applied {
                Outcome::Applied { index }
            } else {
                Outcome::Conflict { index: at.index }
            };
            return refused(again);
        }
        if proposal.base < self.answered.horizon {
            return refused(Outcome::Forgotten { index: at.index });
        }
        let id = proposal.id;
        let (outcome, changes) = self.decide(proposal, at);
        let applied = matches!(outcome, Outcome::Applied { .. });
        if applied {
            self.tables.set_mark(mark_of(id));
        }
        self.answered.remember(at.index, Answer { id, applied });
        (outcome, changes)
    }

    fn decide(&mut self, proposal: Proposal, at: Position) -> (Outcome, Vec<Change>) {
        let refused = |outcome| (outcome, Vec::new());
        if proposal.term.is_some_and(|term| term != at.term) {
            return refused(Outcome::Deposed);
        }
        if !self.versions_hold(&proposal) {
            return refused(Outcome::Conflict { index: at.index });
        }
        // The clone shares everything with the tables until it is written to, and is dropped on a violation.
        let mut tables = self.tables.clone();
        match change(&mut tables, proposal, at.index) {
            Ok(changes) => {
                self.tables = tables;
                if cfg!(debug_assertions) && at.index.is_multiple_of(AUDITED) {
                    self.tables.assert_sound();
                }
                (Outcome::Applied { index: at.index }, changes)
            }
            Err(violation) => refused(Outcome::Violated(violation)),
        }
    }

    fn versions_hold(&self, proposal: &Proposal) -> bool {
        let version = |id: &ObjectId| self.tables.get(id).map(|object| object.meta().version);
        let writes = proposal.writes.iter().all(|write| match write {
            // Whether a new object's id is free is an invariant, not a version.
            Write::Create(_) => true,
            Write::Update(object) => version(&object.id()) == Some(object.meta().version),
            Write::Remove { id, version: read } => version(id) == Some(*read),
        });
        writes && proposal.expected.iter().all(|(id, read)| version(id).unwrap_or(0) == *read)
    }
}

/// First everything that changes is taken out, then it is put back in its new form: so the order of the writes does
/// not matter, and an address may pass from one object to another in one change set.
fn change(tables: &mut Tables, proposal: Proposal, index: u64) -> Result<Vec<Change>, Violation> {
    let befores: Vec<Option<Object>> =
        proposal.writes.iter().map(|write| tables.remove(&write.id())).collect();
    let mut changes = Vec::with_capacity(befores.len());
    for (write, before) in proposal.writes.into_iter().zip(befores) {
        let after = match (write, &before) {
            (Write::Create(object), Some(_)) => return Err(Violation::Exists { id: object.id() }),
            (Write::Create(object), None) => Some(object.with_meta(Meta {
                version: index,
                created_at: proposal.at,
                updated_at: proposal.at,
            })),
            (Write::Update(object), Some(before)) => {
                check_transition(before, &object)?;
                let created_at = before.meta().created_at;
                Some(object.with_meta(Meta { version: index, created_at, updated_at: proposal.at }))
            }
            (Write::Update(_), None) => {
                unreachable!("its version was found to hold, and no object is written twice")
            }
            (Write::Remove { .. }, _) => None,
        };
        if let Some(after) = &after {
            tables.check_unique(after)?;
            tables.insert(after.clone(), before.as_ref());
        }
        changes.push(Change { before, after });
    }
    for change in &changes {
        match (&change.before, &change.after) {
            (before, Some(after)) => {
                if before.is_none() {
                    tables.check_count(after.kind())?;
                }
                tables.check_references(after, before.as_ref())?;
            }
            (Some(before), None) => {
                tables.check_unreferenced(before)?;
                if let ObjectId::Network(network) = before.id() {
                    tables.forget_network(&network);
                }
            }
            (None, None) => {}
        }
    }
    Ok(changes)
}

/// Ids of proposals are random.
fn mark_of(id: ProposalId) -> u64 {
    (id >> 64) as u64 ^ id as u64
}

impl Answered {
    /// Of the last change; zero if that is forgotten.
    pub(crate) fn mark(&self) -> u64 {
        let last = self.by_index.values().rev().find(|answer| answer.applied);
        last.map_or(0, |answer| mark_of(answer.id))
    }

    fn find(&self, id: ProposalId) -> Option<(u64, Answer)> {
        let index = *self.indexes.get(&id)?;
        Some((index, *self.by_index.get(&index)?))
    }

    /// In the order of the log.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, Answer)> {
        self.by_index.iter().map(|(index, answer)| (*index, *answer))
    }

    pub(crate) fn remember(&mut self, index: u64, answer: Answer) {
        self.by_index.insert(index, answer);
        self.indexes.insert(answer.id, index);
        while self.by_index.len() > REMEMBERED {
            let Some((index, answer)) = self.by_index.get_min().copied() else { return };
            self.by_index.remove(&index);
            self.indexes.remove(&answer.id);
            self.horizon = index;
        }
    }
}
