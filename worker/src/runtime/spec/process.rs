//! The process of a container: what is executed, with which environment and limits.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::user::User;
use crate::runtime::images::ImageConfig;
use crate::runtime::{ContainerConfig, Error, Ulimit};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where the init binary is mounted, as Docker has it.
pub(super) const INIT_PATH: &str = "/sbin/docker-init";
/// What dockerd's unit file allows, and the kernel's own bound (`fs.nr_open`).
const OPEN_FILES: u64 = 1_048_576;

pub(super) fn process(
    config: &ContainerConfig,
    image: &ImageConfig,
    user: &User,
    capabilities: &BTreeSet<String>,
    open_files: u64,
) -> Result<Value, Error> {
    Ok(json!({
        "terminal": config.tty,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": user.additional},
        "args": arguments(config, image)?,
        "env": environment(config, image),
        "cwd": directory(config, image)?,
        "capabilities": {
            "bounding": capabilities,
            "permitted": root_only(user, capabilities),
            "effective": root_only(user, capabilities),
        },
        "rlimits": rlimits(&config.ulimits, open_files)?,
        "oomScoreAdj": config.oom_score_adj.unwrap_or(0),
        "noNewPrivileges": false,
    }))
}

/// Someone else than root gets a capability only through an executable that grants it.
fn root_only(user: &User, capabilities: &BTreeSet<String>) -> BTreeSet<String> {
    if user.uid == 0 { capabilities.clone() } else { BTreeSet::new() }
}

fn arguments(config: &ContainerConfig, image: &ImageConfig) -> Result<Vec<String>, Error> {
    let own = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let mut arguments = match config.command.is_empty() {
        false => [config.command.clone(), config.args.clone()].concat(),
        true if config.args.is_empty() => [own(&image.entrypoint), own(&image.cmd)].concat(),
        true => [own(&image.entrypoint), config.args.clone()].concat(),
    };
    if arguments.first().is_none_or(String::is_empty) {
        return Err(Error::config("command", "the image names none and the service gives none"));
    }
    if config.init {
        arguments.splice(0..0, [INIT_PATH.to_owned(), "--".to_owned()]);
    }
    Ok(arguments)
}

/// Docker's defaults, then the image's, then the container's own; a later one replaces an earlier one in place.
fn environment(config: &ContainerConfig, image: &ImageConfig) -> Vec<String> {
    let mut defaults = vec![PATH.to_owned(), format!("HOSTNAME={}", super::hostname(config))];
    if config.tty {
        defaults.push("TERM=xterm".to_owned());
    }
    let mut environment: Vec<String> = Vec::new();
    let image = image.env.iter().flatten();
    for entry in defaults.iter().chain(image).chain(&config.env) {
        let (name, value) = entry.split_once('=').map_or((entry.as_str(), None), |(name, v)| (name, Some(v)));
        let known = environment.iter().position(|entry| entry.split('=').next() == Some(name));
        match (known, value) {
            (Some(index), Some(_)) => environment[index].clone_from(entry),
            (Some(index), None) => drop(environment.remove(index)),
            (None, Some(_)) => environment.push(entry.clone()),
            (None, None) => {}
        }
    }
    environment
}

fn directory(config: &ContainerConfig, image: &ImageConfig) -> Result<String, Error> {
    let given = [Some(&config.dir), image.working_dir.as_ref()].into_iter().flatten();
    let directory = given.into_iter().find(|dir| !dir.is_empty()).map_or("/", String::as_str);
    if !directory.starts_with('/') {
        return Err(Error::config("working directory", format!("{directory:?} is not an absolute path")));
    }
    Ok(directory.to_owned())
}

fn rlimits(ulimits: &[Ulimit], open_files: u64) -> Result<Vec<Value>, Error> {
    const KNOWN: [&str; 16] = [
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let unlimited = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
    let mut rlimits = Vec::new();
    if !ulimits.iter().any(|ulimit| ulimit.name == "nofile") {
        // No more than we have ourselves: to raise it takes a capability that we may not have.
        let most = OPEN_FILES.min(open_files);
        rlimits.push(json!({"type": "RLIMIT_NOFILE", "soft": most, "hard": most}));
    }
    for Ulimit { name, soft, hard } in ulimits {
        if !KNOWN.contains(&name.as_str()) {
            return Err(Error::config(
                "ulimit",
                format!("{name:?} is unknown; use one of {}", KNOWN.join(", ")),
            ));
        }
        let (soft, hard) = (unlimited(*soft), unlimited(*hard));
        if soft > hard {
            return Err(Error::config("ulimit", format!("the soft limit of {name} is above its hard limit")));
        }
        let kind = format!("RLIMIT_{}", name.to_ascii_uppercase());
        rlimits.push(json!({"type": kind, "soft": soft, "hard": hard}));
    }
    Ok(rlimits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(items: &[&str]) -> Vec<String> {
        items.iter().map(|item| (*item).to_owned()).collect()
    }

    #[test]
    fn entrypoint_and_command_merge_as_in_docker() {
        let image = ImageConfig {
            entrypoint: Some(list(&["/entry"])),
            cmd: Some(list(&["a", "b"])),
            ..ImageConfig::default()
        };
        let merged = |command: &[&str], args: &[&str]| {
            let config =
                ContainerConfig { command: list(command), args: list(args), ..ContainerConfig::default() };
            arguments(&config, &image).unwrap()
        };
        assert_eq!(merged(&[], &[]), ["/entry", "a", "b"]);
        assert_eq!(merged(&[], &["x"]), ["/entry", "x"]);
        assert_eq!(merged(&["sh"], &[]), ["sh"]);
        assert_eq!(merged(&["sh"], &["-c", "x"]), ["sh", "-c", "x"]);
        assert!(arguments(&ContainerConfig::default(), &ImageConfig::default()).is_err());
    }

    #[test]
    fn environment_is_replaced_in_place() {
        let image = ImageConfig { env: Some(list(&["PATH=/app", "A=1", "B=2"])), ..ImageConfig::default() };
        let config = ContainerConfig {
            hostname: "h".into(),
            env: list(&["A=9", "B", "C=x=y", "GONE"]),
            ..ContainerConfig::default()
        };
        assert_eq!(environment(&config, &image), ["PATH=/app", "HOSTNAME=h", "A=9", "C=x=y"]);
    }
}
