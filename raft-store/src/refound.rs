//! Begins a group anew, with one member: from what a survivor of a lost group has, or from a backup.
//!
//! Everything in a survivor's log counts, also what may not have been committed: what was acknowledged is among it as
//! far as this member ever had it, and of the rest nobody was told that it failed. The new group goes on at indexes
//! that the lost members cannot have reached, nor any group that was begun anew before, since nodes and clients take
//! nothing that seems older than what they know.
//! Its one member has a new Raft id, so that whoever is left of the old group finds nobody that it knows.
//!
//! Invariant: the directory holds the old group or the new one, whenever the power goes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use openraft::RaftLogReader as _;
use openraft::entry::RaftEntry as _;

use crate::codec::decode_proposal;
use crate::codec::raft::{put_log_id, put_vote};
use crate::disk::{self, at};
use crate::hard_state::{self, HardState};
use crate::key::DataKey;
use crate::log::{self, Log};
use crate::replicated::Error;
use crate::snapshot::Snapshots;
use crate::state_machine::{Outcome, Position, State};
use crate::types::{Address, LogId, Members, Payload, SnapshotMeta, StoredMembers, Vote, log_id, term};
use crate::{Options, RaftId, Term, Transaction, View};

/// More entries than lost members can have had beyond what this one knows of.
const GAP: u64 = 1 << 32;

/// The beginning of 2020, in seconds since that of 1970.
const EPOCH: Duration = Duration::from_secs(1_577_836_800);

/// What the group begins with, and in which term it may begin.
pub(crate) struct Origin {
    pub(crate) state: State,
    pub(crate) term: Term,
}

/// What the member in the directory of the options has, which nobody has open.
pub(crate) async fn survivor(options: &Options) -> Result<Origin, Error> {
    let dir = &options.dir;
    let key = DataKey::load(&dir.join("data-key"), options.seal.clone())?;
    let snapshots = Snapshots::new(dir, key.clone())?;
    let mut log = Log::open(dir, key, 0, log::Limits::default())?;
    let (mut last, mut state) = (None, State::default());
    if let Some(loaded) = snapshots.load(log.range())? {
        (last, state) = (loaded.meta.last_log_id, loaded.state);
    }
    let read = |error: std::io::Error| Error::Raft(error.to_string());
    let next = last.map_or(0, |last: LogId| last.index + 1);
    for entry in log.try_get_log_entries(next..).await.map_err(read)? {
        let id = entry.log_id();
        last = Some(id);
        match entry.payload {
            Payload::Normal(command) => {
                let proposal = decode_proposal(&command.0).map_err(|error| Error::Raft(error.to_string()))?;
                state.apply(proposal, Position { index: id.index, term: term(&id) });
            }
            Payload::Blank | Payload::Membership(_) => state.tables.set_index(id.index),
        }
    }
    if state.tables.cluster().is_none() {
        return Err(Error::Raft("this manager has never heard anything of the swarm's state".into()));
    }
    let voted = log.read_vote().await.map_err(read)?.map_or(0, |vote| vote.leader_id.term);
    Ok(Origin { state, term: Term(voted.max(last.map_or(0, |last| term(&last).0))) })
}

/// Makes the group in the directory of the options, in place of what is there.
pub(crate) fn begin(
    options: &Options,
    origin: Origin,
    change: impl FnOnce(&mut Transaction, RaftId),
) -> Result<(), Error> {
    let raft_id: RaftId = rand::random();
    let term = Term(origin.term.0 + 1);
    let state = changed(origin.state, term, (options.clock)(), |tx| change(tx, raft_id))?;
    let last = log_id(term, state.tables.index());

    let made = beside(&options.dir);
    discard(&made)?;
    disk::create_dir(&made)?;
    let key = copy_key(options, &made)?;
    write(&made, key, &state, last, (raft_id, address(options)))?;
    swap(&made, &options.dir)?;
    discard(&made)
}

/// What an attempt that was interrupted has left.
pub(crate) fn clear_up(dir: &Path) -> Result<(), Error> {
    discard(&beside(dir))
}

fn changed(
    mut state: State,
    term: Term,
    now: SystemTime,
    change: impl FnOnce(&mut Transaction),
) -> Result<State, Error> {
    let index = beginning(state.tables.index(), now);
    // Nothing that was proposed to the old group may be applied in this one.
    state.answered = Default::default();
    state.answered.horizon = index;
    let mut transaction = Transaction::new(View::from(state.tables.clone()), now);
    change(&mut transaction);
    state.tables.set_index(index);
    if let Some(mut proposal) = transaction.into_proposal(rand::random(), None) {
        proposal.base = index;
        let (outcome, _) = state.apply(proposal, Position { index, term });
        if !matches!(outcome, Outcome::Applied { .. }) {
            return Err(Error::Raft(format!("the new group's first change is refused: {outcome:?}")));
        }
    }
    Ok(state)
}

/// Where a group goes on that has got as far as `index`: beyond what lost members can have had, and where the clock stands,
/// which goes 2³² indexes a second.
///
/// No group writes as much as that. So a group that begins later is higher than all that an earlier one has come to,
/// also if both are made of the same backup.
fn beginning(index: u64, now: SystemTime) -> u64 {
    let since = now.duration_since(UNIX_EPOCH + EPOCH).unwrap_or_default();
    let seconds = since.as_secs().min(u32::MAX.into());
    // Nanoseconds in quarters: the largest number of them takes 32 bits.
    let by_clock = seconds << 32 | u64::from(since.subsec_nanos()) << 2;
    by_clock.max(index.saturating_add(GAP))
}

fn address(options: &Options) -> Address {
    Address { node_id: options.node_id.to_string(), addr: options.addr.clone() }
}

fn write(
    dir: &Path,
    key: DataKey,
    state: &State,
    last: LogId,
    (raft_id, address): (RaftId, Address),
) -> Result<(), Error> {
    let nodes = BTreeMap::from([(raft_id, address)]);
    let members = Members::new(vec![[raft_id].into()], nodes);
    let members = members.map_err(|error| Error::Raft(error.to_string()))?;
    let meta =
        SnapshotMeta { last_log_id: Some(last), last_membership: StoredMembers::new(Some(last), members) };
    let snapshots = Snapshots::new(dir, key)?;
    snapshots.keep(&meta, snapshots.build(&meta, state)?, 0)?;
    // Its own vote, as Raft asks for one that is not older than the log.
    let vote = Some(put_vote(&Vote::new(term(&last).0, raft_id)));
    let state = HardState { raft_id, vote, purged: Some(put_log_id(&last)) };
    Ok(hard_state::save(&dir.join("raft-state"), &state)?)
}

/// The manager goes on with the data key that it has.
fn copy_key(options: &Options, to: &Path) -> Result<DataKey, Error> {
    let (from, to) = (options.dir.join("data-key"), to.join("data-key"));
    match std::fs::read(&from) {
        Ok(bytes) => disk::write_atomically(&to, &zeroize::Zeroizing::new(bytes))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(at(&from)(error).into()),
    }
    Ok(DataKey::load(&to, options.seal.clone())?)
}

/// Puts `made` in the place of `dir`, at once, and what was there in the place of `made`.
fn swap(made: &Path, dir: &Path) -> Result<(), Error> {
    if !dir.exists() {
        return Ok(disk::rename(made, dir)?);
    }
    let exchange = RenameFlags::RENAME_EXCHANGE;
    renameat2(AT_FDCWD, made, AT_FDCWD, dir, exchange).map_err(|error| at(dir)(error.into()))?;
    dir.parent().map_or(Ok(()), disk::sync_dir)?;
    Ok(())
}

fn beside(dir: &Path) -> PathBuf {
    dir.with_extension("new")
}

fn discard(dir: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(at(dir)(error).into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_beginning_is_higher_than_all_that_an_earlier_one_can_have_come_to() {
        let at = |nanos| UNIX_EPOCH + EPOCH + Duration::from_nanos(nanos);
        let day = 24 * 3600 * 1_000_000_000;
        let moments = [day, day + 1, day + 999_999_999, day + 1_000_000_000, 9 * day, 30_000 * day];
        for index in [0, 7, 1 << 40] {
            let begun = moments.map(|nanos| beginning(index, at(nanos)));
            assert!(begun.is_sorted_by(|one, other| one < other), "{begun:?}");
        }
        // What was written meanwhile, a million entries a second, is lower too.
        let (first, later) = (beginning(0, at(day)), day + 5_000_000_000);
        assert!(beginning(0, at(later)) > first + 5_000_000);
    }

    #[test]
    fn lost_members_are_behind_also_when_the_clock_is_wrong() {
        let index = 1 << 63;
        for clock in [UNIX_EPOCH, UNIX_EPOCH + EPOCH, UNIX_EPOCH + 2 * EPOCH] {
            assert_eq!(beginning(index, clock), index + GAP, "{clock:?}");
        }
        assert_eq!(beginning(5, UNIX_EPOCH), 5 + GAP);
        assert!(beginning(5, UNIX_EPOCH + Duration::from_secs(1 << 40)) > 1 << 63);
    }
}
