//! Files that are there wholly or not at all, whenever the power goes.
//!
//! Every step after which something is durable is a place where a test may kill the process (`failpoint`). In unit
//! tests the files may be those of a simulated machine.

pub(crate) mod real;

use std::io;
use std::path::{Path, PathBuf};

pub(crate) use self::files::File;
#[cfg(not(test))]
use self::real as files;
#[cfg(test)]
use crate::simulation::files;

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

/// For the steps at which tests kill the process.
fn name(path: &Path) -> impl std::fmt::Display + '_ {
    path.file_name().unwrap_or_default().display()
}

/// Makes the directory if it is missing. It is there after a crash as well: a vote must not vanish with it.
pub(crate) fn create_dir(dir: &Path) -> Result<()> {
    files::create_dir(dir).map_err(at(dir))?;
    dir.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(Ok(()), sync_dir)
}

/// Empty, and only the owner may read it.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    files::create(path)
}

/// For reading and writing.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    files::open(path)
}

pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let length = usize::try_from(file.len()?).map_err(io::Error::other)?;
    let mut content = vec![0; length];
    file.read_exact_at(&mut content, 0)?;
    Ok(content)
}

/// None if there is no such file.
pub(crate) fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(path)(error)),
    }
}

/// The files of a directory, in the order of their names.
pub(crate) fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = files::list(dir).map_err(at(dir))?;
    paths.sort();
    Ok(paths)
}

/// Durable after `sync_dir`.
pub(crate) fn remove(path: &Path) -> Result<()> {
    failpoint::reached(format_args!("remove {}", name(path)));
    files::remove(path).map_err(at(path))
}

/// Replaces `path` by a file with `content`.
pub(crate) fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    let temporary = path.with_extension("tmp");
    let write = || {
        let file = create(&temporary)?;
        file.write_all_at(content, 0)?;
        sync(&file, &temporary)
    };
    write().map_err(at(&temporary))?;
    rename(&temporary, path)
}

/// The content, and all that is needed to find it in the file, is durable once this returns.
pub(crate) fn sync(file: &File, path: &Path) -> io::Result<()> {
    failpoint::reached(format_args!("fsync {}", name(path)));
    file.sync_data()
}

/// The rename is durable once this returns; the file's content must be already.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    failpoint::reached(format_args!("rename {}", name(to)));
    files::rename(from, to).map_err(at(to))?;
    sync_dir(to.parent().expect("files of the store are in a directory"))
}

/// Makes creations, renames and removals in the directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    failpoint::reached("fsync of names");
    files::sync_dir(dir).map_err(at(dir))
}
