//! Files that are there wholly or not at all, whenever the power goes.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Something about a file went wrong.
#[derive(Debug, thiserror::Error)]
#[error("{}", .path.display())]
pub struct Error {
    pub path: PathBuf,
    pub source: io::Error,
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Names the file in the error.
pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    move |source| Error { path: path.into(), source }
}

/// Makes the directory if it is missing. It is there after a crash as well: a vote must not vanish with it.
pub(crate) fn create_dir(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(at(dir))?;
    dir.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(Ok(()), sync_dir)
}

/// Only the owner may read it.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(true).read(true).write(true).mode(0o600).open(path)
}

/// Replaces `path` by a file with `content`.
pub(crate) fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    let temporary = path.with_extension("tmp");
    let write = || {
        let mut file = create(&temporary)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(at(&temporary))?;
    rename(&temporary, path)
}

/// The rename is durable once this returns; the file's content must be already.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).map_err(at(to))?;
    sync_dir(to.parent().expect("files of the store are in a directory"))
}

/// Makes creations, renames and removals in the directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(at(dir))
}
