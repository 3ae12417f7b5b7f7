//! Mounts of a container.

use std::collections::BTreeSet;

use proto::wire::Mount;
use proto::wire::mount::Type;

use crate::api::limits;
use crate::error::Error;

pub fn check(field: &str, mounts: &[Mount]) -> Result<(), Error> {
    limits::count(field, mounts.len())?;
    let mut targets = BTreeSet::new();
    for (i, mount) in mounts.iter().enumerate() {
        let field = format!("{field}[{i}]");
        check_one(&field, mount)?;
        if !targets.insert(mount.target.trim_end_matches('/')) {
            let remedy = "two mounts have this target: give each its own";
            return Err(Error::invalid(format!("{field}.target"), &mount.target, remedy));
        }
    }
    Ok(())
}

fn check_one(field: &str, mount: &Mount) -> Result<(), Error> {
    let (source, target) = (format!("{field}.source"), format!("{field}.target"));
    limits::length(&source, &mount.source)?;
    limits::length(&target, &mount.target)?;
    if !mount.target.starts_with('/') || mount.target.trim_end_matches('/').is_empty() {
        return Err(Error::invalid(target, &mount.target, "an absolute path below / is needed"));
    }
    match Type::try_from(mount.r#type) {
        Ok(Type::Bind) if !mount.source.starts_with('/') => {
            Err(Error::invalid(source, &mount.source, "a bind mount needs an absolute path of the node"))
        }
        Ok(Type::Tmpfs) if !mount.source.is_empty() => {
            Err(Error::invalid(source, &mount.source, "a tmpfs mount has no source"))
        }
        Ok(Type::Tmpfs) => check_tmpfs(field, mount),
        Ok(Type::Bind) => Ok(()),
        Ok(Type::Volume | Type::Cluster) => Err(Error::unsupported(format!("{field}.type"), "volumes")),
        Ok(Type::Npipe) => Err(Error::unsupported(format!("{field}.type"), "named pipes")),
        Err(_) => Err(Error::invalid(format!("{field}.type"), mount.r#type, "bind or tmpfs is needed")),
    }
}

fn check_tmpfs(field: &str, mount: &Mount) -> Result<(), Error> {
    let size = mount.tmpfs_options.as_ref().map_or(0, |options| options.size_bytes);
    if size >= 0 {
        return Ok(());
    }
    Err(Error::invalid(format!("{field}.tmpfs_options.size_bytes"), size, "0 or more is needed"))
}
