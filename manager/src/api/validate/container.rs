//! What a service's container may be. The node's runtime judges what only it can know.

use proto::model::Signal;
use proto::wire::ContainerSpec;
use proto::wire::container_spec::Isolation;

use super::{health, image, mount, naming};
use crate::api::limits;
use crate::error::Error;

pub fn check(field: &str, container: &ContainerSpec) -> Result<(), Error> {
    let at = |name: &str| format!("{field}.{name}");
    image::check(&at("image"), &container.image)?;
    refuse_unsupported(field, container)?;
    limits::map(&at("labels"), &container.labels)?;
    limits::map(&at("sysctls"), &container.sysctls)?;
    for (name, entries) in [
        ("command", container.command.len()),
        ("args", container.args.len()),
        ("env", container.env.len()),
        ("groups", container.groups.len()),
        ("capability_add", container.capability_add.len()),
        ("capability_drop", container.capability_drop.len()),
        ("ulimits", container.ulimits.len()),
    ] {
        limits::count(&at(name), entries)?;
    }
    check_env(&at("env"), &container.env)?;
    naming::check(field, container)?;
    check_signal(&at("stop_signal"), &container.stop_signal)?;
    check_grace_period(&at("stop_grace_period"), container.stop_grace_period)?;
    check_no_nul(field, container)?;
    if let Some(health) = &container.healthcheck {
        health::check(&at("healthcheck"), health)?;
    }
    if !container.dir.is_empty() && !container.dir.starts_with('/') {
        return Err(Error::invalid(at("dir"), &container.dir, "an absolute path is needed"));
    }
    if container.pids_limit < -1 {
        return Err(Error::invalid(
            at("pids_limit"),
            container.pids_limit,
            "0 or -1 (no limit) or more is needed",
        ));
    }
    mount::check(&at("mounts"), &container.mounts)
}

fn refuse_unsupported(field: &str, container: &ContainerSpec) -> Result<(), Error> {
    let refused = [
        (!container.secrets.is_empty(), "secrets", "secrets"),
        (!container.configs.is_empty(), "configs", "configs"),
        (container.isolation != i32::from(Isolation::IsolationDefault), "isolation", "isolation modes"),
        (
            container.privileges.as_ref().is_some_and(|privileges| privileges.credential_spec.is_some()),
            "privileges.credential_spec",
            "credential specs",
        ),
    ];
    let found = refused.into_iter().find(|(asked, ..)| *asked);
    found.map_or(Ok(()), |(_, name, what)| Err(Error::unsupported(format!("{field}.{name}"), what)))
}

fn check_env(field: &str, env: &[String]) -> Result<(), Error> {
    let bad = env.iter().position(|variable| variable.is_empty() || variable.starts_with('='));
    bad.map_or(Ok(()), |i| {
        Err(Error::invalid(format!("{field}[{i}]"), &env[i], "NAME=VALUE or NAME is needed"))
    })
}

fn check_signal(field: &str, signal: &str) -> Result<(), Error> {
    if signal.is_empty() || signal.parse::<Signal>().is_ok() {
        return Ok(());
    }
    Err(Error::invalid(field, signal, "a signal such as SIGTERM or 15 is needed"))
}

fn check_grace_period(field: &str, period: Option<prost_types::Duration>) -> Result<(), Error> {
    let Some(period) = period else { return Ok(()) };
    if std::time::Duration::try_from(period).is_ok() {
        return Ok(());
    }
    Err(Error::invalid(field, format!("{}s", period.seconds), "0 or more is needed"))
}

/// The kernel takes no string with a zero byte.
fn check_no_nul(field: &str, container: &ContainerSpec) -> Result<(), Error> {
    let lists = [("command", &container.command), ("args", &container.args), ("env", &container.env)];
    let single = [("dir", &container.dir), ("user", &container.user)];
    let all = lists.into_iter().flat_map(|(name, list)| list.iter().map(move |text| (name, text)));
    match all.chain(single).find(|(_, text)| text.contains('\0')) {
        Some((name, text)) => {
            Err(Error::invalid(format!("{field}.{name}"), text.escape_debug(), "a zero byte is not allowed"))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proto::wire::{Mount, SecretReference};

    use super::*;

    fn container(change: impl FnOnce(&mut ContainerSpec)) -> Result<(), Error> {
        let mut container = ContainerSpec { image: "nginx".into(), ..Default::default() };
        change(&mut container);
        check("task.container", &container)
    }

    fn refusal(change: impl FnOnce(&mut ContainerSpec)) -> String {
        container(change).unwrap_err().to_string()
    }

    fn mount(kind: i32, source: &str, target: &str) -> Mount {
        Mount { r#type: kind, source: source.into(), target: target.into(), ..Default::default() }
    }

    #[test]
    fn what_is_not_there_yet_is_refused_by_name() {
        assert_eq!(
            refusal(|c| c.secrets.push(SecretReference::default())),
            "task.container.secrets: secrets are not supported by this version",
        );
        assert!(refusal(|c| c.mounts.push(mount(1, "data", "/data"))).contains("mounts[0].type: volumes"));
    }

    #[test]
    fn fields_are_named() {
        for (field, refused) in [
            ("env[1]", refusal(|c| c.env = vec!["A=1".into(), "=x".into()])),
            ("dir", refusal(|c| c.dir = "tmp".into())),
            ("stop_signal", refusal(|c| c.stop_signal = "65".into())),
            ("stop_signal", refusal(|c| c.stop_signal = "SIGNONE".into())),
            ("hostname", refusal(|c| c.hostname = "a b".into())),
            ("args", refusal(|c| c.args.push("a\0b".into()))),
            ("mounts[0].source", refusal(|c| c.mounts.push(mount(0, "data", "/data")))),
            ("mounts[0].target", refusal(|c| c.mounts.push(mount(2, "", "data")))),
            ("mounts[1].target", refusal(|c| c.mounts = vec![mount(2, "", "/a"), mount(2, "", "/a/")])),
        ] {
            assert!(refused.starts_with(&format!("task.container.{field} has the value")), "{refused}");
        }
    }
}
