//! The configuration of our own containerd: everything under our directories, and no plugin that is not needed.

use std::path::Path;

use super::Paths;
use crate::runtime::Error;

/// What is not needed makes the start slower and the process bigger. The old `runtime.v1.linux` stays: without it
/// containerd 1.6 has no tasks service at all.
const DISABLED: [&str; 14] = [
    "io.containerd.grpc.v1.cri",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.blockfile",
    "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.restart",
    "io.containerd.internal.v1.tracing",
    "io.containerd.tracing.processor.v1.otlp",
    "io.containerd.monitor.v1.cgroups",
    "io.containerd.monitor.task.v1.cgroups",
    "io.containerd.nri.v1.nri",
    "io.containerd.cri.v1.images",
];
/// containerd is killed for memory after everything else.
const OOM_SCORE: i32 = -999;
/// A unix socket's address has no room for more, and `.ttrpc` is added.
const SOCKET_BYTES: usize = 106 - ".ttrpc".len();

pub(super) fn write(paths: &Paths, root: &Path, state: &Path) -> Result<(), Error> {
    if paths.socket.as_os_str().len() > SOCKET_BYTES {
        let reason =
            format!("the socket's path {} is too long; choose a shorter exec root", paths.socket.display());
        return Err(Error::config("exec root", reason));
    }
    for directory in [Some(root), Some(state), paths.config.parent()].into_iter().flatten() {
        std::fs::create_dir_all(directory).map_err(Error::io("create", directory))?;
    }
    std::fs::write(&paths.config, text(paths, root, state)).map_err(Error::io("write", &paths.config))
}

fn text(paths: &Paths, root: &Path, state: &Path) -> String {
    let quoted = |path: &Path| format!("{:?}", path.to_string_lossy());
    let (root, state, socket) = (quoted(root), quoted(state), quoted(&paths.socket));
    let disabled = DISABLED.map(|plugin| format!("{plugin:?}")).join(", ");
    format!(
        "version = 2\nroot = {root}\nstate = {state}\noom_score = {OOM_SCORE}\n\
         disabled_plugins = [{disabled}]\n\n[grpc]\naddress = {socket}\n"
    )
}
