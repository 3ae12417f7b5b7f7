//! What has changed of which network lately, so that a node that comes from another manager, or comes again, is told only
//! that.
//!
//! Kept in memory by every manager from its own feed of commits, so it is there after a change of leader, and bounded. It
//! says what to look at again; what became of it is read from the tables.
//!
//! Invariant: nothing is said to have followed a moment unless every commit after it was noted here, and the moment is
//! one of the history that was. A node that tells of any other is told everything.

use std::collections::VecDeque;

use proto::model::{NetworkId, ServiceId, TaskId};
use proto::network::Moment;
use raft_store::{Commit, Tables};

use super::handover::Concerned;
use super::touched::{Entries, Touched};
use crate::fanout::Journal;

/// Commits that are remembered, with at most so many entries of networks. Some MiB.
const COMMITS: usize = 16_384;
const NOTES: usize = 65_536;

#[derive(Debug, Default)]
pub struct Recent {
    /// Before the first of the commits.
    horizon: Moment,
    commits: VecDeque<Noted>,
    notes: usize,
}

#[derive(Debug)]
struct Noted {
    moment: Moment,
    notes: Box<[(NetworkId, What)]>,
}

#[derive(Debug)]
enum What {
    Task(TaskId),
    Service(ServiceId),
    Encryption,
}

pub fn moment(tables: &Tables) -> Moment {
    Moment { index: tables.index(), mark: tables.mark() }
}

impl Recent {
    /// Every commit up to here was noted.
    pub fn now(&self) -> Moment {
        self.commits.back().map_or(self.horizon, |last| last.moment)
    }

    /// What may have changed of a network since then; none if nobody here can tell.
    pub fn since(&self, network: &NetworkId, then: &Moment) -> Option<Entries> {
        if then.index < self.horizon.index || then.index > self.now().index {
            return None;
        }
        let next = self.commits.partition_point(|commit| commit.moment.index <= then.index);
        let known = next.checked_sub(1).map_or(self.horizon, |last| self.commits[last].moment);
        if known.mark != then.mark {
            return None;
        }
        let mut entries = Entries::default();
        for (_, what) in
            self.commits.range(next..).flat_map(|commit| &commit.notes).filter(|(of, _)| of == network)
        {
            match what {
                What::Task(task) => _ = entries.tasks.insert(task.clone()),
                What::Service(service) => _ = entries.services.insert(service.clone()),
                What::Encryption => entries.encryption = Concerned::All,
            }
        }
        Some(entries)
    }
}

impl Journal for Recent {
    type Touched = Touched;

    fn begin(&mut self, view: &Tables) {
        *self = Self { horizon: moment(view), ..Self::default() };
    }

    fn note(&mut self, commit: &Commit, touched: Option<&Touched>) {
        let notes: Box<[_]> = touched.into_iter().flat_map(notes).collect();
        self.notes += notes.len();
        self.commits.push_back(Noted { moment: moment(&commit.view), notes });
        while self.commits.len() > COMMITS || self.notes > NOTES {
            let Some(oldest) = self.commits.pop_front() else { return };
            self.notes -= oldest.notes.len();
            self.horizon = oldest.moment;
        }
    }
}

fn notes(touched: &Touched) -> impl Iterator<Item = (NetworkId, What)> {
    touched.networks.iter().flat_map(|(network, entries)| {
        let tasks = entries.tasks.iter().cloned().map(What::Task);
        let services = entries.services.iter().cloned().map(What::Service);
        // Whomever it concerns: the journal tells more rather than less.
        let encryption = (entries.encryption != Concerned::Nobody).then_some(What::Encryption);
        tasks.chain(services).chain(encryption).map(|what| (network.clone(), what))
    })
}
