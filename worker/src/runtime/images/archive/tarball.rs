//! A tar file on disk, read by name.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWriteExt};

use super::super::content::CHUNK_BYTES;
use super::super::manifest::digest_text;
use super::unusable;
use crate::runtime::Error;

const GZIP: [u8; 2] = [0x1f, 0x8b];
/// Documents are read into memory.
const DOCUMENT_BYTES: u64 = 8 << 20;
/// Links of links in an archive: more than this is a circle.
const LINKS: usize = 8;

#[derive(Debug)]
pub(super) struct Tarball {
    file: Arc<File>,
    entries: HashMap<String, Entry>,
}

#[derive(Debug)]
enum Entry {
    File(Extent),
    Link(String),
}

/// Where a file's data is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    offset: u64,
    pub size: u64,
}

impl Tarball {
    /// Takes in a stream, unzipped if need be. The file has no name and goes with its handle.
    pub(super) async fn receive(
        scratch: &Path,
        mut stream: Box<dyn AsyncRead + Send + Unpin>,
    ) -> Result<Self, Error> {
        let mut file = tokio::fs::File::from_std(nameless(scratch)?);
        let copied = async {
            tokio::io::copy(&mut stream, &mut file).await?;
            file.flush().await
        };
        copied.await.map_err(Error::io("write", scratch))?;
        let file = file.into_std().await;
        let unzipped = scratch.to_owned();
        blocking(move || {
            let file = unzip(file, &unzipped)?;
            let entries = table(&file).map_err(|error| unusable(format!("it is no tar file: {error}")))?;
            Ok(Self { file: Arc::new(file), entries })
        })
        .await
    }

    pub(super) fn find(&self, path: &str) -> Result<Extent, Error> {
        self.lookup(path).ok_or_else(|| unusable(format!("{path} is missing in it")))
    }

    fn lookup(&self, path: &str) -> Option<Extent> {
        let mut path = normal(Path::new(path));
        for _ in 0..LINKS {
            match self.entries.get(&path)? {
                Entry::File(extent) => return Some(*extent),
                Entry::Link(target) => path.clone_from(target),
            }
        }
        None
    }

    /// `None` if there is no such file.
    pub(super) async fn document(&self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        match self.lookup(path) {
            None => Ok(None),
            Some(extent) if extent.size > DOCUMENT_BYTES => Err(unusable(format!("{path} is too big"))),
            Some(extent) => self.chunk(extent, 0, extent.size as usize).await.map(Some),
        }
    }

    /// At most `length` bytes of a file from `offset` on.
    pub(super) async fn chunk(&self, extent: Extent, offset: u64, length: usize) -> Result<Vec<u8>, Error> {
        let file = self.file.clone();
        blocking(move || extent.read(&file, offset, length)).await
    }

    /// Digest of a file, and whether it is gzipped.
    pub(super) async fn digest(&self, extent: Extent) -> Result<(String, bool), Error> {
        let file = self.file.clone();
        blocking(move || {
            let (mut hash, mut offset) = (Sha256::new(), 0);
            let zipped = extent.read(&file, 0, GZIP.len())? == GZIP;
            while offset < extent.size {
                let chunk = extent.read(&file, offset, CHUNK_BYTES)?;
                offset += chunk.len() as u64;
                hash.update(chunk);
            }
            Ok((digest_text(&hash.finalize()), zipped))
        })
        .await
    }
}

impl Extent {
    fn read(self, file: &File, offset: u64, length: usize) -> Result<Vec<u8>, Error> {
        let left = self.size.saturating_sub(offset);
        let mut data = vec![0; length.min(usize::try_from(left).unwrap_or(usize::MAX))];
        let read = file.read_exact_at(&mut data, self.offset + offset);
        read.map_err(|error| unusable(format!("it is cut short: {error}")))?;
        Ok(data)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.expect("reading an archive does not panic")
}

fn nameless(scratch: &Path) -> Result<File, Error> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    std::fs::create_dir_all(scratch).map_err(Error::io("create", scratch))?;
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = scratch.join(format!("load-{}-{count}", std::process::id()));
    let open = File::options().read(true).write(true).create(true).truncate(true).open(&path);
    let file = open.map_err(Error::io("create", &path))?;
    std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
    Ok(file)
}

fn unzip(mut zipped: File, scratch: &Path) -> Result<File, Error> {
    let mut magic = [0; GZIP.len()];
    let read = zipped.read_exact_at(&mut magic, 0);
    if read.is_err() || magic != GZIP {
        return Ok(zipped);
    }
    let mut plain = nameless(scratch)?;
    let copied = zipped.seek(SeekFrom::Start(0)).and_then(|_| {
        let mut decoder = MultiGzDecoder::new(zipped);
        io::copy(&mut decoder, &mut plain)?;
        plain.flush()
    });
    copied.map_err(|error| unusable(format!("it cannot be unzipped: {error}")))?;
    Ok(plain)
}

fn table(mut file: &File) -> io::Result<HashMap<String, Entry>> {
    file.seek(SeekFrom::Start(0))?;
    let mut entries = HashMap::new();
    let mut archive = tar::Archive::new(file);
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let path = entry.path()?.into_owned();
        let kind = entry.header().entry_type();
        let found = match entry.link_name()? {
            Some(target) if kind.is_hard_link() => Entry::Link(normal(&target)),
            Some(target) if kind.is_symlink() => {
                Entry::Link(normal(&path.parent().unwrap_or(Path::new("")).join(target)))
            }
            _ if kind.is_file() => {
                Entry::File(Extent { offset: entry.raw_file_position(), size: entry.size() })
            }
            _ => continue,
        };
        entries.insert(normal(&path), found);
    }
    Ok(entries)
}

/// A path without `.` and `..`: only a key, never used on the file system.
fn normal(path: &Path) -> String {
    use std::path::Component;
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            Component::ParentDir => drop(parts.pop()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(zip: bool) -> Box<dyn AsyncRead + Send + Unpin> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        header.set_mode(0o644);
        builder.append_data(&mut header, "./a/file", &b"hello"[..]).unwrap();
        let mut link = tar::Header::new_gnu();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        builder.append_link(&mut link, "b/link", "../a/file").unwrap();
        builder.append_link(&mut link, "b/circle", "circle").unwrap();
        let plain = builder.into_inner().unwrap();
        if !zip {
            return Box::new(io::Cursor::new(plain));
        }
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&plain).unwrap();
        Box::new(io::Cursor::new(encoder.finish().unwrap()))
    }

    #[tokio::test]
    async fn finds_files_through_links_in_plain_and_gzipped_tar() {
        let scratch = tempfile::tempdir().unwrap();
        for zip in [false, true] {
            let tarball = Tarball::receive(scratch.path(), archive(zip)).await.unwrap();
            assert_eq!(tarball.document("b/link").await.unwrap().unwrap(), b"hello");
            assert_eq!(tarball.document("b/circle").await.unwrap(), None);
            assert!(tarball.find("nope").unwrap_err().to_string().contains("nope is missing"));
            let extent = tarball.find("a/file").unwrap();
            let (digest, zipped) = tarball.digest(extent).await.unwrap();
            assert_eq!((digest, zipped), (super::super::manifest::digest(b"hello"), false));
        }
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn garbage_is_no_archive() {
        let scratch = tempfile::tempdir().unwrap();
        for garbage in [&b"\x1f\x8bgarbage"[..], &[b'x'; 2048][..]] {
            let received = Tarball::receive(scratch.path(), Box::new(io::Cursor::new(garbage))).await;
            let error = received.unwrap_err().to_string();
            assert!(error.starts_with("image archive is not usable"), "{error}");
        }
    }
}
