//! The files that a container finds in `/etc` because of where it runs: hosts, resolv.conf, hostname.
//!
//! Generated under the container's directory and mounted over the image's own. They go with the container.

use std::fmt::Write;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::spec::{self, Bound};
use super::{ContainerConfig, Dns, Error};
use crate::dns;
use crate::resolv_conf::{Nameserver, ResolvConf};

const LOCALHOST: &str = "127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
";

/// Docker's word for no search domain, not even the node's.
const NO_DOMAIN: &str = ".";
const NDOTS: &str = "ndots:0";

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
        ("resolv.conf", resolv_conf(&config.dns, &node_resolv_conf()).to_string()),
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

/// What is not set is taken from the node. A name without dots is tried as it is, not first in each search domain: it
/// may well be a service's.
fn resolv_conf(dns: &Dns, node: &ResolvConf) -> ResolvConf {
    let search = if dns.search.is_empty() { &node.search } else { &dns.search };
    let options = if dns.options.is_empty() { &node.options } else { &dns.options };
    let own = (!options.iter().any(|option| option.starts_with("ndots:"))).then(|| NDOTS.to_owned());
    ResolvConf {
        nameservers: vec![Nameserver::from(IpAddr::from(dns::ADDRESS))],
        search: search.iter().filter(|domain| *domain != NO_DOMAIN).cloned().collect(),
        options: options.iter().cloned().chain(own).collect(),
    }
}

fn node_resolv_conf() -> ResolvConf {
    ResolvConf::parse(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::HostEntry;

    #[test]
    fn resolv_conf_from_settings_or_node() {
        let node = ResolvConf::parse(
            "nameserver 127.0.0.53\nnameserver 9.9.9.9\nsearch x\noptions rotate ndots:2\n",
        );
        let case = |search: &[&str], options: &[&str]| {
            let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
            resolv_conf(&Dns { search: owned(search), options: owned(options) }, &node).to_string()
        };
        assert_eq!(case(&[], &[]), "nameserver 127.0.0.11\nsearch x\noptions rotate ndots:2\n");
        let own = "nameserver 127.0.0.11\nsearch a.b c\noptions timeout:1 ndots:0\n";
        assert_eq!(case(&["a.b", "c"], &["timeout:1"]), own);
        assert_eq!(case(&["."], &["ndots:1"]), "nameserver 127.0.0.11\noptions ndots:1\n");
    }

    #[test]
    fn hosts_has_the_extra_lines_last() {
        let entry = HostEntry { address: "10.0.0.2".parse().unwrap(), names: vec!["a".into(), "b".into()] };
        let config = ContainerConfig { hosts: vec![entry], ..ContainerConfig::default() };
        assert!(hosts(&config).starts_with("127.0.0.1\tlocalhost\n"));
        assert!(hosts(&config).ends_with("\n10.0.0.2\ta b\n"));
    }
}
