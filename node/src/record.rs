//! What a node remembers of its membership, beside its certificate: where it listens and whom it knows.
//!
//! Invariant: the file is replaced as a whole; a crash leaves the old or the new one.

use std::fs::File;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is damaged: {reason}; remove the node's data directory and join the swarm again")]
    Damaged { path: PathBuf, reason: String },
    #[error("cannot write {path}")]
    Write { path: PathBuf, source: io::Error },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub listen: SocketAddr,
    pub advertise: SocketAddr,
    /// Nobody has asked for `advertise`: it is where the node reached its manager from. While the node is a worker it
    /// follows the machine's address.
    #[serde(default)]
    pub follows: bool,
    /// For VXLAN, where it is another than that of `advertise`.
    pub data_path: Option<IpAddr>,
    /// host:port of managers through which the node joined. The worker keeps the current list.
    pub managers: Vec<String>,
}

pub fn load(data_root: &Path) -> Result<Option<Record>, Error> {
    let path = path(data_root);
    match std::fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| Error::Damaged { path, reason: error.to_string() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read { path, source }),
    }
}

pub fn save(data_root: &Path, record: &Record) -> Result<(), Error> {
    let path = path(data_root);
    replace(&path, record).map_err(|source| Error::Write { path, source })
}

pub fn remove(data_root: &Path) -> Result<(), Error> {
    let path = path(data_root);
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::Write { path, source }),
        _ => Ok(()),
    }
}

/// Where the record of the node with this data directory is.
pub fn path(data_root: &Path) -> PathBuf {
    data_root.join("node.json")
}

fn replace(path: &Path, record: &Record) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(dir)?;
    let next = path.with_extension("json.new");
    let mut file = File::create(&next)?;
    file.write_all(&serde_json::to_vec_pretty(record)?)?;
    file.sync_all()?;
    std::fs::rename(&next, path)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back_and_forgotten() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(load(root.path()).unwrap(), None);
        let record = Record {
            listen: "0.0.0.0:2377".parse().unwrap(),
            advertise: "192.168.77.12:2377".parse().unwrap(),
            follows: true,
            data_path: None,
            managers: vec!["192.168.77.11:2377".into()],
        };
        save(root.path(), &record).unwrap();
        assert_eq!(load(root.path()).unwrap(), Some(record));
        remove(root.path()).unwrap();
        remove(root.path()).unwrap();
        assert_eq!(load(root.path()).unwrap(), None);
    }

    #[test]
    fn a_damaged_record_is_named() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(path(root.path()), "{").unwrap();
        let error = load(root.path()).unwrap_err().to_string();
        assert!(error.contains("node.json is damaged"), "{error}");
    }
}
