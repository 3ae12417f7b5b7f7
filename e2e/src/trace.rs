//! What networks and tasks leave on a host, as lines that can be compared and printed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::clean;
use crate::command::{run, run_inside};
use crate::process;

/// One line for each thing; what changes by itself (counters, times, handles) is left out.
pub(crate) fn footprint(netns: &str, folder: &Path, cgroup: &str) -> BTreeSet<String> {
    let views = [
        ("link", "ip -o link show | cut -d: -f2 | cut -d@ -f1"),
        ("address", "ip -o address show scope global | awk '{print $2, $4}'"),
        ("route", "ip route show; ip -6 route show | grep -v ^fe80 || true"),
        ("rule", "ip rule show"),
        ("neighbour", "ip neigh show nud permanent"),
        ("association", "ip xfrm state; ip xfrm policy"),
        ("nft", "nft --stateless list ruleset"),
    ];
    let mut lines = BTreeSet::new();
    for (kind, script) in views {
        let view = run_inside(netns, "sh", &["-ec", script]).ok();
        lines.extend(view.lines().map(|line| format!("{kind} {}", line.trim())));
    }
    lines.extend(clean::mounts_below(folder).iter().map(|mount| format!("mount {}", mount.display())));
    lines.extend(process::in_cgroup(cgroup).iter().map(|pid| format!("process {pid} in {cgroup}")));
    lines
}

/// What containers leave on a host beside the kernel's networking: processes, control groups, files and snapshots.
pub(crate) fn residue(folder: &Path, cgroup: &str) -> BTreeSet<String> {
    let kinds = [
        ("container's folder", "data/containers/*"),
        ("volume", "data/volumes/*"),
        ("shim's folder", "run/containerd/state/io.containerd.runtime.v2.task/*/*"),
        ("runc's folder", "run/runc/*/*"),
        ("snapshot", "data/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/*"),
    ];
    let mut lines: BTreeSet<String> = kinds
        .iter()
        .flat_map(|(kind, pattern)| {
            let found = run("sh", &["-c", &format!("ls -d {}/{pattern}", folder.display())]).stdout;
            found.lines().map(|path| format!("{kind} {path}")).collect::<Vec<_>>()
        })
        .collect();
    let path = folder.display().to_string();
    for program in ["containerd-shim", "swarm-logger", "runc"] {
        lines.extend(process::running_program(program, &path).iter().map(|pid| format!("{program} {pid}")));
    }
    lines.extend(process::cgroups(cgroup).iter().map(|group| format!("control group {}", group.display())));
    lines
}

/// The network namespaces that are mounted below `folder`.
pub(crate) fn namespaces(folder: &Path) -> Vec<PathBuf> {
    let kinds = run("findmnt", &["--list", "--noheadings", "--types", "nsfs", "--output", "TARGET"]);
    let mounts = kinds.stdout.lines().map(|line| PathBuf::from(line.trim()));
    mounts.filter(|mount| mount.starts_with(folder)).collect()
}

/// The same and more, for a person who looks at a failed story.
pub(crate) fn describe(netns: &str, folder: &Path, cgroup: &str) -> String {
    let script = "set -x; ip -d address; ip route; bridge fdb; ip neigh; nft list ruleset; ss -tunap";
    let mut text = run_inside(netns, "sh", &["-c", script]).to_string();
    for namespace in namespaces(folder) {
        let path = namespace.display().to_string();
        let inside = run_inside(
            &path,
            "sh",
            &["-c", "ip -d address; ip route; bridge fdb; ip neigh; nft list ruleset"],
        );
        text.push_str(&format!("\n{inside}\n"));
    }
    text.push_str(&format!("\nprocesses in {cgroup}: {:?}\n", process::in_cgroup(cgroup)));
    text
}
