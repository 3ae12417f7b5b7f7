//! Who a container's process runs as, out of `user[:group]` and the image's `/etc/passwd` and `/etc/group`.

use crate::runtime::Error;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct User {
    pub uid: u32,
    pub gid: u32,
    pub additional: Vec<u32>,
}

/// The two files, as far as the image has them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Accounts {
    pub passwd: String,
    pub group: String,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// As Docker: an unknown number stands for itself, an unknown name is an error, and the memberships of the group
/// file count only if no group was given. `extra` are supplementary groups by name or number.
pub(crate) fn resolve(spec: &str, extra: &[String], accounts: &Accounts) -> Result<User, Error> {
    let (user, group) = match spec.split_once(':') {
        Some((user, group)) => (user, (!group.is_empty()).then_some(group)),
        None => (spec, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let (name, uid, primary) = account(user, accounts)?;
    let mut additional = Vec::new();
    let gid = match group {
        Some(group) => accounts.gid(group)?,
        None => {
            let memberships = accounts.groups().filter(|group| group.has(name));
            additional.extend(memberships.map(|group| group.gid));
            primary
        }
    };
    for group in extra {
        additional.push(accounts.gid(group)?);
    }
    additional.sort_unstable();
    additional.dedup();
    Ok(User { uid, gid, additional })
}

/// Name, uid and primary group of a user given by name or number.
fn account<'a>(user: &'a str, accounts: &'a Accounts) -> Result<(&'a str, u32, u32), Error> {
    let number = user.parse::<u32>().ok();
    let entries = accounts.users().filter(|(name, uid, _)| *name == user || Some(*uid) == number);
    // An entry of that name comes before one of that number, wherever they stand.
    let found = entries.min_by_key(|(name, ..)| *name != user);
    match (found, number) {
        (Some(found), _) => Ok(found),
        (None, Some(uid)) if i32::try_from(uid).is_ok() => Ok(("", uid, 0)),
        _ => Err(Error::config(
            "user",
            format!("unable to find user {user}: no matching entries in passwd file"),
        )),
    }
}

impl Accounts {
    fn users(&self) -> impl Iterator<Item = (&str, u32, u32)> {
        self.passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _password) = (fields.next()?, fields.next()?);
            Some((name, fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
        })
    }

    fn groups(&self) -> impl Iterator<Item = Group<'_>> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _password) = (fields.next()?, fields.next()?);
            Some(Group { name, gid: fields.next()?.parse().ok()?, members: fields.next().unwrap_or("") })
        })
    }

    fn gid(&self, group: &str) -> Result<u32, Error> {
        let named = self.groups().find(|entry| entry.name == group).map(|entry| entry.gid);
        let number = || group.parse::<u32>().ok().filter(|gid| i32::try_from(*gid).is_ok());
        named.or_else(number).ok_or_else(|| {
            Error::config("group", format!("unable to find group {group}: no matching entries in group file"))
        })
    }
}

impl Group<'_> {
    fn has(&self, user: &str) -> bool {
        !user.is_empty() && self.members.split(',').any(|member| member.trim() == user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0::/root:/bin/sh\nweb:x:101:102::/:/bin/false\n1000:x:7:8::/:\n".into(),
            group: "root:x:0:\nwheel:x:10:root\nwww:x:102:\nssl:x:33:other,web\n".into(),
        }
    }

    fn user(uid: u32, gid: u32, additional: &[u32]) -> User {
        User { uid, gid, additional: additional.to_vec() }
    }

    #[test]
    fn names_numbers_and_memberships() {
        for (spec, expected) in [
            ("", user(0, 0, &[10])),
            ("web", user(101, 102, &[33])),
            ("101", user(101, 102, &[33])),
            ("web:ssl", user(101, 33, &[])),
            ("5:6", user(5, 6, &[])),
            ("5", user(5, 0, &[])),
            ("1000", user(7, 8, &[])),
            (":33", user(0, 33, &[])),
        ] {
            assert_eq!(resolve(spec, &[], &accounts()).unwrap(), expected, "{spec}");
        }
        assert_eq!(resolve("5:6", &["ssl".into(), "44".into()], &accounts()).unwrap(), user(5, 6, &[33, 44]));
    }

    #[test]
    fn unknown_names_are_refused() {
        for spec in ["nobody", "web:nogroup", "4294967295", "-1"] {
            assert!(resolve(spec, &[], &accounts()).is_err(), "{spec}");
        }
        assert!(resolve("", &["nogroup".into()], &accounts()).is_err());
    }
}
