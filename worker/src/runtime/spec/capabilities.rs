//! Which capabilities a container has: Docker's fourteen, then what is dropped, then what is added.

use std::collections::BTreeSet;

use crate::runtime::Error;

const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

const OTHERS: [&str; 27] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "DAC_READ_SEARCH",
    "IPC_LOCK",
    "IPC_OWNER",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "NET_ADMIN",
    "NET_BROADCAST",
    "PERFMON",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "SYSLOG",
    "WAKE_ALARM",
];

/// The full names (`CAP_…`) of a container's capabilities. As with Docker, `ALL` in one list turns the meaning of
/// the other around: everything but, or nothing but.
pub(super) fn effective(add: &[String], drop: &[String]) -> Result<BTreeSet<String>, Error> {
    let (add, drop) = (names("added capability", add)?, names("dropped capability", drop)?);
    let known = || DEFAULT.iter().chain(&OTHERS).copied();
    let all = |set: &BTreeSet<&str>| set.contains("ALL");
    let names: BTreeSet<&str> = match (all(&add), all(&drop)) {
        (true, _) => known().filter(|name| !drop.contains(name)).collect(),
        (false, true) => add,
        (false, false) => DEFAULT.into_iter().filter(|name| !drop.contains(name)).chain(add).collect(),
    };
    Ok(names.into_iter().map(|name| format!("CAP_{name}")).collect())
}

fn names(field: &'static str, given: &[String]) -> Result<BTreeSet<&'static str>, Error> {
    given.iter().map(|name| canonical(field, name)).collect()
}

fn canonical(field: &'static str, given: &str) -> Result<&'static str, Error> {
    let upper = given.trim().to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let mut known = DEFAULT.iter().chain(&OTHERS).chain(&["ALL"]);
    known.find(|name| **name == short).copied().ok_or_else(|| {
        Error::config(field, format!("{given:?} is unknown; use a name such as NET_ADMIN, or ALL"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sets(add: &[&str], drop: &[&str]) -> BTreeSet<String> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        effective(&owned(add), &owned(drop)).unwrap()
    }

    #[test]
    fn add_and_drop() {
        assert_eq!(sets(&[], &[]).len(), 14);
        assert!(sets(&["net_admin"], &[]).contains("CAP_NET_ADMIN"));
        assert!(!sets(&[], &["CAP_CHOWN"]).contains("CAP_CHOWN"));
        assert_eq!(sets(&["KILL"], &["ALL"]).len(), 1);
        assert_eq!(sets(&["ALL"], &["SYS_ADMIN"]).len(), 40);
        assert!(effective(&["NOPE".to_owned()], &[]).is_err());
    }
}
