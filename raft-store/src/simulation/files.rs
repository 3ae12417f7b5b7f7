//! Stands in for `disk::real`: a path below `ROOT` is on a simulated machine's disk, any other on the real one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::Disk;
use super::world;
use crate::disk::real;

/// Below it lies one directory a machine, named by its index.
pub(super) const ROOT: &str = "/simulated";

#[derive(Debug)]
pub(crate) enum File {
    Real(real::File),
    Simulated { disk: Arc<Disk>, number: u64 },
}

fn disk(path: &Path) -> Option<Arc<Disk>> {
    let below = path.strip_prefix(ROOT).ok()?;
    let machine: usize = below.iter().next()?.to_str()?.parse().ok()?;
    let world = world().expect("only a simulation has simulated paths");
    Some(world.machines[machine].disk.clone())
}

impl File {
    pub(crate) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match self {
            Self::Real(file) => file.write_all_at(bytes, offset),
            Self::Simulated { disk, number } => disk.write(*number, bytes, offset),
        }
    }

    pub(crate) fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::Real(file) => file.read_exact_at(bytes, offset),
            Self::Simulated { disk, number } => disk.read(*number, bytes, offset),
        }
    }

    pub(crate) fn sync_data(&self) -> io::Result<()> {
        match self {
            Self::Real(file) => file.sync_data(),
            Self::Simulated { disk, number } => disk.sync(*number),
        }
    }

    pub(crate) fn set_len(&self, bytes: u64) -> io::Result<()> {
        match self {
            Self::Real(file) => file.set_len(bytes),
            Self::Simulated { disk, number } => disk.set_len(*number, bytes),
        }
    }

    pub(crate) fn len(&self) -> io::Result<u64> {
        match self {
            Self::Real(file) => file.len(),
            Self::Simulated { disk, number } => disk.len(*number),
        }
    }
}

pub(crate) fn create(path: &Path) -> io::Result<File> {
    match disk(path) {
        None => real::create(path).map(File::Real),
        Some(disk) => disk.create(path).map(|number| File::Simulated { disk, number }),
    }
}

pub(crate) fn open(path: &Path) -> io::Result<File> {
    match disk(path) {
        None => real::open(path).map(File::Real),
        Some(disk) => disk.open(path).map(|number| File::Simulated { disk, number }),
    }
}

pub(crate) fn create_dir(dir: &Path) -> io::Result<()> {
    disk(dir).map_or_else(|| real::create_dir(dir), |_| Ok(()))
}

pub(crate) fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    disk(dir).map_or_else(|| real::list(dir), |disk| disk.list(dir))
}

pub(crate) fn remove(path: &Path) -> io::Result<()> {
    disk(path).map_or_else(|| real::remove(path), |disk| disk.remove(path))
}

pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    disk(to).map_or_else(|| real::rename(from, to), |disk| disk.rename(from, to))
}

pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    if dir == Path::new(ROOT) {
        return Ok(());
    }
    disk(dir).map_or_else(|| real::sync_dir(dir), |disk| disk.sync_dir())
}
