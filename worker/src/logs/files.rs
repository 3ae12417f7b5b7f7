//! Where a container's output lies: `json.log`, and what was rotated away as `json.log.1` (the newer) and up.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A bound for what is looked for; writers are set far lower.
const MOST: usize = 1000;

pub(super) fn current(directory: &Path) -> PathBuf {
    directory.join("json.log")
}

pub(super) fn rotated(directory: &Path, number: usize) -> PathBuf {
    directory.join(format!("json.log.{number}"))
}

/// Held by the writer for as long as it lives.
pub(super) fn lock(directory: &Path) -> PathBuf {
    directory.join("lock")
}

/// An open file; `id` stays the same when it is rotated.
#[derive(Debug)]
pub(super) struct Opened {
    pub file: File,
    pub id: u64,
}

/// All files, the newest first. Opened in that order, so that a rotation meanwhile shows one twice rather than
/// hides one.
pub(super) fn open_all(directory: &Path) -> io::Result<Vec<Opened>> {
    let mut found: Vec<Opened> = Vec::new();
    let paths = std::iter::once(current(directory)).chain((1..MOST).map(|number| rotated(directory, number)));
    for (index, path) in paths.enumerate() {
        match File::open(&path) {
            Ok(file) => {
                let id = file.metadata()?.ino();
                if !found.iter().any(|opened| opened.id == id) {
                    found.push(Opened { file, id });
                }
            }
            // Between two renames of a rotation the newest name is free for a moment.
            Err(error) if error.kind() == io::ErrorKind::NotFound && index == 0 => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Whether there was a writer and it has ended. `None` if there was none yet.
pub(super) fn ended(directory: &Path) -> io::Result<Option<bool>> {
    match File::open(lock(directory)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok(file) => match file.try_lock_shared() {
            Ok(()) => Ok(Some(true)),
            Err(TryLockError::WouldBlock) => Ok(Some(false)),
            Err(TryLockError::Error(error)) => Err(error),
        },
    }
}
