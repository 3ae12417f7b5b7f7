//! Which registries may be spoken to without TLS, or with a certificate that nobody vouches for.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::runtime::Error;

/// Entries of `--insecure-registry`: `host`, `host:port` or a CIDR block for registries named by address.
#[derive(Debug, Default)]
pub(super) struct Insecure {
    names: Vec<String>,
    blocks: Vec<IpNet>,
}

impl Insecure {
    pub(super) fn parse(entries: &[String]) -> Result<Self, Error> {
        let mut insecure = Self::default();
        for entry in entries {
            let entry = entry.trim();
            match entry.parse::<IpNet>() {
                Ok(block) => insecure.blocks.push(block),
                Err(_) if entry.is_empty() || entry.contains('/') => {
                    let reason = format!("{entry:?} is no host, host:port or CIDR block");
                    return Err(Error::config("insecure registry", reason));
                }
                Err(_) => insecure.names.push(entry.to_ascii_lowercase()),
            }
        }
        Ok(insecure)
    }

    /// `registry` as an image's name has it: `host` or `host:port`.
    pub(super) fn allows(&self, registry: &str) -> bool {
        let registry = registry.to_ascii_lowercase();
        let address = address(&registry);
        self.names.contains(&registry)
            || address.is_some_and(|address| self.blocks.iter().any(|block| block.contains(&address)))
    }
}

fn address(registry: &str) -> Option<IpAddr> {
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next()?,
        None => registry.split(':').next()?,
    };
    host.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_blocks() {
        let entries = ["reg.local:5000", "10.1.0.0/16", "Bare"].map(str::to_owned);
        let insecure = Insecure::parse(&entries).unwrap();
        for allowed in ["reg.local:5000", "10.1.2.3:5000", "10.1.2.3", "bare"] {
            assert!(insecure.allows(allowed), "{allowed}");
        }
        for refused in ["reg.local", "reg.local:5001", "10.2.0.1:5000", "docker.io"] {
            assert!(!insecure.allows(refused), "{refused}");
        }
        assert!(Insecure::parse(&["http://x".to_owned()]).is_err());
    }
}
