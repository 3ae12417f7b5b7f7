//! Local volumes: directories of this node, made when first used.
//!
//! A named volume stays until somebody deletes it; one without a name lies in its container's directory and goes
//! with the container. An empty volume gets what the image has at its target, as in Docker.

use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use super::spec::Bound;
use super::{Error, Mount, MountKind};

/// A volume's directory and where it is mounted.
#[derive(Debug)]
pub(super) struct Volume {
    pub directory: PathBuf,
    pub target: PathBuf,
    pub copy: bool,
    read_only: bool,
}

/// Places the volumes of a container: those asked for, and one without a name for each target that the image
/// declares and nobody else mounts.
pub(super) fn place(
    data_root: &Path,
    container: &Path,
    mounts: &[Mount],
    declared: &[PathBuf],
) -> Result<Vec<Volume>, Error> {
    let mut volumes = Vec::new();
    for mount in mounts {
        if let MountKind::Volume { name, copy } = &mount.kind {
            let directory = match name {
                Some(name) => named(data_root, name)?,
                None => anonymous(container, volumes.len()),
            };
            volumes.push(Volume {
                directory,
                target: mount.target.clone(),
                copy: *copy,
                read_only: mount.read_only,
            });
        }
    }
    for target in declared.iter().filter(|target| !mounts.iter().any(|mount| mount.target == **target)) {
        let directory = anonymous(container, volumes.len());
        volumes.push(Volume { directory, target: target.clone(), copy: true, read_only: false });
    }
    Ok(volumes)
}

/// Removes the volumes without a name of a container.
pub(super) fn remove_anonymous(container: &Path) -> Result<(), Error> {
    let directory = container.join("volumes");
    match std::fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", directory)(error)),
        _ => Ok(()),
    }
}

fn named(data_root: &Path, name: &str) -> Result<PathBuf, Error> {
    let mut characters = name.chars();
    let first = characters.next().is_some_and(|first| first.is_ascii_alphanumeric());
    if !first || !characters.all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c)) {
        let reason = format!("{name:?}: only letters, digits, '_', '.' and '-' are allowed");
        return Err(Error::config("volume name", reason));
    }
    Ok(data_root.join("volumes").join(name).join("_data"))
}

fn anonymous(container: &Path, index: usize) -> PathBuf {
    container.join("volumes").join(index.to_string()).join("_data")
}

impl Volume {
    /// Makes the directory if there is none; filled from `image`, the image's file system, if it is empty.
    pub(super) fn prepare(&self, image: Option<&Path>) -> Result<Bound, Error> {
        let directory = &self.directory;
        std::fs::create_dir_all(directory).map_err(Error::io("create volume", directory))?;
        if let Some(image) = image.filter(|_| self.copy) {
            self.fill(image).map_err(Error::io("fill volume", directory))?;
        }
        let access = if self.read_only { "ro" } else { "rw" };
        let options = vec!["rbind", "rprivate", access];
        Ok(Bound { target: self.target.clone(), source: directory.clone(), options })
    }

    /// Whether the image is needed to prepare it.
    pub(super) fn to_be_filled(&self) -> bool {
        let empty = std::fs::read_dir(&self.directory).map_or(true, |mut entries| entries.next().is_none());
        self.copy && empty
    }

    fn fill(&self, image: &Path) -> io::Result<()> {
        let empty = std::fs::read_dir(&self.directory)?.next().is_none();
        let Some(source) = beneath(image, &self.target).filter(|_| empty) else {
            return Ok(());
        };
        if source.symlink_metadata()?.is_dir() { copy_directory(&source, &self.directory) } else { Ok(()) }
    }
}

/// `target` inside `image`, if it exists and no link leads elsewhere on the way.
fn beneath(image: &Path, target: &Path) -> Option<PathBuf> {
    let mut path = image.to_owned();
    for part in target.strip_prefix("/").ok()?.components() {
        path.push(part);
        if path.symlink_metadata().ok()?.is_symlink() {
            return None;
        }
    }
    Some(path)
}

fn copy_directory(from: &Path, to: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            std::fs::create_dir(&target)?;
            copy_directory(&source, &target)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(&source)?, &target)?;
            copy_owner(&source, &target, true)?;
        } else if kind.is_file() {
            std::fs::copy(&source, &target)?;
            copy_owner(&source, &target, false)?;
        }
    }
    copy_owner(from, to, false)
}

/// Owner first: changing it clears the set-user-id bits.
fn copy_owner(from: &Path, to: &Path, link: bool) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, lchown};
    let metadata = from.symlink_metadata()?;
    let owner = (Some(metadata.uid()), Some(metadata.gid()));
    if link {
        return lchown(to, owner.0, owner.1);
    }
    chown(to, owner.0, owner.1)?;
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(metadata.mode() & 0o7777))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(name: Option<&str>, target: &str) -> Mount {
        let kind = MountKind::Volume { name: name.map(str::to_owned), copy: true };
        Mount { target: target.into(), read_only: false, kind }
    }

    #[test]
    fn places_named_anonymous_and_declared_volumes() {
        let mounts = [mount(Some("db"), "/db"), mount(None, "/tmp/x")];
        let declared = ["/db".into(), "/cache".into()];
        let volumes = place(Path::new("/data"), Path::new("/c"), &mounts, &declared).unwrap();
        let directories: Vec<_> = volumes.iter().map(|volume| volume.directory.to_str().unwrap()).collect();
        assert_eq!(directories, ["/data/volumes/db/_data", "/c/volumes/1/_data", "/c/volumes/2/_data"]);
        for name in ["", "../x", "a/b", ".a"] {
            assert!(
                place(Path::new("/d"), Path::new("/c"), &[mount(Some(name), "/v")], &[]).is_err(),
                "{name}"
            );
        }
    }

    #[test]
    fn an_empty_volume_is_filled_once() {
        let root = tempfile::tempdir().unwrap();
        let image = root.path().join("image");
        std::fs::create_dir_all(image.join("www/sub")).unwrap();
        std::fs::write(image.join("www/sub/a"), "a").unwrap();
        std::os::unix::fs::symlink("sub/a", image.join("www/link")).unwrap();
        std::os::unix::fs::symlink("/etc", image.join("evil")).unwrap();
        let volume = |target: &str| {
            let mounts = [mount(Some(target), &format!("/{target}"))];
            let mut volumes = place(root.path(), &image, &mounts, &[]).unwrap();
            let bound = volumes.remove(0).prepare(Some(&image)).unwrap();
            bound.source
        };
        let www = volume("www");
        assert_eq!(std::fs::read(www.join("link")).unwrap(), b"a");
        std::fs::remove_file(www.join("link")).unwrap();
        volume("www");
        assert!(!www.join("link").exists());
        assert_eq!(std::fs::read_dir(volume("evil")).unwrap().count(), 0);
    }
}
