//! The files that a container finds in `/etc` because of where it runs: hosts, resolv.conf, hostname.
//!
//! Generated under the container's directory and mounted over the image's own. They go with the container.

use std::fmt::Write;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::spec::{self, Bound};
use super::{ContainerConfig, Dns, Error};

const LOCALHOST: &str = "127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
";

/// Where the files of the container in `directory` lie. The directory exists as long as the container does.
pub(super) fn directory(container: &Path) -> PathBuf {
    container.join("etc")
}

/// Writes the files and says how to mount them.
pub(super) fn generate(container: &Path, config: &ContainerConfig) -> Result<Vec<Bound>, Error> {
    let directory = directory(container);
    std::fs::create_dir_all(&directory).map_err(Error::io("create", &directory))?;
    let files = [
        ("hosts", hosts(config)),
        ("resolv.conf", resolv_conf(&config.dns, &node_resolv_conf())),
        ("hostname", format!("{}\n", spec::hostname(config))),
    ];
    let access = if config.read_only { "ro" } else { "rw" };
    files
        .into_iter()
        .map(|(name, text)| {
            let source = directory.join(name);
            std::fs::write(&source, text).map_err(Error::io("write", &source))?;
            let options = vec!["rbind", "rprivate", access];
            Ok(Bound { target: Path::new("/etc").join(name), source, options })
        })
        .collect()
}

/// Removes what [`generate`] wrote.
pub(super) fn remove(container: &Path) -> Result<(), Error> {
    let directory = directory(container);
    match std::fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", directory)(error)),
        _ => Ok(()),
    }
}

fn hosts(config: &ContainerConfig) -> String {
    let mut text = LOCALHOST.to_owned();
    for entry in &config.hosts {
        let _ = writeln!(text, "{}\t{}", entry.address, entry.names.join(" "));
    }
    text
}

fn resolv_conf(dns: &Dns, node: &str) -> String {
    if *dns == Dns::default() {
        return without_loopback(node);
    }
    let mut text = String::new();
    for server in &dns.nameservers {
        let _ = writeln!(text, "nameserver {server}");
    }
    for (key, values) in [("search", &dns.search), ("options", &dns.options)] {
        if !values.is_empty() {
            let _ = writeln!(text, "{key} {}", values.join(" "));
        }
    }
    text
}

fn node_resolv_conf() -> String {
    std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()
}

/// A server on the node's loopback is another one, or none, inside the container.
fn without_loopback(text: &str) -> String {
    let loopback = |line: &str| {
        let mut words = line.split_whitespace();
        words.next() == Some("nameserver")
            && words
                .next()
                .and_then(|server| server.parse::<IpAddr>().ok())
                .is_some_and(|ip| ip.is_loopback())
    };
    text.lines().filter(|line| !loopback(line)).fold(String::new(), |text, line| text + line + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::HostEntry;

    #[test]
    fn resolv_conf_from_settings_or_node() {
        let dns = Dns {
            nameservers: vec!["127.0.0.11".parse().unwrap()],
            search: vec!["a.b".into(), "c".into()],
            options: vec!["ndots:0".into()],
        };
        assert_eq!(resolv_conf(&dns, "x"), "nameserver 127.0.0.11\nsearch a.b c\noptions ndots:0\n");
        let node = "nameserver 127.0.0.53\nnameserver 9.9.9.9\nsearch x\n";
        assert_eq!(resolv_conf(&Dns::default(), node), "nameserver 9.9.9.9\nsearch x\n");
    }

    #[test]
    fn hosts_has_the_extra_lines_last() {
        let entry = HostEntry { address: "10.0.0.2".parse().unwrap(), names: vec!["a".into(), "b".into()] };
        let config = ContainerConfig { hosts: vec![entry], ..ContainerConfig::default() };
        assert!(hosts(&config).starts_with("127.0.0.1\tlocalhost\n"));
        assert!(hosts(&config).ends_with("\n10.0.0.2\ta b\n"));
    }
}
