use std::path::PathBuf;

use openraft::StorageError;
use openraft::storage::RaftLogStorageExt as _;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt as _;

use super::*;
use crate::Term;
use crate::replica::Replica;
use crate::snapshot::Snapshots;
use crate::types::{Command, Payload, log_id};
use crate::watch::{Feed, View};

fn key(dir: &Path) -> DataKey {
    DataKey::load_or_create(&dir.join("data-key")).unwrap()
}

fn open(dir: &Path) -> Result<Log, Error> {
    Log::open(dir, key(dir), 7, Limits::default())
}

fn entry(term: u64, index: u64, text: &str) -> Entry {
    let command = Command(text.as_bytes().to_vec().into());
    Entry::new(log_id(Term(term), index), Payload::Normal(command))
}

async fn append(log: &mut Log, entries: Vec<Entry>) {
    log.blocking_append(entries).await.unwrap();
}

async fn texts(log: &mut Log) -> Vec<String> {
    let entries = log.try_get_log_entries(..).await.unwrap();
    let text = |entry: Entry| match entry.payload {
        Payload::Normal(command) => String::from_utf8(command.0.to_vec()).unwrap(),
        other => format!("{other:?}"),
    };
    entries.into_iter().map(text).collect()
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> =
        paths.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("log-")).collect();
    paths.sort();
    paths
}

/// The suite installs one store's snapshot in another one, so they share a key.
struct Builder(DataKey);

impl StoreBuilder<Group, Log, Replica, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, Log, Replica), StorageError<Group>> {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path(), self.0.clone(), 7, Limits::default()).unwrap();
        let feed = Arc::new(Feed::new(View::default()));
        let replica = Replica::new(feed, Snapshots::new(dir.path(), self.0.clone()).unwrap(), &log).unwrap();
        Ok((dir, log, replica))
    }
}

#[test]
fn openrafts_storage_suite_passes() {
    let dir = tempfile::tempdir().unwrap();
    let builder = Builder(key(dir.path()));
    Group::run(async { Suite::test_all(builder).await.unwrap() });
}

/// Found by the simulation: entries 82 and later went to a follower that had those up to 8.
#[tokio::test]
async fn a_follower_that_needs_what_was_purged_is_sent_nothing_from_behind_the_gap() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    append(&mut log, (0..5).map(|index| entry(1, index, "x")).collect()).await;
    log.purge(log_id(Term(1), 2)).await.unwrap();
    assert!(log.limited_get_log_entries(1, 5).await.unwrap().is_empty());
    assert!(log.lacks_after(Some(&log_id(Term(1), 1))) && !log.lacks_after(Some(&log_id(Term(1), 2))));
    let left = log.limited_get_log_entries(3, 5).await.unwrap();
    assert_eq!(left.iter().map(Entry::index).collect::<Vec<_>>(), [3, 4]);
}

#[tokio::test]
async fn everything_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    append(&mut log, vec![entry(1, 0, "a"), entry(1, 1, "b")]).await;
    append(&mut log, vec![entry(1, 2, "c")]).await;
    log.save_vote(&Vote::new_committed(3, 9)).await.unwrap();
    log.save_committed(Some(log_id(Term(1), 1))).await.unwrap();
    log.truncate_after(Some(log_id(Term(1), 1))).await.unwrap();
    append(&mut log, vec![entry(3, 2, "d")]).await;
    drop(log);

    let mut log = open(dir.path()).unwrap();
    assert_eq!(texts(&mut log).await, ["a", "b", "d"]);
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new_committed(3, 9)));
    assert_eq!(log.read_committed().await.unwrap(), Some(log_id(Term(1), 1)));
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(log_id(Term(3), 2)));
    assert_eq!(log.raft_id(), 7);
}

#[tokio::test]
async fn nothing_readable_is_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    append(&mut log, vec![entry(1, 0, "a very secret value")]).await;
    drop(log);
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"secret"));
    }
    std::fs::remove_file(dir.path().join("data-key")).unwrap();
    assert!(matches!(open(dir.path()), Err(Error::Key { offset: 24, .. })));
}

#[tokio::test]
async fn a_torn_end_is_cut_off_at_every_byte() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    append(&mut log, vec![entry(1, 0, "a")]).await;
    let segment = segments(dir.path()).remove(0);
    let whole = std::fs::metadata(&segment).unwrap().len();
    // Two entries of one write: any part of it may have reached the disk.
    append(&mut log, vec![entry(1, 1, "b"), entry(1, 2, "c")]).await;
    drop(log);
    let bytes = std::fs::read(&segment).unwrap();
    for length in (usize::try_from(whole).unwrap()..bytes.len()).rev() {
        std::fs::write(&segment, &bytes[..length]).unwrap();
        let found = texts(&mut open(dir.path()).unwrap()).await;
        assert!(found == ["a"] || found == ["a", "b"], "{found:?} of {length} bytes");
        assert!(std::fs::metadata(&segment).unwrap().len() <= length as u64);
    }
    // The first page of the last write is missing, the second one is there.
    let mut holed = bytes.clone();
    holed[whole as usize..whole as usize + 40].fill(0);
    std::fs::write(&segment, &holed).unwrap();
    let mut log = open(dir.path()).unwrap();
    assert_eq!(texts(&mut log).await, ["a"]);
    append(&mut log, vec![entry(2, 1, "e")]).await;
    drop(log);
    assert_eq!(texts(&mut open(dir.path()).unwrap()).await, ["a", "e"]);
}

#[tokio::test]
async fn damage_before_the_end_is_refused_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    append(&mut log, vec![entry(1, 0, "a")]).await;
    let segment = segments(dir.path()).remove(0);
    let second = std::fs::metadata(&segment).unwrap().len();
    append(&mut log, vec![entry(1, 1, "b")]).await;
    append(&mut log, vec![entry(1, 2, "c")]).await;
    drop(log);
    let bytes = std::fs::read(&segment).unwrap();
    for place in [0, 5, 9, 13, 17, 40] {
        let mut damaged = bytes.clone();
        damaged[second as usize + place] ^= 0x55;
        std::fs::write(&segment, &damaged).unwrap();
        match open(dir.path()) {
            Err(Error::Damaged { path, offset }) => assert_eq!((path, offset), (segment.clone(), second)),
            other => panic!("byte {place}: {:?}", other.err()),
        }
        assert_eq!(std::fs::read(&segment).unwrap(), damaged, "what is damaged is left as it is");
    }
}

#[tokio::test]
async fn other_formats_and_missing_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    append(&mut log, vec![entry(1, 0, "a")]).await;
    drop(log);
    let segment = segments(dir.path()).remove(0);
    let bytes = std::fs::read(&segment).unwrap();
    let mut newer = bytes.clone();
    newer[8] = 9;
    std::fs::write(&segment, &newer).unwrap();
    assert!(matches!(open(dir.path()), Err(Error::Format { found: 9, .. })));

    std::fs::write(&segment, &bytes).unwrap();
    let mut log = open(dir.path()).unwrap();
    let large = "x".repeat(9 << 20);
    for index in 1..7 {
        append(&mut log, vec![entry(1, index, &large)]).await;
    }
    drop(log);
    let all = segments(dir.path());
    assert_eq!(all.len(), 3);
    std::fs::remove_file(&all[1]).unwrap();
    assert!(matches!(open(dir.path()), Err(Error::Gap { .. })));
}

#[tokio::test]
async fn old_entries_are_read_from_disk_and_purged_by_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    // More than is kept in memory.
    let text = |index: u64| format!("{index}:{}", "y".repeat(4 << 20));
    for index in 0..12 {
        append(&mut log, vec![entry(1, index, &text(index))]).await;
    }
    for index in 0..12 {
        let read = log.try_get_log_entries(index..=index).await.unwrap();
        assert_eq!(read, [entry(1, index, &text(index))]);
    }
    assert_eq!(log.limited_get_log_entries(2, 9).await.unwrap().len(), 1, "a message is bounded");

    let before = segments(dir.path()).len();
    log.purge(log_id(Term(1), 7)).await.unwrap();
    assert!(segments(dir.path()).len() < before);
    drop(log);
    let mut log = open(dir.path()).unwrap();
    assert_eq!(log.try_get_log_entries(..).await.unwrap().len(), 4);
    assert_eq!(log.get_log_state().await.unwrap().last_purged_log_id, Some(log_id(Term(1), 7)));

    // As after a snapshot from the leader: the log goes on somewhere else.
    log.purge(log_id(Term(2), 100)).await.unwrap();
    append(&mut log, vec![entry(2, 101, "z")]).await;
    drop(log);
    assert_eq!(texts(&mut open(dir.path()).unwrap()).await, ["z"]);
}

#[tokio::test]
async fn many_appends_are_in_flight_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    let mut flushed = Vec::new();
    for index in 0..200 {
        let (sender, receiver) = Group::oneshot();
        log.append([entry(1, index, "v")], IOFlushed::signal(sender)).await.unwrap();
        flushed.push(receiver);
    }
    // Readable before they are durable.
    assert_eq!(log.try_get_log_entries(..).await.unwrap().len(), 200);
    for flush in flushed {
        flush.await.unwrap().unwrap();
    }
    drop(log);
    assert_eq!(texts(&mut open(dir.path()).unwrap()).await.len(), 200);
}

#[tokio::test]
async fn after_a_failed_write_nothing_more_is_written_and_what_was_durable_stays() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    append(&mut log, vec![entry(1, 0, "a")]).await;
    // The hard state cannot be replaced while something else has its temporary name.
    std::fs::create_dir(dir.path().join("raft-state.tmp")).unwrap();
    assert!(log.save_vote(&Vote::new(2, 7)).await.is_err());
    assert_eq!(log.read_vote().await.unwrap(), None, "a vote counts once it is durable");
    // Entries are waited for until it is given up.
    let (mut waiting, entries) = (log.clone(), vec![entry(1, 1, "b")]);
    let mut append = std::pin::pin!(waiting.blocking_append(entries));
    tokio::select! {
        biased;
        answer = &mut append => panic!("{answer:?}"),
        passed = log.pass() => passed.unwrap(),
    }
    log.give_up();
    assert!(append.await.is_err());
    assert!(log.blocking_append(vec![entry(1, 2, "c")]).await.is_err());
    drop(log);
    std::fs::remove_dir(dir.path().join("raft-state.tmp")).unwrap();
    assert_eq!(texts(&mut open(dir.path()).unwrap()).await, ["a"]);
}
