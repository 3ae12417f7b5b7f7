//! What must hold at every moment, whatever has failed.
//!
//! - In a term at most one member leads, and at most one is told so.
//! - An entry's index and term determine what it says and what comes before it, on every member and after every crash.
//! - The state at an index is the same on every member and after every crash.
//! - A member's view only goes forward, and so does the version of each object.
//! - No two objects hold the same address.

use std::collections::BTreeMap;

use openraft::ServerState;

use super::World;
use super::clients::Answers;
use crate::{Backend, ObjectId, RaftId, Store, Term, View};

#[derive(Default)]
pub(crate) struct Checks {
    pub(super) answers: Answers,
    leaders: BTreeMap<u64, RaftId>,
    told: BTreeMap<Term, RaftId>,
    /// By index and term: checksum of the entry, and term of the one before.
    entries: BTreeMap<(u64, u64), (Option<u32>, Option<u64>)>,
    states: BTreeMap<u64, u64>,
    /// What was looked at, by machine; begins again with each life.
    seen: BTreeMap<usize, Seen>,
}

#[derive(Default)]
struct Seen {
    raft_id: RaftId,
    view: View,
    versions: BTreeMap<ObjectId, u64>,
    serial: u64,
}

impl Checks {
    /// A new life knows nothing.
    pub(super) fn begin(&mut self, machine: usize) {
        self.seen.remove(&machine);
    }

    pub(super) fn look(&mut self, world: &World, machine: usize, store: &Store) {
        let Backend::Replicated(replicated) = &store.0.backend else { return };
        let me = store.raft_id();
        self.seen.entry(machine).or_default().raft_id = me;
        let metrics = replicated.metrics();
        if metrics.state == ServerState::Leader && metrics.running_state.is_ok() {
            let term = metrics.vote.leader_id.term;
            let leader = *self.leaders.entry(term).or_insert(me);
            if leader != me {
                world.flaw(format_args!("{leader:x} and {me:x} lead in term {term}"));
            }
        }
        if let Some(term) = store.leadership().borrow().leading {
            let leader = *self.told.entry(term).or_insert(me);
            if leader != me {
                world.flaw(format_args!("{leader:x} and {me:x} are told that they lead in {term:?}"));
            }
        }
        self.look_at_log(world, machine, replicated);
        self.look_at_state(world, machine, store.view());
    }

    fn look_at_log(&mut self, world: &World, machine: usize, member: &crate::replicated::Replicated) {
        let seen = self.seen.entry(machine).or_default();
        for found in member.log.newer_than(seen.serial) {
            seen.serial = found.serial;
            let said = (found.checksum, found.term_before);
            let known = self.entries.entry((found.index, found.term)).or_insert(said);
            *known = (known.0.or(said.0), known.1.or(said.1));
            if (said.0.is_some() && known.0 != said.0) || (said.1.is_some() && known.1 != said.1) {
                let (index, term) = (found.index, found.term);
                world.flaw(format_args!(
                    "m{machine}: entry {index} of term {term} says {said:?}, elsewhere {known:?}"
                ));
            }
        }
    }

    fn look_at_state(&mut self, world: &World, machine: usize, view: View) {
        let seen = self.seen.entry(machine).or_default();
        if view.index() == seen.view.index() {
            return;
        }
        if view.index() < seen.view.index() {
            world.flaw(format_args!("m{machine} goes back from {} to {}", seen.view.index(), view.index()));
        }
        for flaw in view.flaws() {
            world.flaw(format_args!("m{machine} at {}: {flaw}", view.index()));
        }
        let mut versions = BTreeMap::new();
        for object in view.objects() {
            let (id, version) = (object.id(), object.meta().version);
            if seen.versions.get(&id).is_some_and(|before| *before > version) {
                world.flaw(format_args!("m{machine}: the version of {id} goes down to {version}"));
            }
            versions.insert(id, version);
        }
        let mut digest = std::hash::DefaultHasher::new();
        for (id, version) in &versions {
            std::hash::Hash::hash(&(id.to_string(), version), &mut digest);
        }
        let digest = std::hash::Hasher::finish(&digest);
        let known = *self.states.entry(view.index()).or_insert(digest);
        if known != digest {
            world.flaw(format_args!("m{machine} differs from another one at index {}", view.index()));
        }
        seen.versions = versions;
        seen.view = view;
    }
}
