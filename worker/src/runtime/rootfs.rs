//! Looks into an image's file system.
//!
//! The snapshot is mounted in a mount namespace that only the looking thread is in: nobody else sees the mount, and
//! it is gone with the thread, whatever happens.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use containerd_client::services::v1::snapshots::{RemoveSnapshotRequest, ViewSnapshotRequest};
use containerd_client::types::Mount;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::Error;
use super::client::{Client, failed};
use super::spec::Accounts;

/// Images whose accounts are kept in memory.
const KEPT: usize = 256;
/// More than this is no file of accounts.
const ACCOUNTS_BYTES: u64 = 4 << 20;

pub(super) struct RootFs {
    client: Client,
    snapshotter: String,
    /// An empty directory to mount on.
    target: PathBuf,
    /// By snapshot: what is in a snapshot never changes.
    accounts: Mutex<HashMap<String, Arc<Accounts>>>,
}

impl RootFs {
    pub(super) fn new(client: Client, snapshotter: String, scratch: &Path) -> Result<Self, Error> {
        let target = scratch.join("rootfs");
        std::fs::create_dir_all(&target).map_err(Error::io("create", &target))?;
        Ok(Self { client, snapshotter, target, accounts: Mutex::default() })
    }

    /// `/etc/passwd` and `/etc/group` of an image, empty where it has none.
    pub(super) async fn accounts(&self, snapshot: &str) -> Result<Arc<Accounts>, Error> {
        let kept = || self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(accounts) = kept().get(snapshot) {
            return Ok(accounts.clone());
        }
        let accounts = match snapshot.is_empty() {
            true => Accounts::default(),
            false => self.look(snapshot, read_accounts).await?,
        };
        let accounts = Arc::new(accounts);
        let mut kept = kept();
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(snapshot.to_owned(), accounts.clone());
        Ok(accounts)
    }

    /// Calls `work` with the root of the file system of `snapshot`, read-only.
    pub(super) async fn look<T: Send + 'static>(
        &self,
        snapshot: &str,
        work: impl FnOnce(&Path) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let (snapshotter, key) =
            (self.snapshotter.clone(), format!("swarm-look-{}-{count}", std::process::id()));
        let request = ViewSnapshotRequest {
            snapshotter: snapshotter.clone(),
            key: key.clone(),
            parent: snapshot.to_owned(),
            ..ViewSnapshotRequest::default()
        };
        let view = self.client.snapshots().view(request).await.map_err(failed("look into the image"))?;
        let (mounts, target) = (view.into_inner().mounts, self.target.clone());
        let looked = tokio::task::spawn_blocking(move || {
            std::thread::scope(|scope| {
                let thread = scope.spawn(|| mounted(&mounts, &target, work));
                thread.join().expect("looking into an image does not panic")
            })
        });
        let outcome = looked.await.expect("looking into an image does not panic");
        let _ = self.client.snapshots().remove(RemoveSnapshotRequest { snapshotter, key }).await;
        outcome
    }
}

/// For a thread of its own: its mount namespace and working directory are changed.
fn mounted<T>(
    mounts: &[Mount],
    target: &Path,
    work: impl FnOnce(&Path) -> Result<T, Error>,
) -> Result<T, Error> {
    mount_all(mounts, target).map_err(|errno| Error::io("mount an image on", target)(errno.into()))?;
    work(target)
}

fn mount_all(mounts: &[Mount], target: &Path) -> nix::Result<()> {
    const NONE: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS)?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    for Mount { r#type, source, options, .. } in mounts {
        let (mut flags, mut data) = (MsFlags::empty(), Vec::new());
        for option in options {
            match option.as_str() {
                "ro" => flags |= MsFlags::MS_RDONLY,
                "rw" => {}
                "bind" => flags |= MsFlags::MS_BIND,
                "rbind" => flags |= MsFlags::MS_BIND | MsFlags::MS_REC,
                _ => data.push(relative(option)?),
            }
        }
        let data = data.join(",");
        mount(Some(source.as_str()), target, Some(r#type.as_str()), flags, Some(data.as_str()))?;
    }
    Ok(())
}

/// Mount options must fit into a page, which many long layer paths do not: they are named from where they lie.
fn relative(option: &str) -> nix::Result<String> {
    let Some(layers) = option.strip_prefix("lowerdir=") else {
        return Ok(option.to_owned());
    };
    let layers: Vec<&Path> = layers.split(':').map(Path::new).collect();
    // `…/snapshots/<number>/fs`
    let Some(common) = layers[0]
        .ancestors()
        .nth(2)
        .filter(|common| common.parent().is_some() && layers.iter().all(|layer| layer.starts_with(common)))
    else {
        return Ok(option.to_owned());
    };
    nix::unistd::chdir(common)?;
    let names: Vec<_> = layers.iter().filter_map(|layer| layer.strip_prefix(common).ok()?.to_str()).collect();
    Ok(format!("lowerdir={}", names.join(":")))
}

fn read_accounts(root: &Path) -> Result<Accounts, Error> {
    let read = |path: &str| read_beneath(root, path).map_err(Error::io("read from the image", path));
    Ok(Accounts { passwd: read("etc/passwd")?, group: read("etc/group")? })
}

/// Reads a file of the image; links lead nowhere else than into the image.
fn read_beneath(root: &Path, path: &str) -> io::Result<String> {
    let directory = File::open(root)?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = match openat2(&directory, path, how) {
        Ok(file) => File::from(file),
        Err(nix::Error::ENOENT | nix::Error::ENOTDIR | nix::Error::ELOOP) => return Ok(String::new()),
        Err(errno) => return Err(errno.into()),
    };
    if !file.metadata()?.is_file() {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    file.take(ACCOUNTS_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
