//! containerd's log file, and its bound.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::runtime::Error;

/// With the copy that is kept, twice as much.
const MOST_BYTES: u64 = 4 << 20;

pub(super) fn open(path: &Path) -> Result<File, Error> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(Error::io("create", directory))?;
    }
    File::options().create(true).append(true).open(path).map_err(Error::io("open", path))
}

/// Looks from time to time, for ever.
pub(super) async fn keep_bounded(path: &Path, period: Duration) -> Infallible {
    loop {
        let path = path.to_owned();
        let bounded = tokio::task::spawn_blocking(move || bound(&path)).await;
        if let Ok(Err(error)) = bounded {
            tracing::warn!(%error, "the log of containerd is not bounded");
        }
        tokio::time::sleep(period).await;
    }
}

/// containerd has the file open for appending: what is in it is copied away and the file emptied.
fn bound(path: &Path) -> io::Result<()> {
    let length = match path.metadata() {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if length <= MOST_BYTES {
        return Ok(());
    }
    std::fs::copy(path, path.with_extension("log.1"))?;
    File::options().write(true).open(path)?.set_len(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_is_put_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("containerd.log");
        bound(&path).unwrap();
        let file = open(&path).unwrap();
        file.set_len(MOST_BYTES + 1).unwrap();
        bound(&path).unwrap();
        assert_eq!(path.metadata().unwrap().len(), 0);
        assert_eq!(directory.path().join("containerd.log.1").metadata().unwrap().len(), MOST_BYTES + 1);
    }
}
