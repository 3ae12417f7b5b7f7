//! The replicated state as Raft knows it: entries go in, answers come out, snapshots are built and installed.
//!
//! The state lives in memory. After a start it is made again from the snapshot and the log, so that nothing needs to
//! be written when an entry is applied.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{Stream, TryStreamExt};
use openraft::OptionalSend;
use openraft::entry::RaftEntry as _;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};

use crate::Change;
use crate::codec::decode_proposal;
use crate::host::blocking;
use crate::snapshot::{self, SnapshotFile, Snapshots};
use crate::state_machine::{Outcome, Position, State};
use crate::types::{Entry, Group, LogId, Payload, SnapshotMeta, StoredMembers, term};
use crate::watch::Feed;

pub(crate) type SnapshotOf =
    Snapshot<crate::types::LeaderId, crate::RaftId, crate::types::Address, Arc<SnapshotFile>>;

/// Cheap to clone; all clones are the same replica.
#[derive(Clone)]
pub(crate) struct Replica(Arc<Shared>);

struct Shared {
    feed: Arc<Feed>,
    snapshots: Snapshots,
    inner: Mutex<Inner>,
    current: Mutex<Option<(SnapshotMeta, Arc<SnapshotFile>)>>,
}

#[derive(Default)]
struct Inner {
    state: State,
    last: Option<LogId>,
    members: StoredMembers,
}

impl Replica {
    /// Finds the newest snapshot; Raft has it installed.
    pub(crate) fn new(feed: Arc<Feed>, snapshots: Snapshots) -> Result<Self, snapshot::Error> {
        let current = snapshots.latest()?.map(|(meta, file)| (meta, Arc::new(file)));
        let shared =
            Shared { feed, snapshots, inner: Mutex::new(Inner::default()), current: Mutex::new(current) };
        Ok(Self(Arc::new(shared)))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> MutexGuard<'_, Option<(SnapshotMeta, Arc<SnapshotFile>)>> {
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply_one(&self, entry: Entry) -> io::Result<Outcome> {
        let id = entry.log_id();
        let mut inner = self.inner();
        inner.last = Some(id);
        let (outcome, changes) = match entry.payload {
            Payload::Normal(command) => {
                // Another version of the program wrote it: going on without it would make this replica differ.
                let proposal = decode_proposal(&command.0).map_err(io::Error::other)?;
                inner.state.apply(proposal, Position { index: id.index, term: term(&id) })
            }
            Payload::Blank => inner.nothing(id),
            Payload::Membership(members) => {
                inner.members = StoredMembers::new(Some(id), members);
                inner.nothing(id)
            }
        };
        self.publish(&inner, changes);
        Ok(outcome)
    }

    /// Under the lock, so that views never go back.
    fn publish(&self, inner: &Inner, changes: Vec<Change>) {
        self.0.feed.publish(inner.state.tables.clone(), changes);
    }

    /// Makes an installed snapshot our own, unless it is already.
    fn take_over(
        &self,
        meta: &SnapshotMeta,
        file: Arc<SnapshotFile>,
        state: &State,
    ) -> Result<(), snapshot::Error> {
        if self.current().as_ref().is_some_and(|(_, current)| Arc::ptr_eq(current, &file)) {
            return Ok(());
        }
        // A file that somebody else holds too is not ours to move.
        let file = match Arc::into_inner(file) {
            Some(file) => file,
            None => self.0.snapshots.build(meta, state)?,
        };
        self.keep(meta, file).map(|_| ())
    }

    /// Keeps a snapshot unless there is a newer one.
    fn keep(&self, meta: &SnapshotMeta, file: SnapshotFile) -> Result<Arc<SnapshotFile>, snapshot::Error> {
        let mut current = self.current();
        if let Some((kept, file)) = &*current
            && kept.last_log_id > meta.last_log_id
        {
            return Ok(file.clone());
        }
        let file = Arc::new(self.0.snapshots.keep(meta, file)?);
        *current = Some((meta.clone(), file.clone()));
        Ok(file)
    }
}

impl Inner {
    fn nothing(&mut self, id: LogId) -> (Outcome, Vec<Change>) {
        self.state.tables.set_index(id.index);
        (Outcome::Applied { index: id.index }, Vec::new())
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.last, last_membership: self.members.clone() }
    }
}

impl RaftStateMachine<Group> for Replica {
    type SnapshotData = Arc<SnapshotFile>;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembers)> {
        let inner = self.inner();
        Ok((inner.last, inner.members.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Group>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let outcome = self.apply_one(entry)?;
            if let Some(responder) = responder {
                responder.send(outcome);
            }
        }
        self.0.feed.announce();
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let inner = self.inner();
        Builder { replica: self.clone(), meta: inner.meta(), state: inner.state.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, file: Arc<SnapshotFile>) -> io::Result<()> {
        let (replica, meta_kept) = (self.clone(), meta.clone());
        let read = move || {
            let (_, state) = replica.0.snapshots.restore(&file)?;
            if cfg!(debug_assertions) {
                state.tables.assert_sound();
            }
            replica.take_over(&meta_kept, file, &state)?;
            Ok::<_, snapshot::Error>(state)
        };
        let state = blocking(read).await??;
        let mut inner = self.inner();
        let changes = self.0.feed.view().diff(&state.tables);
        *inner = Inner { state, last: meta.last_log_id, members: meta.last_membership.clone() };
        self.publish(&inner, changes);
        self.0.feed.announce();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf>> {
        let current = self.current().clone();
        Ok(current.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// The state at one moment: writes go on while it is written to a file.
pub(crate) struct Builder {
    replica: Replica,
    meta: SnapshotMeta,
    state: State,
}

impl RaftSnapshotBuilder<Group> for Builder {
    type SnapshotData = Arc<SnapshotFile>;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf> {
        let (replica, meta, state) = (self.replica.clone(), self.meta.clone(), self.state.clone());
        let build = move || {
            let file = replica.0.snapshots.build(&meta, &state)?;
            let snapshot = replica.keep(&meta, file)?;
            Ok::<_, snapshot::Error>(Snapshot { meta, snapshot })
        };
        Ok(blocking(build).await??)
    }
}
