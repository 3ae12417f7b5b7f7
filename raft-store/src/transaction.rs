//! A snapshot in, a change set out.
//!
//! The transaction reads like the tables and sees its own writes. Nothing is checked here: versions and invariants
//! are the state machine's.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::time::SystemTime;

use crate::change_set::{Proposal, ProposalId, Write};
use crate::{Object, ObjectId, Tables, Term, View};

pub struct Transaction {
    base: View,
    now: SystemTime,
    /// The base with the writes so far.
    tables: Tables,
    /// In the order in which they came. An object created and removed again leaves a gap.
    writes: Vec<Option<Write>>,
    positions: BTreeMap<ObjectId, usize>,
    expected: BTreeMap<ObjectId, u64>,
    outdated: bool,
}

impl Transaction {
    pub(crate) fn new(base: View, now: SystemTime) -> Self {
        Self {
            tables: Tables::clone(&base),
            base,
            now,
            writes: Vec::new(),
            positions: BTreeMap::new(),
            expected: BTreeMap::new(),
            outdated: false,
        }
    }

    /// The time with which the written objects are stamped.
    pub fn now(&self) -> SystemTime {
        self.now
    }

    /// The object's id must be new. `meta` is written by the store.
    pub fn create(&mut self, object: impl Into<Object>) {
        let object = object.into();
        self.put(object.clone());
        self.record(object.id(), Write::Create(object));
    }

    /// Replaces the object that has this id. `meta.version` must be as it was read: the update is refused if the
    /// object has changed since. An update that changes nothing is dropped.
    pub fn update(&mut self, object: impl Into<Object>) {
        let object = object.into();
        let id = object.id();
        self.outdated |= self.base.get(&id).is_some_and(|base| base.meta().version > object.meta().version);
        self.put(object.clone());
        self.record(id, Write::Update(object));
    }

    /// Does nothing if there is no such object.
    pub fn remove(&mut self, id: impl Into<ObjectId>) {
        let id = id.into();
        if let Some(object) = self.tables.remove(&id) {
            let version = object.meta().version;
            self.record(id.clone(), Write::Remove { id, version });
        }
    }

    /// Makes the update a conflict if the object changes before the update is applied, though it is only read here.
    pub fn expect_unchanged(&mut self, id: impl Into<ObjectId>) {
        let id = id.into();
        let version = self.base.get(&id).map_or(0, |object| object.meta().version);
        self.expected.insert(id, version);
    }

    fn put(&mut self, object: Object) {
        let before = self.tables.remove(&object.id());
        self.tables.insert(object, before.as_ref());
    }

    fn record(&mut self, id: ObjectId, write: Write) {
        let Some(&position) = self.positions.get(&id) else {
            self.positions.insert(id, self.writes.len());
            self.writes.push(Some(write));
            return;
        };
        let earlier = self.writes[position].take();
        self.writes[position] = match (earlier, write) {
            (Some(Write::Create(_)), Write::Remove { .. }) => None,
            (None | Some(Write::Create(_)), Write::Create(object) | Write::Update(object)) => {
                Some(Write::Create(object))
            }
            // Removed and made again under the same id: to the others that is a change.
            (Some(Write::Remove { version, .. }), Write::Create(object)) => {
                let meta = proto::model::Meta { version, ..*object.meta() };
                Some(Write::Update(object.with_meta(meta)))
            }
            (_, write) => Some(write),
        };
    }

    /// The view is newer than an object that was to be updated: trying again would not help.
    pub(crate) fn is_outdated(&self) -> bool {
        self.outdated
    }

    /// None if nothing changes.
    pub(crate) fn into_proposal(self, id: ProposalId, term: Option<Term>) -> Option<Proposal> {
        let base = self.base;
        let changes = |write: &Write| match write {
            Write::Update(object) => base.get(&object.id()).as_ref() != Some(object),
            Write::Create(_) | Write::Remove { .. } => true,
        };
        let writes: Vec<Write> = self.writes.into_iter().flatten().filter(changes).collect();
        if writes.is_empty() {
            return None;
        }
        let expected = self.expected.into_iter().collect();
        Some(Proposal { id, base: base.index(), at: self.now, term, writes, expected })
    }
}

impl Deref for Transaction {
    type Target = Tables;

    fn deref(&self) -> &Tables {
        &self.tables
    }
}
