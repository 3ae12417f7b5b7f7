//! Network namespaces as files: made, entered, removed. The only place that changes a thread's namespace.
//!
//! A namespace is kept by a bind mount on a file. The directory is a mount point of its own and shared, as `ip netns`
//! does it, so that unmounting here also unmounts the copies that other mount namespaces got; else a namespace would
//! live on in whichever process cloned the mounts while it existed.
//!
//! Invariant: a mounted file is a finished namespace, with its sysctls set. A file that is none is a leftover.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::fstatfs;
use tokio::sync::oneshot;

use crate::sysctl::Sysctl;

/// `NSFS_MAGIC` of linux/magic.h.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// Makes `dir` a shared mount point of its own. Doing so again changes nothing.
pub fn prepare(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    match share(dir) {
        Err(Errno::EINVAL) => {}
        other => return other.map_err(io::Error::from),
    }
    // It was no mount point yet.
    mount(Some(dir), dir, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(share(dir)?)
}

fn share(dir: &Path) -> Result<(), Errno> {
    mount(None::<&str>, dir, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>)
}

/// Undoes [`prepare`] if no namespace is left.
pub fn retire(dir: &Path) -> io::Result<()> {
    if fs::read_dir(dir)?.next().is_some() {
        return Ok(());
    }
    match umount2(dir, MntFlags::MNT_DETACH) {
        Ok(()) | Err(Errno::EINVAL) => fs::remove_dir(dir),
        Err(error) => Err(error.into()),
    }
}

/// Opens a namespace; `None` if there is none, or only a leftover file.
pub fn open(path: &Path) -> io::Result<Option<File>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(is_namespace(&file)?.then_some(file))
}

fn is_namespace(file: &File) -> io::Result<bool> {
    Ok(fstatfs(file)?.filesystem_type().0 == NSFS_MAGIC)
}

/// Makes a namespace with these sysctls and mounts it on `path`.
///
/// By a thread that leaves the process's namespace and ends, not by forking a process with many threads.
pub async fn create(path: &Path, sysctls: Vec<Sysctl>) -> io::Result<()> {
    let path = path.to_owned();
    on_thread(move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        for sysctl in sysctls {
            sysctl.write()?;
        }
        failpoint::reached("make the file of a namespace");
        File::options().create(true).append(true).open(&path)?;
        failpoint::reached("mount a namespace");
        // "thread-self": only this thread has moved.
        mount(Some("/proc/thread-self/ns/net"), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(())
    })
    .await?
}

/// Removes a namespace, or a leftover file. Success if there is neither. On a thread, since the kernel takes its time.
pub async fn remove(path: &Path) -> io::Result<()> {
    let path = path.to_owned();
    on_thread(move || unmount_and_unlink(&path)).await?
}

fn unmount_and_unlink(path: &Path) -> io::Result<()> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH) {
            // Mounts can lie on top of each other.
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => break,
            Err(error) => return Err(error.into()),
        }
    }
    failpoint::reached("remove the file of a namespace");
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A namespace without a name, which ends with the file.
pub async fn scratch() -> io::Result<File> {
    on_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        File::open("/proc/thread-self/ns/net")
    })
    .await?
}

/// Runs `work` on a thread inside `namespace` (`None`: the process's own), within the caller's runtime, so that
/// sockets can be registered there.
pub async fn within<T: Send + 'static>(
    namespace: Option<&File>,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let namespace = namespace.map(File::try_clone).transpose()?;
    let runtime = tokio::runtime::Handle::current();
    on_thread(move || {
        if let Some(namespace) = namespace {
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
        }
        let _entered = runtime.enter();
        Ok(work())
    })
    .await?
}

/// A thread of its own, never one of a pool: its namespace dies with it.
async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (done, result) = oneshot::channel();
    let body = move || {
        // The receiver is gone only if the caller was cancelled; then nobody wants the result.
        let _ = done.send(work());
    };
    std::thread::Builder::new().name("netns".to_owned()).stack_size(256 * 1024).spawn(body)?;
    result.await.map_err(|_| io::Error::other("the thread in the namespace panicked"))
}
