//! The system calls that a container may make: Docker's default profile.
//!
//! An allow-list, so a call that is new in the kernel is refused until it is listed. The list is data
//! (`seccomp.txt`); here is what depends on arguments. Names that the kernel or libseccomp does not know are
//! left out by the OCI runtime.

use std::collections::BTreeSet;

use serde_json::{Value, json};

const CALLS: &str = include_str!("seccomp.txt");

/// `EPERM`: what a refused call returns.
const REFUSED: u32 = 1;
/// `ENOSYS`: makes the C library fall back from clone3, whose flags a filter cannot see, to clone.
const UNKNOWN: u32 = 38;
/// The CLONE_NEW* flags: no new namespaces without CAP_SYS_ADMIN.
const NEW_NAMESPACES: u64 = 0x7E02_0000;
const AF_VSOCK: u64 = 40;
/// PER_LINUX, PER_LINUX32, both with UNAME26, and the query.
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xFFFF_FFFF];

/// The profile for a container with `capabilities` (`CAP_…`).
pub(super) fn profile(capabilities: &BTreeSet<String>) -> Value {
    let mut rules = vec![
        json!({"names": allowed(capabilities), "action": "SCMP_ACT_ALLOW"}),
        allow_if("socket", json!({"index": 0, "value": AF_VSOCK, "op": "SCMP_CMP_NE"})),
    ];
    for personality in PERSONALITIES {
        rules.push(allow_if("personality", json!({"index": 0, "value": personality, "op": "SCMP_CMP_EQ"})));
    }
    if !capabilities.contains("CAP_SYS_ADMIN") {
        let no_namespaces =
            json!({"index": 0, "value": NEW_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"});
        rules.push(allow_if("clone", no_namespaces));
        rules.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": UNKNOWN}));
    }
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": REFUSED,
        "architectures": architectures(),
        "syscalls": rules,
    })
}

fn allow_if(name: &str, argument: Value) -> Value {
    json!({"names": [name], "action": "SCMP_ACT_ALLOW", "args": [argument]})
}

fn allowed(capabilities: &BTreeSet<String>) -> BTreeSet<&'static str> {
    let mut open = true;
    let mut names = BTreeSet::new();
    for line in CALLS.lines().filter(|line| !line.starts_with('#')) {
        match line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            Some(capability) => open = capabilities.contains(capability),
            None if open => names.extend(line.split_whitespace()),
            None => {}
        }
    }
    names
}

fn architectures() -> &'static [&'static str] {
    match std::env::consts::ARCH {
        "x86_64" => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64" => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_open_their_calls() {
        let none = allowed(&BTreeSet::new());
        assert!(none.contains("execve") && none.contains("futex"));
        for name in ["mount", "clone", "unshare", "chroot", "io_uring_setup", "keyctl", "reboot"] {
            assert!(!none.contains(name), "{name}");
        }
        let chroot = allowed(&BTreeSet::from(["CAP_SYS_CHROOT".to_owned()]));
        assert_eq!(chroot.difference(&none).collect::<Vec<_>>(), [&"chroot"]);
        let admin = allowed(&BTreeSet::from(["CAP_SYS_ADMIN".to_owned()]));
        assert!(admin.contains("mount") && admin.contains("clone3") && !admin.contains("reboot"));
    }
}
