//! Refuses what a spec may ask for and this version does not have. A task that silently ran without it would be
//! worse than one that says so.

use proto::model::Task;
use proto::wire;

use super::container::Error;

pub(super) fn refuse(task: &Task) -> Result<(), Error> {
    let spec = &task.spec.container;
    let log_driver = task.log_driver.as_ref();
    let driver = log_driver.map_or("", |driver| driver.name.as_str());
    let asked = [
        ("secrets", !spec.secrets.is_empty()),
        ("configs", !spec.configs.is_empty()),
        ("open_stdin", spec.open_stdin),
        ("isolation", spec.isolation != 0),
    ];
    if let Some((field, _)) = asked.into_iter().find(|(_, asked)| *asked) {
        return Err(Error::Unsupported(field.into()));
    }
    if !matches!(driver, "" | "json-file" | "local") {
        return Err(Error::invalid("log_driver.name", driver, "json-file"));
    }
    if let Some(option) = log_driver.and_then(|driver| driver.options.keys().next()) {
        return Err(Error::Unsupported(format!("log_driver.options {option}")));
    }
    spec.privileges.as_ref().map_or(Ok(()), privileges)
}

fn privileges(asked: &wire::Privileges) -> Result<(), Error> {
    use wire::privileges::seccomp_opts::SeccompMode;
    let seccomp = asked.seccomp.as_ref().map_or(SeccompMode::Default, wire::privileges::SeccompOpts::mode);
    let asked = [
        ("credential_spec", asked.credential_spec.as_ref().is_some_and(|spec| spec.source.is_some())),
        ("selinux_context", asked.selinux_context.as_ref().is_some_and(|context| !context.disable)),
        ("seccomp.mode", seccomp != SeccompMode::Default),
        ("no_new_privileges", asked.no_new_privileges),
    ];
    match asked.into_iter().find(|(_, asked)| *asked) {
        Some((field, _)) => Err(Error::Unsupported(format!("privileges.{field}"))),
        None => Ok(()),
    }
}
