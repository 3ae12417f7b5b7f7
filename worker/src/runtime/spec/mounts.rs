//! What is mounted in a container: Docker's defaults, the generated files, and what was asked for.

use std::path::{Component, Path, PathBuf};

use serde_json::{Value, json};

use super::process::INIT_PATH;
use crate::runtime::{Error, Mount, MountKind, TmpfsOptions};

/// A mount whose source is settled: what volumes and generated files have become.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bound {
    pub target: PathBuf,
    pub source: PathBuf,
    pub options: Vec<&'static str>,
}

/// The kernel's own file systems and tmpfs, in an order that mounts parents first.
fn defaults() -> Vec<Value> {
    let mount = |target: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": source, "options": options});
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        // The OCI runtimes take "cgroup" for either version.
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["ro", "nosuid", "noexec", "nodev"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
    ]
}

/// All mounts of a container. `generated` gives way to what the user mounts at the same place.
pub(super) fn all(
    wanted: &[Mount],
    volumes: Vec<Bound>,
    generated: Vec<Bound>,
    init: Option<PathBuf>,
) -> Result<Vec<Value>, Error> {
    check(wanted)?;
    let taken = |target: &Path| wanted.iter().any(|mount| mount.target == target);
    let mut own: Vec<(PathBuf, Value)> = Vec::new();
    for bound in generated.into_iter().filter(|bound| !taken(&bound.target)).chain(volumes) {
        own.push((bound.target.clone(), bound.value()));
    }
    for mount in wanted {
        if let Some(value) = mounted(mount)? {
            own.push((mount.target.clone(), value));
        }
    }
    if let Some(source) = init {
        let bound = Bound { target: INIT_PATH.into(), source, options: vec!["bind", "ro"] };
        own.push((bound.target.clone(), bound.value()));
    }
    own.sort_by_key(|(target, _)| target.components().count());
    let defaults = defaults().into_iter();
    let defaults =
        defaults.filter(|mount| !mount["destination"].as_str().is_some_and(|at| taken(Path::new(at))));
    Ok(defaults.chain(own.into_iter().map(|(_, value)| value)).collect())
}

impl Bound {
    fn value(&self) -> Value {
        json!({"destination": self.target, "type": "bind", "source": self.source, "options": self.options})
    }
}

fn check(wanted: &[Mount]) -> Result<(), Error> {
    for (index, mount) in wanted.iter().enumerate() {
        let target = &mount.target;
        let shown = target.display();
        if !target.is_absolute() || target.components().any(|part| part == Component::ParentDir) {
            return Err(Error::config("mount target", format!("{shown} is not an absolute path")));
        }
        if target == Path::new("/") {
            return Err(Error::config("mount target", "/ cannot be mounted over"));
        }
        if wanted[..index].iter().any(|other| other.target == *target) {
            return Err(Error::config("mount target", format!("{shown} is given twice")));
        }
    }
    Ok(())
}

/// `None` for volumes, which come settled.
fn mounted(mount: &Mount) -> Result<Option<Value>, Error> {
    match &mount.kind {
        MountKind::Volume { .. } => Ok(None),
        MountKind::Tmpfs(options) => Ok(Some(tmpfs(mount, options))),
        MountKind::Bind { source, propagation, recursive } => {
            if !source.is_absolute() {
                let reason = format!("{} is not an absolute path", source.display());
                return Err(Error::config("bind source", reason));
            }
            if !source.exists() {
                return Err(Error::BindSource(source.clone()));
            }
            let bind = if *recursive { "rbind" } else { "bind" };
            let access = if mount.read_only { "ro" } else { "rw" };
            let options = vec![bind, propagation.as_str(), access];
            let bound = Bound { target: mount.target.clone(), source: source.clone(), options };
            Ok(Some(bound.value()))
        }
    }
}

fn tmpfs(mount: &Mount, given: &TmpfsOptions) -> Value {
    let mut options: Vec<String> = ["noexec", "nosuid", "nodev"].map(str::to_owned).into();
    if let Some(bytes) = given.size_bytes {
        options.push(format!("size={bytes}"));
    }
    options.push(format!("mode={:o}", given.mode.unwrap_or(0o1777)));
    for option in &given.options {
        // `exec` takes back `noexec`, and so on.
        options.retain(|present| present.strip_prefix("no") != Some(option));
        options.push(option.clone());
    }
    if mount.read_only {
        options.push("ro".to_owned());
    }
    json!({"destination": mount.target, "type": "tmpfs", "source": "tmpfs", "options": options})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tmpfs_at(target: &str) -> Mount {
        Mount {
            target: target.into(),
            read_only: false,
            kind: MountKind::Tmpfs(TmpfsOptions { options: vec!["exec".into()], ..TmpfsOptions::default() }),
        }
    }

    fn targets(wanted: &[Mount]) -> Vec<String> {
        let hosts = Bound { target: "/etc/hosts".into(), source: "/x".into(), options: vec!["bind"] };
        let mounts = all(wanted, Vec::new(), vec![hosts], None).unwrap();
        mounts.iter().map(|mount| mount["destination"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn what_the_user_mounts_wins_and_parents_come_first() {
        let found =
            targets(&[tmpfs_at("/a/b"), tmpfs_at("/a"), tmpfs_at("/etc/hosts"), tmpfs_at("/dev/shm")]);
        assert_eq!(found.iter().filter(|target| *target == "/dev/shm").count(), 1);
        assert_eq!(found.iter().filter(|target| *target == "/etc/hosts").count(), 1);
        let position = |wanted: &str| found.iter().position(|target| target == wanted).unwrap();
        assert!(position("/a") < position("/a/b"));
    }

    #[test]
    fn bad_mounts_are_refused() {
        let all = |wanted: &[Mount]| all(wanted, Vec::new(), Vec::new(), None);
        for target in ["a", "/", "/a/../b"] {
            assert!(all(&[tmpfs_at(target)]).is_err(), "{target}");
        }
        assert!(all(&[tmpfs_at("/a"), tmpfs_at("/a")]).is_err());
        let kind = MountKind::Bind {
            source: "/nonexistent/x".into(),
            propagation: Default::default(),
            recursive: true,
        };
        let bind = Mount { target: "/b".into(), read_only: true, kind };
        let error = all(&[bind]).unwrap_err();
        assert_eq!(error.to_string(), "bind source path does not exist: /nonexistent/x");
    }

    #[test]
    fn options_of_tmpfs() {
        let value = mounted(&tmpfs_at("/a")).unwrap().unwrap();
        assert_eq!(value["options"], json!(["nosuid", "nodev", "mode=1777", "exec"]));
    }
}
