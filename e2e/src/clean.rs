//! Removes every trace of a lab, whatever state it was left in.
//!
//! Works from the lab's name alone, so that a lab can be removed by its own process, by a later run when that
//! process was killed (`sweep`), or by hand. Removing twice does nothing.
//!
//! Invariant: touches nothing whose name or path is not the lab's.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};

use crate::command::run;
use crate::process;

/// Where labs have their folders. On disk, not on a tmpfs: what is measured includes its fsyncs. Short, since
/// the path of a unix socket has at most 107 bytes.
const LABS: &str = "/var/tmp";
const PREFIX: &str = "e2e-";
const NETNS: &str = "/run/netns";

/// Makes a lab's folder; its name is unique and is the lab's.
pub(crate) fn claim() -> PathBuf {
    let folder = tempfile::Builder::new().prefix(PREFIX).rand_bytes(5).tempdir_in(LABS);
    let folder = folder.unwrap_or_else(|error| panic!("cannot make a folder in {LABS}: {error}")).keep();
    let pid = std::process::id() as i32;
    write_owner(&folder, &format!("{pid} {}", process::start_time(pid).unwrap_or_default()));
    folder
}

/// Lets the lab live on after its process.
pub(crate) fn disown(folder: &Path) {
    write_owner(folder, "kept");
}

fn write_owner(folder: &Path, owner: &str) {
    let file = folder.join("owner");
    fs::write(&file, owner).unwrap_or_else(|error| panic!("cannot write {}: {error}", file.display()));
}

/// Removes the labs whose process is gone without having cleaned up.
pub fn sweep() {
    let entries = fs::read_dir(LABS).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        // Held until the lab is gone, so that of several runs that start at once only one sweeps it.
        let Ok(owner) = File::open(entry.path().join("owner")) else { continue };
        if owner.try_lock().is_ok() && orphaned(&entry.path()) {
            remove(&entry.file_name().to_string_lossy());
        }
    }
}

/// A folder without a readable owner is somebody's who is just making it.
fn orphaned(folder: &Path) -> bool {
    let Ok(owner) = fs::read_to_string(folder.join("owner")) else { return false };
    let Some((pid, started)) = owner.split_once(' ') else { return false };
    let (Ok(pid), Ok(started)) = (pid.parse(), started.parse::<u64>()) else { return false };
    process::start_time(pid) != Some(started)
}

/// Removes the lab `name`.
pub fn remove(name: &str) {
    assert!(name.starts_with(PREFIX) && !name.contains('/'), "{name} is no name of a lab");
    let folder = Path::new(LABS).join(name);

    kill(name, &folder);
    unmount_below(&folder);
    process::remove_cgroups(name);
    remove_namespaces(name);
    if let Err(error) = fs::remove_dir_all(&folder) {
        assert!(error.kind() == std::io::ErrorKind::NotFound, "cannot remove {}: {error}", folder.display());
    }
}

/// Kills what runs in `folder` (of the lab or one of its hosts) and in the cgroup, daemons before containers, so
/// that nobody restarts what is being killed.
pub(crate) fn kill(cgroup: &str, folder: &Path) {
    let path = format!("{}/", folder.display());
    process::kill_all(&path, || process::naming(&path));
    process::kill_all(cgroup, || process::in_cgroup(cgroup));
    remove_shim_leftovers(folder);
}

/// A shim that is killed leaves its socket, and runc its state, below `/run/containerd`, outside of all roots.
fn remove_shim_leftovers(folder: &Path) {
    let found =
        run("find", &[&folder.display().to_string(), "-path", "*/io.containerd.runtime.v2.task/*/*/address"]);
    for address in found.stdout.lines().map(Path::new) {
        let socket = fs::read_to_string(address).unwrap_or_default();
        if let Some(socket) = socket.trim().strip_prefix("unix://") {
            let _ = fs::remove_file(socket);
        }
        let mut parts = address.components().rev().skip(1).map(|part| part.as_os_str().to_owned());
        if let (Some(id), Some(namespace)) = (parts.next(), parts.next()) {
            let _ = fs::remove_dir_all(Path::new("/run/containerd/runc").join(namespace).join(id));
        }
    }
}

/// Unmounts what is mounted below `folder`, the innermost first.
pub(crate) fn unmount_below(folder: &Path) {
    for mount in mounts_below(folder).iter().rev() {
        // Gone already where it was mounted on another that went.
        let _ = umount2(mount, MntFlags::MNT_DETACH);
    }
}

pub(crate) fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    let points = points.map(|point| PathBuf::from(point.replace("\\040", " ")));
    points.filter(|point| point.starts_with(folder) && point != folder).collect()
}

fn remove_namespaces(name: &str) {
    let entries = fs::read_dir(NETNS).into_iter().flatten().flatten();
    let prefix = format!("{name}-");
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)) {
        run("ip", &["netns", "delete", &entry.file_name().to_string_lossy()]).ok();
    }
}

pub(crate) fn namespace_path(name: &str) -> PathBuf {
    Path::new(NETNS).join(name)
}
