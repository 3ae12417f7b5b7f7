use std::time::SystemTime;

use super::*;
use crate::Term;
use crate::change_set::{Proposal, Write};
use crate::fixtures as make;
use crate::state_machine::Position;
use crate::types::log_id;

fn state() -> State {
    let mut state = State::default();
    let mut writes = vec![
        Write::Create(make::cluster().into()),
        Write::Create(make::allocated("net", "10.0.0.0/16", 4097).into()),
        Write::Create(make::service("a-known-name", &["net"]).into()),
    ];
    for number in 2..2000u32 {
        let address = format!("10.0.{}.{}/16", number / 256, number % 256);
        let task = make::task(&format!("task{number}"), "a-known-name", u64::from(number));
        writes.push(Write::Create(make::attached(task, "net", &address).into()));
    }
    for (index, write) in (1..).zip(writes) {
        let at = SystemTime::UNIX_EPOCH;
        let id = u128::from(index);
        let proposal = Proposal { id, base: 0, at, term: None, writes: vec![write], expected: Vec::new() };
        state.apply(proposal, Position { index, term: Term(1) });
    }
    state
}

fn meta(state: &State) -> SnapshotMeta {
    let last_log_id = Some(log_id(Term(1), state.tables.index()));
    SnapshotMeta { last_log_id, ..SnapshotMeta::default() }
}

fn snapshots(dir: &Path) -> Snapshots {
    let key = DataKey::load_or_create(&dir.join("data-key")).unwrap();
    Snapshots::new(dir, key).unwrap()
}

#[test]
fn a_restored_state_is_the_same_and_goes_on_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = state();
    let meta = meta(&state);
    // A start removes what an earlier run left unfinished.
    let unfinished = snapshots(dir.path()).build(&meta, &state).unwrap();
    snapshots(dir.path()).keep(&meta, unfinished, 0).unwrap_err();

    let snapshots = snapshots(dir.path());
    let file = snapshots.build(&meta, &state).unwrap();
    snapshots.keep(&meta, file, 0).unwrap();
    let loaded = snapshots.load(0..0).unwrap().unwrap();
    let mut restored = loaded.state;
    assert_eq!(loaded.meta, meta);
    assert!(state.tables.diff(&restored.tables).is_empty());
    assert!(state.tables.last_addresses().eq(restored.tables.last_addresses()));
    assert!(state.answered.iter().eq(restored.answered.iter()));
    assert_eq!(state.tables.index(), restored.tables.index());
    assert_eq!(state.tables.mark(), restored.tables.mark());
    assert_eq!(state.tables.last_vni(), restored.tables.last_vni());

    // A proposal that comes again is known to both.
    let again = |state: &mut State| {
        let writes = vec![Write::Create(make::node("new").into())];
        let at = SystemTime::UNIX_EPOCH;
        let proposal = Proposal { id: 1, base: 0, at, term: None, writes, expected: Vec::new() };
        state.apply(proposal, Position { index: 5000, term: Term(1) })
    };
    assert_eq!(again(&mut state), again(&mut restored));
}

#[test]
fn a_damaged_or_cut_snapshot_is_refused_and_nothing_in_it_is_readable() {
    let dir = tempfile::tempdir().unwrap();
    let state = state();
    let meta = meta(&state);
    let snapshots = snapshots(dir.path());
    let file = snapshots.build(&meta, &state).unwrap();
    snapshots.keep(&meta, file, 0).unwrap();
    let path = snapshots.list().unwrap().remove(0);
    let bytes = std::fs::read(&path).unwrap();
    assert!(!bytes.windows(12).any(|window| window == b"a-known-name"));
    let restore = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        snapshots.load(0..u64::MAX)
    };
    assert!(restore(&bytes).is_ok());
    for length in [0, 11, 40, bytes.len() / 2, bytes.len() - 1] {
        assert!(matches!(restore(&bytes[..length]), Err(Error::Damaged { .. })), "{length} bytes");
    }
    // Whole frames are missing at the end.
    let last = 8 + 24 + 16;
    assert!(matches!(restore(&bytes[..bytes.len() - last]), Err(Error::Damaged { .. })));
    for place in [3, 30, bytes.len() / 2] {
        let mut damaged = bytes.clone();
        damaged[place] ^= 1;
        assert!(matches!(restore(&damaged), Err(Error::Damaged { .. })), "byte {place}");
    }
    let mut newer = bytes;
    newer[8] = 2;
    assert!(matches!(restore(&newer), Err(Error::Format { found: 2, .. })));
}

/// Of the same state, as of each of these indexes.
fn with_snapshots_at(dir: &Path, indexes: &[u64]) -> Snapshots {
    let (snapshots, mut state) = (snapshots(dir), State::default());
    for index in indexes {
        state.tables.set_index(*index);
        let file = snapshots.build(&meta(&state), &state).unwrap();
        snapshots.keep(&meta(&state), file, 9).unwrap();
    }
    snapshots
}

#[test]
fn an_older_snapshot_will_do_only_if_the_log_makes_up_for_it() {
    for (log, usable) in [
        (0..25, true),
        (11..21, true),
        // Entry 11 is missing.
        (12..25, false),
        // What the damaged one held is nowhere else.
        (0..20, false),
        (21..25, false),
        (0..0, false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = with_snapshots_at(dir.path(), &[5, 10, 20]);
        let newest = snapshots.list().unwrap().pop().unwrap();
        std::fs::write(&newest, "damaged").unwrap();
        let loaded = snapshots.load(log.clone());
        assert_eq!(newest.exists(), !usable);
        match loaded {
            Ok(loaded) => assert_eq!((loaded.unwrap().state.tables.index(), usable), (10, true), "{log:?}"),
            Err(Error::Damaged { path, .. }) => assert_eq!((path, usable), (newest, false), "{log:?}"),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn so_many_older_ones_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = with_snapshots_at(dir.path(), &[1, 2, 3, 4, 5]);
    let indexes = || snapshots.list().unwrap().iter().filter_map(|path| index_of(path)).collect::<Vec<_>>();
    for (older, left) in
        [(9, vec![1, 2, 3, 4, 5]), (4, vec![1, 2, 3, 4, 5]), (2, vec![3, 4, 5]), (0, vec![5])]
    {
        snapshots.trim(older).unwrap();
        assert_eq!(indexes(), left);
        assert_eq!(snapshots.oldest().unwrap(), left.first().copied());
    }
}
