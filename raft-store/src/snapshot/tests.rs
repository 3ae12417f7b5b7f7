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
    snapshots(dir.path()).keep(&meta, unfinished).unwrap_err();

    let snapshots = snapshots(dir.path());
    let file = snapshots.build(&meta, &state).unwrap();
    snapshots.keep(&meta, file).unwrap();
    let (found, file) = snapshots.latest().unwrap().unwrap();
    let (read, mut restored) = snapshots.restore(&file).unwrap();
    assert_eq!((&found, &read), (&meta, &meta));
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
    snapshots.keep(&meta, file).unwrap();
    let path = snapshots.list().unwrap().remove(0);
    let bytes = std::fs::read(&path).unwrap();
    assert!(!bytes.windows(12).any(|window| window == b"a-known-name"));
    let restore = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        snapshots.latest().and_then(|found| snapshots.restore(&found.unwrap().1))
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
