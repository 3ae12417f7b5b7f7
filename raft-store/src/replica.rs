//! The replicated state as Raft knows it: entries go in, answers come out, snapshots are built and installed.
//!
//! The state lives in memory. After a start it is made again from a snapshot and the log, so that nothing needs to
//! be written when an entry is applied.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{Stream, TryStreamExt};
use openraft::OptionalSend;
use openraft::entry::RaftEntry as _;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};
use proto::model::RaftConfig;

use crate::Change;
use crate::codec::decode_proposal;
use crate::giving_way::Alarm;
use crate::host::blocking;
use crate::log::Log;
use crate::snapshot::{self, Loaded, SnapshotFile, Snapshots};
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
    alarm: Alarm,
    inner: Mutex<Inner>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    newest: Option<(SnapshotMeta, Arc<SnapshotFile>)>,
    /// Up to which entry the oldest one reaches.
    oldest: Option<u64>,
}

#[derive(Default)]
struct Inner {
    state: State,
    last: Option<LogId>,
    members: StoredMembers,
}

impl Replica {
    /// Begins with the newest snapshot that can be used with the log.
    pub(crate) fn new(feed: Arc<Feed>, snapshots: Snapshots, log: &Log) -> Result<Self, snapshot::Error> {
        let (mut inner, mut kept) = (Inner::default(), Kept::default());
        if let Some(Loaded { meta, state, file }) = snapshots.load(log.range())? {
            inner = Inner::restored(state, &meta);
            kept = Kept { newest: Some((meta, Arc::new(file))), oldest: snapshots.oldest()? };
        }
        let (inner, kept) = (Mutex::new(inner), Mutex::new(kept));
        let replica = Self(Arc::new(Shared { feed, snapshots, alarm: log.alarm(), inner, kept }));
        replica.publish(&replica.inner(), Vec::new());
        Ok(replica)
    }

    /// The settings, as far as they are applied.
    pub(crate) fn config(&self) -> RaftConfig {
        self.inner().state.tables.cluster().map(|cluster| cluster.spec.raft).unwrap_or_default()
    }

    /// Removes all snapshots but the newest and so many older ones.
    pub(crate) fn trim(&self, older: u64) -> Result<(), snapshot::Error> {
        let mut kept = self.kept();
        self.0.snapshots.trim(older)?;
        kept.oldest = self.0.snapshots.oldest()?;
        Ok(())
    }

    /// Up to which entry the oldest snapshot reaches.
    pub(crate) fn oldest_snapshot(&self) -> Option<u64> {
        self.kept().oldest
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
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
        if self.kept().newest.as_ref().is_some_and(|(_, newest)| Arc::ptr_eq(newest, &file)) {
            return Ok(());
        }
        // A file that somebody else holds too is not ours to move.
        let file = match Arc::into_inner(file) {
            Some(file) => file,
            None => self.0.snapshots.build(meta, state)?,
        };
        // The log does not lead from an older one to this.
        self.keep(meta, file, 0).map(|_| ())
    }

    /// Keeps a snapshot, and so many older ones beside it, unless there is a newer one.
    fn keep(
        &self,
        meta: &SnapshotMeta,
        file: SnapshotFile,
        older: u64,
    ) -> Result<Arc<SnapshotFile>, snapshot::Error> {
        let mut kept = self.kept();
        if let Some((newest, file)) = &kept.newest
            && newest.last_log_id > meta.last_log_id
        {
            return Ok(file.clone());
        }
        let file = Arc::new(self.0.snapshots.keep(meta, file, older)?);
        *kept = Kept { newest: Some((meta.clone(), file.clone())), oldest: self.0.snapshots.oldest()? };
        Ok(file)
    }
}

impl Inner {
    fn restored(state: State, meta: &SnapshotMeta) -> Self {
        if cfg!(debug_assertions) {
            state.tables.assert_sound();
        }
        Self { state, last: meta.last_log_id, members: meta.last_membership.clone() }
    }

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
            let restored = Inner::restored(state, &meta_kept);
            replica.take_over(&meta_kept, file, &restored.state)?;
            Ok::<_, snapshot::Error>(restored)
        };
        let restored = blocking(read).await??;
        let mut inner = self.inner();
        let changes = self.0.feed.view().diff(&restored.state.tables);
        *inner = restored;
        self.publish(&inner, changes);
        self.0.feed.announce();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf>> {
        let newest = self.kept().newest.clone();
        Ok(newest.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// The state at one moment: writes go on while it is written to a file.
pub(crate) struct Builder {
    replica: Replica,
    meta: SnapshotMeta,
    state: State,
}

impl Builder {
    pub(crate) async fn build(&self) -> io::Result<SnapshotOf> {
        let (replica, meta, state) = (self.replica.clone(), self.meta.clone(), self.state.clone());
        let build = move || {
            let file = replica.0.snapshots.build(&meta, &state)?;
            let snapshot = replica.keep(&meta, file, replica.config().keep_old_snapshots)?;
            Ok::<_, snapshot::Error>(Snapshot { meta, snapshot })
        };
        Ok(blocking(build).await??)
    }
}

impl RaftSnapshotBuilder<Group> for Builder {
    type SnapshotData = Arc<SnapshotFile>;

    /// Raft stops after an error: so somebody else is to lead before it hears of it.
    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf> {
        let built = self.build().await;
        if built.is_err() {
            self.replica.0.alarm.raise_and_wait().await;
        }
        built
    }
}
