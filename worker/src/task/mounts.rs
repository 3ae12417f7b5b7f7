//! The mounts of a container spec.

use std::path::{Path, PathBuf};

use proto::model::template::Context;
use proto::wire;
use wire::mount::Type;
use wire::mount::bind_options::Propagation as WirePropagation;

use super::container::Error;
use crate::runtime::{Mount, MountKind, Propagation, TmpfsOptions};

pub(super) fn read(mounts: &[wire::Mount], context: Context<'_>) -> Result<Vec<Mount>, Error> {
    mounts.iter().enumerate().map(|(i, mount)| read_one(&format!("mounts[{i}]"), mount, context)).collect()
}

fn read_one(field: &str, mount: &wire::Mount, context: Context<'_>) -> Result<Mount, Error> {
    let target = absolute(&format!("{field}.target"), &context.expand(field, &mount.target)?)?;
    let source = context.expand(&format!("{field}.source"), &mount.source)?;
    let kind = match Type::try_from(mount.r#type) {
        Ok(Type::Bind) => bind(field, &source, mount.bind_options.as_ref())?,
        Ok(Type::Volume) => volume(field, source, mount.volume_options.as_ref())?,
        Ok(Type::Tmpfs) => tmpfs(field, mount.tmpfs_options.as_ref())?,
        Ok(Type::Npipe | Type::Cluster) => {
            return Err(Error::Unsupported(format!("{field}.type npipe or cluster")));
        }
        Err(_) => {
            return Err(Error::invalid(format!("{field}.type"), mount.r#type, "bind, volume or tmpfs"));
        }
    };
    Ok(Mount { target, read_only: mount.readonly, kind })
}

fn absolute(field: &str, path: &str) -> Result<PathBuf, Error> {
    let path = Path::new(path);
    match path.is_absolute() {
        true => Ok(path.to_owned()),
        false => Err(Error::invalid(field, path.display(), "an absolute path")),
    }
}

fn bind(field: &str, source: &str, options: Option<&wire::mount::BindOptions>) -> Result<MountKind, Error> {
    let source = absolute(&format!("{field}.source"), source)?;
    let options = options.copied().unwrap_or_default();
    refuse(
        field,
        "bind_options",
        &[
            ("createmountpoint", options.createmountpoint),
            ("readonlynonrecursive", options.readonlynonrecursive),
            ("readonlyforcerecursive", options.readonlyforcerecursive),
        ],
    )?;
    let propagation = WirePropagation::try_from(options.propagation).map_err(|_| {
        let field = format!("{field}.bind_options.propagation");
        Error::invalid(field, options.propagation, "rprivate, private, rshared, shared, rslave or slave")
    })?;
    Ok(MountKind::Bind { source, propagation: propagation.into(), recursive: !options.nonrecursive })
}

impl From<WirePropagation> for Propagation {
    fn from(propagation: WirePropagation) -> Self {
        match propagation {
            WirePropagation::Rprivate => Self::RPrivate,
            WirePropagation::Private => Self::Private,
            WirePropagation::Rshared => Self::RShared,
            WirePropagation::Shared => Self::Shared,
            WirePropagation::Rslave => Self::RSlave,
            WirePropagation::Slave => Self::Slave,
        }
    }
}

fn volume(
    field: &str,
    source: String,
    options: Option<&wire::mount::VolumeOptions>,
) -> Result<MountKind, Error> {
    let options = options.cloned().unwrap_or_default();
    let driver = options.driver_config.unwrap_or_default();
    refuse(
        field,
        "volume_options",
        &[
            ("driver_config.name", !matches!(driver.name.as_str(), "" | "local")),
            ("driver_config.options", !driver.options.is_empty()),
            ("labels", !options.labels.is_empty()),
            ("subpath", !options.subpath.is_empty()),
        ],
    )?;
    Ok(MountKind::Volume { name: (!source.is_empty()).then_some(source), copy: !options.nocopy })
}

fn tmpfs(field: &str, options: Option<&wire::mount::TmpfsOptions>) -> Result<MountKind, Error> {
    let options = options.cloned().unwrap_or_default();
    let size = u64::try_from(options.size_bytes).map_err(|_| {
        Error::invalid(format!("{field}.tmpfs_options.size_bytes"), options.size_bytes, "0 or more")
    })?;
    let further = options.options.split(',').map(str::trim).filter(|option| !option.is_empty());
    Ok(MountKind::Tmpfs(TmpfsOptions {
        size_bytes: (size > 0).then_some(size),
        mode: (options.mode > 0).then_some(options.mode),
        options: further.map(str::to_owned).collect(),
    }))
}

fn refuse(field: &str, options: &str, asked: &[(&str, bool)]) -> Result<(), Error> {
    match asked.iter().find(|(_, asked)| *asked) {
        Some((name, _)) => Err(Error::Unsupported(format!("{field}.{options}.{name}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::samples;

    fn converted(mount: wire::Mount) -> Result<Mount, Error> {
        let (assigned, facts) = (samples::assigned("t1"), samples::facts());
        let context = Context { task: &assigned.task, node: &facts.node_id, description: &facts.description };
        Ok(read(&[mount], context)?.remove(0))
    }

    #[test]
    fn kinds() {
        let bind =
            wire::Mount { source: "/d/{{.Task.Slot}}".into(), target: "/x".into(), ..Default::default() };
        let MountKind::Bind { source, recursive: true, .. } = converted(bind).unwrap().kind else { panic!() };
        assert_eq!(source, Path::new("/d/2"));
        let volume = wire::Mount { r#type: Type::Volume.into(), target: "/x".into(), ..Default::default() };
        assert_eq!(converted(volume).unwrap().kind, MountKind::Volume { name: None, copy: true });
    }

    #[test]
    fn errors_name_the_field() {
        let relative = wire::Mount { source: "d".into(), target: "/x".into(), ..Default::default() };
        assert!(converted(relative).unwrap_err().to_string().starts_with("mounts[0].source"));
        let no_target = wire::Mount { source: "/d".into(), ..Default::default() };
        assert!(converted(no_target).unwrap_err().to_string().starts_with("mounts[0].target"));
        let foreign = wire::Mount { r#type: 9, target: "/x".into(), ..Default::default() };
        assert!(converted(foreign).unwrap_err().to_string().starts_with("mounts[0].type"));
    }
}
