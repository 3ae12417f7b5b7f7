#[path = "../../tests/common/mark.rs"]
mod mark;

use std::os::unix::fs::PermissionsExt;

use super::*;
use mark::Mark;

fn by(mark: u8) -> Envelope {
    Some(Arc::new(Mark(mark)))
}

fn fixture() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data-key");
    (dir, path)
}

#[test]
fn a_key_is_made_once_and_read_by_its_owner_only() {
    let (_dir, path) = fixture();
    let key = DataKey::load_or_create(&path).unwrap();
    let sealed = key.seal(b"entry 1", b"hello");
    assert!(!sealed.windows(5).any(|window| window == b"hello"));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read(&path).unwrap().len(), KEY_BYTES, "as earlier versions know it");

    let again = DataKey::load_or_create(&path).unwrap();
    assert_eq!(again.open(b"entry 1", &sealed).unwrap(), b"hello");
    assert_eq!(again.open(b"entry 2", &sealed), None);
    assert_eq!(again.open(b"entry 1", &sealed[1..]), None);
}

#[test]
fn a_sealed_key_is_opened_by_its_seal_only() {
    let (_dir, path) = fixture();
    let key = DataKey::load(&path, by(1)).unwrap();
    let sealed = key.seal(b"x", b"hello");
    assert!(!std::fs::read(&path).unwrap().windows(KEY_BYTES).any(|w| *w == *key.pinned().0[0].bytes));
    for other in [None, by(2)] {
        assert!(matches!(DataKey::load(&path, other), Err(Error::Sealed { .. })));
    }
    assert_eq!(DataKey::load(&path, by(1)).unwrap().open(b"x", &sealed).unwrap(), b"hello");
}

#[test]
fn one_seal_takes_anothers_place_with_both_in_between() {
    let (_dir, path) = fixture();
    let key = DataKey::load(&path, None).unwrap();
    let old = key.seal(b"x", b"old");
    key.admit(by(1)).unwrap();
    let both = std::fs::read(&path).unwrap();
    for either in [None, by(1), by(2)] {
        // A start that finds the file so decides for what has opened it.
        let begun = DataKey::load(&path, either.clone()).unwrap();
        assert_eq!(begun.open(b"x", &old).unwrap(), b"old");
        assert!(DataKey::load(&path, either).is_ok_and(|again| again.is_changing() == begun.is_changing()));
        std::fs::write(&path, &both).unwrap();
    }
    let pinned = key.pinned();
    key.enclose(by(1)).unwrap();
    assert!(key.is_changing() && key.is_pinned_before(key.epoch()));
    drop(pinned);
    assert!(!key.is_pinned_before(key.epoch()));
    assert!(matches!(DataKey::load(&path, None), Err(Error::Sealed { .. })));
    let new = key.seal(b"x", b"new");
    key.admit(by(2)).unwrap();
    let both = std::fs::read(&path).unwrap();
    let again = DataKey::load(&path, by(2)).unwrap();
    std::fs::write(&path, both).unwrap();
    for (sealed, text) in [(&old, b"old"), (&new, b"new")] {
        assert_eq!(key.open(b"x", sealed).unwrap(), text);
        assert_eq!(again.open(b"x", sealed).unwrap(), text);
    }
    assert!(again.is_changing() && again.epoch() == key.epoch() + 1);

    key.enclose(by(2)).unwrap();
    let new = key.seal(b"x", b"new");
    key.retire(key.epoch()).unwrap();
    assert!(!key.is_changing());
    let again = DataKey::load(&path, by(2)).unwrap();
    assert_eq!(again.open(b"x", &old), None);
    assert_eq!(again.open(b"x", &new).unwrap(), b"new");
}

#[test]
fn opening_the_seal_keeps_the_key() {
    let (_dir, path) = fixture();
    let key = DataKey::load(&path, by(1)).unwrap();
    let sealed = key.seal(b"x", b"hello");
    key.admit(None).unwrap();
    key.enclose(None).unwrap();
    assert_eq!(DataKey::load(&path, None).unwrap().open(b"x", &sealed).unwrap(), b"hello");
}

#[test]
fn damage_is_named() {
    let (_dir, path) = fixture();
    DataKey::load(&path, by(1)).unwrap();
    let sound = std::fs::read(&path).unwrap();
    for (at, changed) in [(8, 3), (12, !sound[12]), (sound.len() - 1, !sound[sound.len() - 1])] {
        let mut bytes = sound.clone();
        bytes[at] = changed;
        std::fs::write(&path, &bytes).unwrap();
        let error = DataKey::load(&path, by(1)).err().unwrap();
        assert!(matches!(error, Error::Damaged { .. } | Error::Format { found: 3, .. }), "{error}");
    }
    std::fs::write(&path, b"short").unwrap();
    assert!(matches!(DataKey::load(&path, None), Err(Error::Length { found: 5, .. })));
}
